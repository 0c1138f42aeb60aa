"""Losses by time: closed forms of the bins and of the usual values, then whole runs."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from callbacks import StopOnNonFiniteLoss, TimeBins
from callbacks.finite_loss import NonFiniteLossError
from callbacks.time_bins import MAX_COLUMNS, means_of_sums, plot, sums_by_bin, usual_values
from meanflow.modules import base
from meanflow.types import AtTimes
from tests import tiny

NAN, INF = math.nan, math.inf


# --- Closed forms -----------------------------------------------------------------------------------------------------


def test_bins_are_closed_below_and_the_last_one_closed():
    t = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.75, 1.0, -0.3])  # the official cosine times may be negative
    sums = sums_by_bin(AtTimes(t, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])), 4)
    assert sums.tolist() == [[67, 3], [4, 1], [8, 1], [48, 2]]
    assert sums.dtype == torch.float64


def test_bins_of_no_samples_are_empty():
    assert not sums_by_bin(AtTimes(torch.zeros(0), torch.zeros(0)), 3).any()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_value_spoils_its_own_bin_alone(bad):
    sums = sums_by_bin(AtTimes(torch.tensor([0.1, 0.9, 0.95]), torch.tensor([3.0, bad, 1.0])), 3)
    assert means_of_sums(sums).tolist() == [3.0, pytest.approx(NAN, nan_ok=True), INF]


def test_taking_in_a_batch_never_reads_a_value():
    """Tensors without values raise wherever the host would have to wait for a device."""
    callback = TimeBins("nowhere")
    with FakeTensorMode():
        for _ in range(2):
            callback.add({name: AtTimes(torch.rand(8), torch.rand(8)) for name in ("u_loss", "v_loss")})
    assert [sums.shape for sums in callback._sums.values()] == [(10, 2), (10, 2)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_taking_in_a_batch_never_waits_for_the_device():
    callback = TimeBins("nowhere")
    batch = {"u_loss": AtTimes(torch.rand(8, device="cuda"), torch.rand(8, device="cuda"))}
    callback.add(batch)  # the first call may load kernels and wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        callback.add(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert callback._sums["u_loss"].sum(0)[1] == 16


def test_usual_is_the_median_of_the_last_twenty_finite_values():
    assert usual_values(torch.zeros(0, 2)).isnan().all()
    history = torch.arange(30.0).repeat(4, 1).T.clone()
    history[:, 1] = torch.tensor([NAN] * 26 + [1.0] * 4)  # too few
    history[-1, 2] = INF  # 10 to 28
    history[-5:, 3] = 1e9  # a spike of five intervals hides nothing
    usual = usual_values(history)
    assert usual[[0, 2, 3]].tolist() == [19, 19, 19]
    assert usual[1].isnan()


def test_a_spike_has_no_usual_value_at_the_start():
    assert usual_values(torch.ones(4, 1)).isnan()
    assert usual_values(torch.ones(5, 1)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_bins": 0}, "num_bins must be from 1 to 100, got 0"),
        ({"every_n_train_steps": 0}, "every_n_train_steps must be at least 1, got 0"),
        ({"plot_every_n_train_steps": 0}, "plot_every_n_train_steps must be at least 1, got 0"),
        ({"num_bins": 101}, "num_bins must be from 1 to 100, got 101"),
        ({"spike_factor": 1.0}, r"spike_factor must be above 1, got 1\.0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeBins("nowhere", **arguments)


# --- The picture ------------------------------------------------------------------------------------------------------


def red_pixels(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int(((pixels[..., 0] > 230) & (pixels[..., 1:] < 20).all(-1)).sum())


@pytest.mark.parametrize("num_steps", [1, 7, 3 * MAX_COLUMNS + 1])
def test_picture_of_short_and_long_runs_with_gaps_and_infinities(tmp_path, num_steps):
    means = np.random.default_rng(0).uniform(1, 2, (num_steps, 2, 4)).astype(np.float32)
    means[0, 0] = [0, np.nan, np.inf, 1]
    means[:, 1] = 0  # as du_dt of a new network
    plot(tmp_path / "by_t.png", ["a", "b"], np.arange(1, num_steps + 1), means)
    picture = np.asarray(Image.open(tmp_path / "by_t.png").convert("RGB")).reshape(-1, 3)
    if num_steps <= MAX_COLUMNS:
        assert (picture == [211, 211, 211]).all(1).any()  # no sample
    assert red_pixels(tmp_path / "by_t.png")  # not finite, however many intervals a column has


def test_red_is_what_is_not_finite_and_nothing_else(tmp_path):
    """The largest value of a panel is the end of its colors, and must not round to beyond it."""
    largest = np.float32([42.7581, 1.1, 0.7, 3.3333333, 1e-3, 97.3, 12.34567])
    for number, value in enumerate(largest):
        means = np.full((20, 1, 10), value / 9, dtype=np.float32)
        means[11, 0, 3] = value
        plot(tmp_path / f"{number}.png", ["a"], np.arange(1, 21), means)
        assert red_pixels(tmp_path / f"{number}.png") == 0, value
    means[12, 0, 3] = np.inf
    plot(tmp_path / "spike.png", ["a"], np.arange(1, 21), means)
    assert red_pixels(tmp_path / "spike.png") > 100


# --- Runs -------------------------------------------------------------------------------------------------------------


class Recorder(Callback):
    """Keeps the samples of every batch."""

    def __init__(self):
        self.samples = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.samples.append(outputs["by_t"])


class Log(DummyLogger):
    """Keeps what the callback logs, by step."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step=None):
        if "train/num_spikes" in metrics:
            self.rows[step] = metrics


