"""A run that is interrupted and resumed, however often, sees the batches of the uninterrupted run."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from datamodules.latents import LatentDataModule
from tests.datamodules.small_store import write_counter

NUM_SAMPLES, BATCH_SIZE, NUM_STEPS = 11, 2, 17
STEPS_PER_EPOCH = NUM_SAMPLES // BATCH_SIZE

pytestmark = [
    # The continuations write no checkpoints.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
    # The tests write several checkpoints into one folder, on purpose.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Recorder(LightningModule):
    """Records the samples of each training step, and whether each was flipped."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[float]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.mean[:, 0, 0, 0].tolist())
        return self.weight * batch.mean.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Interrupt(Callback):
    """Dies after a batch was fetched and before it is trained on. Writes a checkpoint to a given path first."""

    def __init__(self, step: int, checkpoint: Path | None = None) -> None:
        self.step = step
        self.checkpoint = checkpoint

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            if self.checkpoint is not None:
                trainer.save_checkpoint(self.checkpoint)
            raise KilledError


class KilledError(Exception):
    pass


def datamodule(path: Path, num_workers: int = 0, **kwargs) -> LatentDataModule:
    return LatentDataModule(path, BATCH_SIZE, num_workers, horizontal_flip=True, seed=5, **kwargs)


def fit(path: Path, callbacks: list[Callback], resume: Path | None = None, num_workers: int = 0, **limits):
    limits = limits or {"max_steps": NUM_STEPS}
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=limits.pop("max_epochs", -1),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **limits,
    )
    with suppress(KilledError):
        trainer.fit(module, datamodule=datamodule(path, num_workers), ckpt_path=resume, weights_only=True)
    return module.seen


def every_steps(folder: Path, steps: int) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=steps, save_top_k=-1)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    write_counter(path, NUM_SAMPLES)
    return path


@pytest.fixture(scope="module")
def uninterrupted(store) -> list[list[float]]:
    return fit(store, [])


def test_an_epoch_has_no_repeats_and_the_next_one_another_order(uninterrupted):
    epochs = [uninterrupted[i : i + STEPS_PER_EPOCH] for i in range(0, 3 * STEPS_PER_EPOCH, STEPS_PER_EPOCH)]
    for epoch in epochs:
        assert len({abs(sample) for batch in epoch for sample in batch}) == STEPS_PER_EPOCH * BATCH_SIZE
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(uninterrupted) == NUM_STEPS


@pytest.mark.parametrize("every", [1, 3])
def test_resume_after_every_step(store, uninterrupted, tmp_path, every):
    assert fit(store, [every_steps(tmp_path, every)]) == uninterrupted
    for step in range(every, NUM_STEPS, every):
        assert fit(store, [], tmp_path / f"step={step}.ckpt") == uninterrupted[step:]


def test_resume_again_and_again(store, uninterrupted, tmp_path):
    # Every run is killed in the third step after its last checkpoint; boundaries of epochs fall everywhere.
    seen, resume = [], None
    for start in range(0, NUM_STEPS, 2):
        run = fit(store, [every_steps(tmp_path, 2), Interrupt(start + 3)], resume)
        assert run == uninterrupted[start : start + 3]
        seen += run[:2]
        resume = tmp_path / f"step={start + 2}.ckpt"
    assert seen[:NUM_STEPS] == uninterrupted


@pytest.mark.parametrize("limits", [{"max_steps": NUM_STEPS}, {"max_epochs": 3}])
def test_resume_from_the_end_of_an_epoch(store, uninterrupted, tmp_path, limits):
    callback = ModelCheckpoint(tmp_path, filename="{step}", save_on_train_epoch_end=True, save_top_k=-1)
    whole = fit(store, [callback], **limits)
    assert whole == uninterrupted[: len(whole)]
    for step in (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH):
        assert fit(store, [], tmp_path / f"step={step}.ckpt", **limits) == whole[step:]


def test_resume_by_epochs_again_and_again(store, uninterrupted, tmp_path):
    resume = None
    for start in range(3 * STEPS_PER_EPOCH):
        run = fit(store, [every_steps(tmp_path, 1), Interrupt(start + 1)], resume, max_epochs=3)
        assert run == uninterrupted[start : start + 1]
        resume = tmp_path / f"step={start + 1}.ckpt"


@pytest.mark.parametrize("step", [3, STEPS_PER_EPOCH])
def test_resume_between_fetching_and_training(store, uninterrupted, tmp_path, step):
    fit(store, [Interrupt(step, tmp_path / "first.ckpt")])
    fit(store, [Interrupt(step + 3, tmp_path / "second.ckpt")], tmp_path / "first.ckpt")
    assert fit(store, [], tmp_path / "first.ckpt") == uninterrupted[step:]
    assert fit(store, [], tmp_path / "second.ckpt") == uninterrupted[step + 3 :]


def test_resume_with_workers(store, uninterrupted, tmp_path):
    assert fit(store, [every_steps(tmp_path, 1)], num_workers=2) == uninterrupted
    for step in (3, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1):
        assert fit(store, [], tmp_path / f"step={step}.ckpt", num_workers=2) == uninterrupted[step:]


def test_resume_in_another_order_is_refused(store, tmp_path):
    fit(store, [every_steps(tmp_path, 3)], max_steps=3)
    other = LatentDataModule(store, BATCH_SIZE + 1, horizontal_flip=True, seed=5)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=9
    )
    with pytest.raises(ValueError, match="batch_size must stay 2 to resume this checkpoint, got 3"):
        trainer.fit(Recorder(), datamodule=other, ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)
