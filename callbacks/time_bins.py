"""Losses and derivatives in bins of the time t, which show where a run becomes unstable before it fails."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.every_n_steps import EveryNSteps
from meanflow.files.atomic import atomic_file
from meanflow.types import AtTimes

# The usual value of a bin is the median of the last 20 intervals. With fewer than 5 intervals there is no usual value.
NUM_USUAL, NUM_USUAL_AT_LEAST = 20, 5
# Columns of the picture, at most. In a longer run, a column shows the largest value of several intervals.
MAX_COLUMNS = 500


class TimeBins(EveryNSteps):
    """Means of the objective's ``by_t`` values in bins of t, over all samples of all ranks since the last interval.

    Logs ``<name>_by_t/<from>-<to>``, for example ``u_loss_by_t/0.90-1.00`` or ``du_dt_norm_by_t/0.90-1.00``, for each
    bin of t that has a sample. Logs ``train/num_spikes``: the number of these values that are not finite or exceed
    ``spike_factor`` times the usual value, the median of the 20 intervals before. A line names the worst of them.
    ``by_t.png`` shows the whole run. The history continues when a run is resumed.

    Between intervals all values stay on the device, and the host does not wait for it. This callback must come before
    ``StopOnNonFiniteLoss``, so that it names the bin before that callback ends the run.

    Args:
        dirpath: Folder of the picture.
        every_n_train_steps: Interval in optimizer steps.
        num_bins: Number of bins of equal width in [0, 1].
        spike_factor: Multiple of the usual value, above 1, from which on a value counts as a spike. The factor is low,
            because a mean over an interval dilutes a bad step. In the first 600 steps of ``quickstart_imf`` no mean was
            above 1.9 times the usual one.
        plot_every_n_train_steps: Interval of the picture. The picture is also written when training ends or fails.

    Raises:
        ValueError: If an argument is out of range.

    Attributes:
        names: Names of the values.
        steps: Optimizer steps of the intervals so far, int64 ``(S,)``.
        means: Their means, float32 ``(S, len(names), num_bins)``. NaN stands for a bin without a sample, infinity for a
            mean that is not finite.
    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int = 50,
        num_bins: int = 10,
        spike_factor: float = 3.0,
        plot_every_n_train_steps: int = 1000,
    ) -> None:
        super().__init__(every_n_train_steps)
        if not 1 <= num_bins <= 100:
            raise ValueError(f"num_bins must be from 1 to 100, got {num_bins}: names of bins have two decimals")
        if plot_every_n_train_steps < 1:
            raise ValueError(f"plot_every_n_train_steps must be at least 1, got {plot_every_n_train_steps}")
        if spike_factor <= 1:
            raise ValueError(f"spike_factor must be above 1, got {spike_factor}")
        self.dirpath = Path(dirpath)
        self.num_bins = num_bins
        self.spike_factor = spike_factor
        self.plot_every_n_train_steps = plot_every_n_train_steps
        self.names: list[str] = []
        self.steps = torch.zeros(0, dtype=torch.int64)
        self.means = torch.zeros(0, 0, num_bins)
        self._sums: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint. A history with another number of bins has another name."""
        return self._generate_state_key(num_bins=self.num_bins)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the samples of the batch."""
        self.add(outputs["by_t"])
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def add(self, by_t: dict[str, AtTimes]) -> None:
        """Add the samples of a batch, without waiting for the device."""
        for name, samples in by_t.items():
            sums = sums_by_bin(samples, self.num_bins)
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def on_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log every ``every_n_train_steps`` steps, and plot every ``plot_every_n_train_steps`` steps."""
        super().on_step(trainer, pl_module)
        if trainer.global_step % self.plot_every_n_train_steps == 0:
            self._plot(trainer)

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means, and name the worst spike."""
        if self._sums:
            self._report(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plot the whole run."""
        self._plot(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Plot the history so far. The plot needs neither the device nor other ranks, which may have failed."""
        self._plot(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the history. A resumed run begins the interrupted interval again."""
        return {"names": self.names, "steps": self.steps, "means": self.means}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        self.names, self.steps, self.means = (state_dict[key] for key in ("names", "steps", "means"))

    def _report(self, trainer: Trainer) -> None:
        """Merge the ranks, log, compare with the usual values and extend the history. The host waits for the device."""
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
        # pl_module.log would repeat the last value of a bin in intervals in which the bin is empty.
        for logger in trainer.loggers:
            logger.log_metrics({**values, "train/num_spikes": int(spikes.sum())}, trainer.global_step)
        if trainer.is_global_zero and spikes.any():
            print(self._warning(trainer.global_step, means, usual, spikes), flush=True)
        self.steps = torch.cat([self.steps, torch.tensor([trainer.global_step])])
        self.means = torch.cat([self.means.reshape(-1, *means.shape), means[None]])

    def _interval(self, index: int) -> str:
        return f"{index / self.num_bins:.2f}-{(index + 1) / self.num_bins:.2f}"

    def _warning(self, step: int, means: Tensor, usual: Tensor, spikes: Tensor) -> str:
        """Name the worst bin: one that is not finite, or the one furthest above its usual value."""
        excess = (means / usual).nan_to_num(math.inf).masked_fill(~spikes, 0)
        row, index = divmod(int(excess.argmax()), self.num_bins)
        value, expected, more = means[row, index], usual[row, index], int(spikes.sum()) - 1
        line = f"warning: step {step}: {self.names[row]} at t in {self._interval(index)} is "
        line += f"{value:.4g}" if value.isfinite() else "not finite"
        line += "" if expected.isnan() else f", usually {expected:.4g}"
        line += f"; {more} more bins too" if more else ""
        return f"{line}; see {self.dirpath / 'by_t.png'}"

    def _plot(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and len(self.steps):
            self.dirpath.mkdir(parents=True, exist_ok=True)
            plot(self.dirpath / "by_t.png", self.names, self.steps.numpy(), self.means.numpy())


def sums_by_bin(samples: AtTimes, num_bins: int) -> Tensor:
    """Return sum and number of the values in each bin of t, float64 ``(num_bins, 2)``, on the device of the values.

    Bins are closed below and open above; the last bin is closed on both sides. A time outside of [0, 1] counts in the
    nearest bin. A value that is not finite affects its own bin only.
    """
    index = (samples.t * num_bins).long().clamp(0, num_bins - 1)
    values = torch.stack([samples.value, torch.ones_like(samples.value)], dim=1).double()
    return values.new_zeros(num_bins, 2).index_add_(0, index, values)


def means_of_sums(sums: Tensor) -> Tensor:
    """Return float32 means ``(...)`` of sums and numbers ``(..., 2)``.

    NaN stands for the mean of no values, infinity for a mean that is not finite.
    """
    total, number = sums.unbind(-1)
    return (total / number).nan_to_num(math.inf, math.inf, math.inf).masked_fill(number == 0, math.nan).float()


def usual_values(means: Tensor) -> Tensor:
    """Return the median of the last 20 intervals of a history ``(S, ...)``; NaN if fewer than five values are finite.

    A spike in one interval changes the median only a little. A lasting new level becomes the median.
    """
    if not len(means):
        return means.new_full(means.shape[1:], math.nan)
    recent = means[-NUM_USUAL:]
    recent = recent.masked_fill(recent.isinf(), math.nan)
    return recent.nanmedian(0).values.masked_fill((~recent.isnan()).sum(0) < NUM_USUAL_AT_LEAST, math.nan)


def plot(path: Path, names: list[str], steps: np.ndarray, means: np.ndarray) -> None:
    """Write a map of each value over step and t as a PNG, in logarithmic colors. Red marks a value that is not finite.

    Args:
        path: File to write.
        names: Names of the values.
        steps: Ends of the intervals ``(S,)``.
        means: Means ``(S, len(names), num_bins)`` as in ``TimeBins``.
    """
    from matplotlib import colormaps  # imported here, because the import takes a second
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    first = np.arange(0, len(steps), math.ceil(len(steps) / MAX_COLUMNS))
    means = np.fmax.reduceat(means, first, axis=0)  # fmax passes over NaN
    edges = np.concatenate([[0], steps[first[1:] - 1], steps[-1:]])
    figure = Figure(figsize=(9, 0.6 + 2.0 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for panel, name, values in zip(panels, names, means.transpose(1, 2, 0), strict=True):
        shown = values[np.isfinite(values) & (values > 0)]
        # The colors begin at the 2nd percentile. du_dt of a new network is nearly zero, and colors down to the minimum
        # would leave few colors for all other values.
        low, high = (np.percentile(shown, 2), shown.max()) if shown.size else (1.0, 1.0)
        values = np.where(np.isinf(values), 10.0 * high, values).clip(low)
        colors = panel.pcolormesh(
            edges,
            np.linspace(0, 1, values.shape[0] + 1),
            np.ma.masked_invalid(values),
            norm=LogNorm(low, 1.001 * max(high, low)),  # rounding must not put the largest value beyond the end
            cmap=colormaps["viridis"].with_extremes(over="red", bad="lightgrey"),
        )
        panel.set(title=name, ylabel="t")
        figure.colorbar(colors, ax=panel, pad=0.01)
    panels[-1].set_xlabel("optimizer step")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