@pytest.mark.parametrize("accumulate", [1, 2])
def test_logs_the_means_of_all_samples_since_the_last_interval(store, tmp_path, accumulate):
    recorder, log, bins = Recorder(), Log(), TimeBins(tmp_path, every_n_train_steps=2, num_bins=4)
    tiny.fit(
        tiny.imf_module(),
        tiny.datamodule(store, batch_size=12),  # two batches in an epoch
        tmp_path,
        callbacks=[bins, recorder],
        logger=log,
        max_steps=4,
        accumulate_grad_batches=accumulate,
    )
    assert bins.steps.tolist() == [2, 4]
    assert bins.means.shape == (2, 3, 4)
    batches = 2 * accumulate
    assert log.rows.keys() == {2, 4}
    for interval, row in enumerate(log.rows.values()):
        seen = recorder.samples[batches * interval : batches * (interval + 1)]
        expected = {"train/num_spikes": 0}
        for name in ("u_loss", "v_loss", "du_dt_norm"):
            t, value = (torch.cat(parts) for parts in zip(*(by_t[name] for by_t in seen), strict=True))
            for index, place in enumerate(("0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00")):
                if (inside := (t >= index / 4) & (t < (index + 1) / 4)).any():
                    expected[f"{name}_by_t/{place}"] = float(value[inside].mean())
        assert row == pytest.approx(expected, rel=1e-5)
    if accumulate == 1:  # so few samples that some bins have none, and are not logged
        assert min(len(row) for row in log.rows.values()) < 1 + 3 * 4


@pytest.mark.parametrize(
    "make",
    [
        tiny.flow_module,
        tiny.dmf_module,
        tiny.imf_module,
        pytest.param(partial(tiny.dmf_module, compile="step"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_binning_does_not_change_training(store, tmp_path, make, monkeypatch):
    # Machine code takes long to make; this stops before that.
    monkeypatch.setattr(base, "CompiledObjective", partial(base.CompiledObjective, backend="eager"))
    modules = [make(), make()]
    for module, callbacks in zip(modules, ([], [TimeBins(tmp_path, every_n_train_steps=1)]), strict=True):
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=callbacks, max_steps=3)
    a, b = (module.network.state_dict() for module in modules)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_resumed_run_continues_the_history(store, tmp_path):
    whole, half, resumed = (TimeBins(tmp_path, every_n_train_steps=2) for _ in range(3))
    tiny.fit(tiny.dmf_module(), tiny.datamodule(store), tmp_path, callbacks=[whole], max_steps=4)
    first = tiny.fit(tiny.dmf_module(), tiny.datamodule(store), tmp_path, callbacks=[half], max_steps=2)
    first.save_checkpoint(tmp_path / "2.ckpt")
    trainer = tiny.trainer(tmp_path, max_steps=4, callbacks=[resumed])
    trainer.fit(tiny.dmf_module(), datamodule=tiny.datamodule(store), ckpt_path=tmp_path / "2.ckpt")
    assert resumed.names == whole.names == ["fm_loss", "mf_loss", "du_dt_norm"]
    assert torch.equal(resumed.steps, whole.steps)
    torch.testing.assert_close(resumed.means, whole.means, equal_nan=True, rtol=0, atol=0)
    assert whole.state_key != TimeBins(tmp_path, num_bins=3).state_key  # another history


class Jump(Callback):
    """Multiplies the weights of the last layer before a step."""

    def __init__(self, step, factor):
        self.step, self.factor = step, factor

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step + 1 == self.step:
            module.network.final_layer.linear.weight.data *= self.factor


def test_a_jump_is_reported_in_one_line(store, tmp_path, capsys):
    log, bins = Log(), TimeBins(tmp_path, every_n_train_steps=1, num_bins=1)
    callbacks = [Jump(8, 100.0), bins]
    tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=callbacks, logger=log, max_steps=8)
    usual, value = float(bins.means[2:7].median()), float(bins.means[7])
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"warning: step 8: fm_loss at t in 0.00-1.00 is {value:.4g}, usually {usual:.4g}; see {tmp_path / 'by_t.png'}"
    )
    assert [row["train/num_spikes"] for row in log.rows.values()] == [0] * 7 + [1]


def test_the_bin_is_named_before_the_run_stops(store, tmp_path, capsys):
    callbacks = [Jump(1, NAN), TimeBins(tmp_path, 1, num_bins=2), StopOnNonFiniteLoss(tmp_path)]
    with pytest.raises(NonFiniteLossError):
        tiny.fit(tiny.dmf_module(), tiny.datamodule(store), tmp_path, callbacks=callbacks)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: step 1: fm_loss at t in 0.00-0.50 is not finite; 5 more bins too; see ")
    assert (tmp_path / "by_t.png").exists()  # written although the run failed


def test_an_objective_without_times_is_left_alone(tmp_path):
    bins = TimeBins(tmp_path)
    bins.add({})
    assert not bins._sums
