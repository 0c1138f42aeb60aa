"""Losses and derivatives by time while training: where a run becomes unstable, before it fails."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from meanflow.files.atomic import atomic_file
from meanflow.types import AtTimes

# A bin's usual value is the median of so many intervals before; with fewer than the second number it has none.
NUM_USUAL, NUM_USUAL_AT_LEAST = 20, 5
# Columns of the picture, at most: what is longer is drawn by the largest values.
MAX_COLUMNS = 500


class TimeBins(Callback):
    """Means of what the objective returns by time, over all samples of all ranks since the last interval.

    Logs ``<name>_by_t/<from>-<to>``, for example ``u_loss_by_t/0.90-1.00`` or ``du_dt_norm_by_t/0.90-1.00``, for each
    bin of t that saw a sample, and ``train/num_spikes``: how many of these values are not finite or exceed
    ``spike_factor`` times what is usual, the median of the 20 intervals before. One line names the worst of them.
    ``by_t.png`` shows the whole run; the history goes on when a run is resumed.

    Between intervals everything stays on the device, and the host does not wait for it. To name the bin before
    ``StopOnNonFiniteLoss`` ends a run, this callback must come first.

    Args:
        dirpath: Folder of the picture.
        every_n_train_steps: Interval in optimizer steps.
        num_bins: Number of bins of equal width in [0, 1].
        spike_factor: What is reported, as a multiple of the usual value, above 1. Low, because a mean over an interval
            dilutes a bad step; in the first 600 steps of ``quickstart_imf`` no mean was above 1.9 times the usual one.
        draw_every_n_train_steps: Interval of the picture; it is also drawn when training ends or fails.

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        names: What is binned.
        steps: Optimizer steps of the intervals so far, int64 ``(S,)``.
        means: Their means, float32 ``(S, len(names), num_bins)``; NaN without a sample, infinite if not finite.
    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int = 50,
        num_bins: int = 10,
        spike_factor: float = 3.0,
        draw_every_n_train_steps: int = 1000,
    ) -> None:
        if min(every_n_train_steps, num_bins, draw_every_n_train_steps) < 1:
            raise ValueError(
                "every_n_train_steps, num_bins and draw_every_n_train_steps must be at least 1, "
                f"got {every_n_train_steps}, {num_bins}, {draw_every_n_train_steps}"
            )
        if num_bins > 100:
            raise ValueError(f"num_bins must be at most 100, got {num_bins}: names have two decimals")
        if spike_factor <= 1:
            raise ValueError(f"spike_factor must be above 1, got {spike_factor}")
        self.dirpath = Path(dirpath)
        self.every_n_train_steps = every_n_train_steps
        self.num_bins = num_bins
        self.spike_factor = spike_factor
        self.draw_every_n_train_steps = draw_every_n_train_steps
        self.names: list[str] = []
        self.steps = torch.zeros(0, dtype=torch.int64)
        self.means = torch.zeros(0, 0, num_bins)
        self._sums: dict[str, Tensor] = {}
        self._last_step = 0

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint: a history with other bins is another one."""
        return self._generate_state_key(num_bins=self.num_bins)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step that the run starts or resumes at."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the batch; report and draw at the intervals."""
        self.add(outputs["by_t"])
        step = trainer.global_step
        if step == self._last_step:  # gradients are being accumulated
            return
        self._last_step = step
        if step % self.every_n_train_steps == 0 and self._sums:
            self._report(trainer)
        if step % self.draw_every_n_train_steps == 0:
            self._draw(trainer)

    def add(self, by_t: dict[str, AtTimes]) -> None:
        """Take in the samples of a batch, without waiting for the device."""
        for name, samples in by_t.items():
            sums = sums_by_bin(samples, self.num_bins)
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the whole run."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what is there; the device and the other ranks may be gone."""
        self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the history; the interval that a checkpoint interrupts begins anew."""
        return {"names": self.names, "steps": self.steps, "means": self.means}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        self.names, self.steps, self.means = (state_dict[key] for key in ("names", "steps", "means"))

    def _report(self, trainer: Trainer) -> None:
        """Merge the ranks, log, compare with what is usual and remember; the host waits for the device."""
        own = torch.stack(list(self._sums.values()))
        means = means_of_sums(trainer.strategy.reduce(own, reduce_op="sum").cpu())
        self.names, self._sums = list(self._sums), {}
        usual = usual_values(self.means.reshape(-1, *means.shape))
        spikes = means.isinf() | (means > self.spike_factor * usual)
        values = {
            f"{name}_by_t/{self._interval(index)}": float(mean)
            for name, row in zip(self.names, means, strict=True)
            for index, mean in enumerate(row)
            if not mean.isnan()
        }
        # Not through the module, which would log the last value of a bin again when the bin is empty.
        for logger in trainer.loggers:
            logger.log_metrics({**values, "train/num_spikes": int(spikes.sum())}, trainer.global_step)
        if trainer.is_global_zero and spikes.any():
            print(self._warning(trainer.global_step, means, usual, spikes), flush=True)
        self.steps = torch.cat([self.steps, torch.tensor([trainer.global_step])])
        self.means = torch.cat([self.means.reshape(-1, *means.shape), means[None]])

    def _interval(self, index: int) -> str:
        return f"{index / self.num_bins:.2f}-{(index + 1) / self.num_bins:.2f}"

    def _warning(self, step: int, means: Tensor, usual: Tensor, spikes: Tensor) -> str:
        """Name the worst bin: one that is not finite, or the one furthest above what is usual."""
        excess = (means / usual).nan_to_num(math.inf).masked_fill(~spikes, 0)
        row, index = divmod(int(excess.argmax()), self.num_bins)
        value, expected, more = means[row, index], usual[row, index], int(spikes.sum()) - 1
        line = f"warning: step {step}: {self.names[row]} at t in {self._interval(index)} is "
        line += f"{value:.4g}" if value.isfinite() else "not finite"
        line += "" if expected.isnan() else f", usually {expected:.4g}"
        line += f"; {more} more bins too" if more else ""
        return f"{line}; see {self.dirpath / 'by_t.png'}"

    def _draw(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and len(self.steps):
            self.dirpath.mkdir(parents=True, exist_ok=True)
            draw(self.dirpath / "by_t.png", self.names, self.steps.numpy(), self.means.numpy())


def sums_by_bin(samples: AtTimes, num_bins: int) -> Tensor:
    """Return sum and number of the values in each bin of t, float64 ``(num_bins, 2)``, on their device.

    Bins are closed below and open above, the last one closed; times outside of [0, 1] count in the nearest one. A value
    that is not finite spoils its own bin alone.
    """
    index = (samples.t * num_bins).long().clamp(0, num_bins - 1)
    values = torch.stack([samples.value, torch.ones_like(samples.value)], dim=1).double()
    return values.new_zeros(num_bins, 2).index_add_(0, index, values)


def means_of_sums(sums: Tensor) -> Tensor:
    """Return float32 means ``(...)`` of sums and numbers ``(..., 2)``.

    NaN stands for the mean of nothing, infinity for one that is not finite.
    """
    total, number = sums.unbind(-1)
    return (total / number).nan_to_num(math.inf, math.inf, math.inf).masked_fill(number == 0, math.nan).float()


def usual_values(means: Tensor) -> Tensor:
    """Return the median of the last intervals of a history ``(S, ...)``; NaN where fewer than five are finite.

    A median, because the spike of an interval must not hide the next one, and a level that stays becomes usual.
    """
    if not len(means):
        return means.new_full(means.shape[1:], math.nan)
    recent = means[-NUM_USUAL:]
    recent = recent.masked_fill(recent.isinf(), math.nan)
    return recent.nanmedian(0).values.masked_fill((~recent.isnan()).sum(0) < NUM_USUAL_AT_LEAST, math.nan)


def draw(path: Path, names: list[str], steps: np.ndarray, means: np.ndarray) -> None:
    """Write a PNG with a map of each quantity over step and t, in logarithmic colours; red is not finite.

    Args:
        path: Where to.
        names: Of the quantities.
        steps: Ends of the intervals ``(S,)``.
        means: ``(S, len(names), num_bins)`` as in ``TimeBins``.
    """
    from matplotlib import colormaps  # imported here: it takes a second
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    first = np.arange(0, len(steps), math.ceil(len(steps) / MAX_COLUMNS))
    means = np.fmax.reduceat(means, first, axis=0)  # fmax passes over NaN
    edges = np.concatenate([[0], steps[first[1:] - 1], steps[-1:]])
    figure = Figure(figsize=(9, 0.6 + 2.0 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for panel, name, values in zip(panels, names, means.transpose(1, 2, 0), strict=True):
        shown = values[np.isfinite(values) & (values > 0)]
        # A percentile, because du_dt of a new network is next to nothing, which would take up most of the colours.
        low, high = (np.percentile(shown, 2), shown.max()) if shown.size else (1.0, 1.0)
        values = np.where(np.isinf(values), 10.0 * high, values).clip(low)
        colours = panel.pcolormesh(
            edges,
            np.linspace(0, 1, values.shape[0] + 1),
            np.ma.masked_invalid(values),
            norm=LogNorm(low, 1.001 * max(high, low)),  # the largest value must not round to beyond the end
            cmap=colormaps["viridis"].with_extremes(over="red", bad="lightgrey"),
        )
        panel.set(title=name, ylabel="t")
        figure.colorbar(colours, ax=panel, pad=0.01)
    panels[-1].set_xlabel("optimizer step")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
