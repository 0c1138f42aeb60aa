"""Work every n steps counts each optimizer step once, also with accumulated gradients and in a resumed run."""

import pytest

from callbacks.every_n_steps import EveryNSteps, is_last_step
from tests import tiny


class Recorder(EveryNSteps):
    """Keeps the steps at which the hooks are called."""

    def __init__(self, every_n_train_steps):
        super().__init__(every_n_train_steps)
        self.steps, self.intervals, self.last = [], [], []

    def on_step(self, trainer, pl_module):
        self.steps.append(trainer.global_step)
        if is_last_step(trainer):
            self.last.append(trainer.global_step)
        super().on_step(trainer, pl_module)

    def on_interval(self, trainer, pl_module):
        self.intervals.append(trainer.global_step)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_counts_once(store, tmp_path, accumulate):
    recorder = Recorder(2)
    tiny.fit(
        tiny.flow_module(),
        tiny.datamodule(store),
        tmp_path,
        callbacks=[recorder],
        max_steps=5,
        accumulate_grad_batches=accumulate,
    )
    assert recorder.steps == [1, 2, 3, 4, 5]
    assert recorder.intervals == [2, 4]
    assert recorder.last == [5]


def test_the_last_step_of_the_last_epoch_is_the_last_one(store, tmp_path):
    recorder = Recorder(4)
    data = tiny.datamodule(store)  # three batches in an epoch
    tiny.fit(tiny.flow_module(), data, tmp_path, callbacks=[recorder], max_steps=-1, max_epochs=2)
    assert recorder.steps == [1, 2, 3, 4, 5, 6]
    assert recorder.intervals == [4]
    assert recorder.last == [6]


def test_the_step_that_a_run_resumes_at_does_not_count_again(store, tmp_path):
    first = tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=[Recorder(2)], max_steps=2)
    first.save_checkpoint(tmp_path / "2.ckpt")
    recorder = Recorder(2)
    trainer = tiny.trainer(tmp_path, max_steps=5, callbacks=[recorder])
    trainer.fit(tiny.flow_module(), datamodule=tiny.datamodule(store), ckpt_path=tmp_path / "2.ckpt")
    assert recorder.steps == [3, 4, 5]
    assert recorder.intervals == [4]


def test_interval_out_of_range():
    with pytest.raises(ValueError, match="every_n_train_steps must be at least 1, got 0"):
        EveryNSteps(0)
