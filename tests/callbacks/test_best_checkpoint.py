"""The best checkpoint follows the headline value of the score, in its direction, over a resume."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import BestCheckpoint, PeriodicScore
from meanflow.evaluation.run import Evaluator, Row
from meanflow.metrics.features import PixelFeatures
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

PRECISION = ["precision_recall_pixels", "fd_pixels"]
DISTANCE = ["fd_pixels", "precision_recall_pixels"]


def periodic(folder, metrics):
    return PeriodicScore(tiny.protocol(metrics=metrics), {"pixels": PixelFeatures()}, folder / "samples", 1)


@pytest.fixture
def give(monkeypatch):
    """A function that sets the headline values of the following scores."""

    def given(*values):
        remaining = iter(values)

        def score(self, pipeline, sampler, outputs=()):
            for output in outputs:
                output.add(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), range(4))
                output.finish()
            return Row({self.scorer.headline: next(remaining)}, None, None, 1.0, 1.0)

        monkeypatch.setattr(Evaluator, "score", score)

    return given


def fit(store, folder, callbacks, steps, resume=None):
    trainer = tiny.trainer(folder, callbacks=callbacks, max_steps=steps, enable_checkpointing=True)
    trainer.fit(tiny.flow_module(), datamodule=tiny.datamodule(store), ckpt_path=resume)
    return trainer


def step_of_best(folder):
    return torch.load(folder / "best.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("metrics", "headline", "values", "best"),
    [
        (PRECISION, "precision_pixels", (0.2, 0.9, 0.5), 0.9),
        (DISTANCE, "fd_pixels", (3.0, 1.0, 2.0), 1.0),
        (DISTANCE, "fd_pixels", (3.0, 1.0, float("nan")), 1.0),
    ],
)
def test_follows_the_headline_value_in_its_direction(store, tmp_path, give, metrics, headline, values, best):
    give(*values)
    score = periodic(tmp_path, metrics)
    assert score.best is None
    trainer = fit(store, tmp_path, [BestCheckpoint(tmp_path), score], steps=3)
    assert score.headline == headline
    assert f"score/{headline}" in trainer.callback_metrics
    assert score.best == best
    assert step_of_best(tmp_path) == 2


def test_scores_that_are_really_computed_keep_a_checkpoint(store, tmp_path):
    fit(store, tmp_path, [periodic(tmp_path, PRECISION), BestCheckpoint(tmp_path)], steps=1)
    assert step_of_best(tmp_path) == 1


@pytest.mark.parametrize("first", ["ours", "lightning"])
def test_a_resumed_run_remembers_the_best_value(store, tmp_path, give, first):
    """Also of a run whose best checkpoint Lightning's own class had kept, as earlier versions did."""
    give(1.0, 3.0)
    best = BestCheckpoint(tmp_path)
    if first == "lightning":
        best = ModelCheckpoint(tmp_path, "best", "score/fd_pixels", every_n_train_steps=1, enable_version_counter=False)
    fit(store, tmp_path, [periodic(tmp_path, DISTANCE), best], steps=2).save_checkpoint(tmp_path / "last.ckpt")
    give(2.0)
    score = periodic(tmp_path, DISTANCE)
    fit(store, tmp_path, [score, BestCheckpoint(tmp_path)], steps=3, resume=tmp_path / "last.ckpt")
    assert step_of_best(tmp_path) == 1
    assert score.best == 1.0
    give(0.5)
    fit(store, tmp_path, [score, BestCheckpoint(tmp_path)], steps=3, resume=tmp_path / "last.ckpt")
    assert step_of_best(tmp_path) == 3
    assert score.best == 0.5


def test_scores_that_cannot_be_compared_have_states_of_their_own(tmp_path):
    assert periodic(tmp_path, DISTANCE).state_key != periodic(tmp_path, PRECISION).state_key


def test_without_a_score_it_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"callbacks.score is null: set callbacks.best=null too"):
        fit(store, tmp_path, [BestCheckpoint(tmp_path)], steps=1)
