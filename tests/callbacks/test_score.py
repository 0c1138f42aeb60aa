"""Scores while training."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from callbacks import EMA, BestCheckpoint, PeriodicScore
from meanflow.metrics.features import PixelFeatures
from meanflow.metrics.reference import ReferenceBuilder
from meanflow.metrics.reference_file import write_reference
from tests import tiny

MODULES = {"flow": tiny.flow_module, "dmf": tiny.dmf_module, "imf": tiny.imf_module}

pytestmark = [
    # 24 images in 16 dimensions are enough here, but not with fewer.
    pytest.mark.filterwarnings("ignore:fd_pixels from"),
    pytest.mark.filterwarnings("ignore:kid_pixels from subsets of"),
    # Several runs of a test share a folder.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def periodic(folder, protocol=None, **arguments):
    defaults = {"dirpath": folder / "samples", "every_n_train_steps": 2}
    return PeriodicScore(protocol or tiny.protocol(), {"pixels": PixelFeatures()}, **(defaults | arguments))


def test_logs_values_and_a_picture_and_keeps_the_best_checkpoint(store, tmp_path):
    best = BestCheckpoint(tmp_path)
    protocol = tiny.protocol(metrics=["fd_pixels", "kid_pixels", "precision_recall_pixels"])
    trainer = tiny.fit(
        tiny.dmf_module(),
        tiny.datamodule(store),
        tmp_path,
        callbacks=[EMA(0.9), periodic(tmp_path, protocol), best],
        max_steps=4,
        enable_checkpointing=True,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    assert trainer.callback_metrics["score/fd_pixels"] > 0
    assert 0 <= trainer.callback_metrics["score/precision_pixels"] <= 1
    assert (tmp_path / "best.ckpt").exists()
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("score/fd_pixels")
    step = rows[0].split(",").index("step")
    scored = [row.split(",") for row in rows[1:] if row.split(",")[column]]
    assert [row[step] for row in scored] == ["2", "4"]  # once each
    pictures = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert pictures == ["score_step_00000002.png", "score_step_00000004.png"]
    with Image.open(tmp_path / "samples" / pictures[0]) as picture:
        assert picture.size == (8 * 65, 3 * 65)  # 24 samples


@pytest.mark.parametrize("method", MODULES)
@pytest.mark.parametrize("ema", [True, False])
def test_scoring_does_not_change_training(method, ema, store, tmp_path):
    """With and without the callback, weights are the same bit for bit, and so are those that are averaged."""
    states = []
    for scored in (False, True):
        module, average = MODULES[method](), EMA(0.5)
        callbacks = [average] if ema else []
        if scored:
            protocol = tiny.protocol(metrics=["fd_pixels", "kid_pixels"])
            callbacks.append(periodic(tmp_path, protocol, every_n_train_steps=1, num_samples=8))
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=callbacks, max_steps=4)
        states.append(module.network.state_dict() | {f"average.{name}": x for name, x in average.average.items()})
    first, second = states
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_global_random_streams_are_left_alone(store, tmp_path):
    seen = []

    class Watched(PeriodicScore):
        def on_train_batch_end(self, *arguments):
            before = torch.get_rng_state()
            super().on_train_batch_end(*arguments)
            seen.append(torch.equal(before, torch.get_rng_state()))

    callback = Watched(tiny.protocol(), {"pixels": PixelFeatures()}, tmp_path, every_n_train_steps=1)
    tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=[callback], max_steps=2)
    assert seen == [True, True]


def test_scores_beside_a_file(store, tmp_path):
    builder = ReferenceBuilder([PixelFeatures()])
    builder.update(torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator()), range(64))
    write_reference(builder.compute(), tmp_path / "reference.npz")
    protocol = tiny.protocol(reference=str(tmp_path / "reference.npz"))
    callback = periodic(tmp_path, protocol, num_samples=20)
    trainer = tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=[callback], max_steps=2)
    assert trainer.callback_metrics["score/fd_pixels"] > 0


def test_a_missing_reference_stops_the_run_before_it_starts(store, tmp_path):
    protocol = tiny.protocol(
        reference=str(tmp_path / "nothing.npz"), reference_origin="https://example.org/nothing.npz"
    )
    with pytest.raises(FileNotFoundError, match=r"nothing.npz; it comes from https://example.org/nothing.npz"):
        tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=[periodic(tmp_path, protocol)])


def test_number_of_samples_out_of_range(store, tmp_path):
    with pytest.raises(ValueError, match="num_samples must be from 4 to the 24 data, got 3"):
        tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=[periodic(tmp_path, num_samples=3)])


def test_interval_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="every_n_train_steps must be at least 1, got 0"):
        periodic(tmp_path, every_n_train_steps=0)
