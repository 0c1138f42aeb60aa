"""The benchmark of evaluation: scores of images in memory, and scores of images in files."""

import pytest
import torch

from benchmarks import evaluate
from benchmarks.evaluate import Comparison, compare

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore:fd_pixels from .* images in")
def test_both_ways_arrive_at_the_same_distance_and_are_timed(monkeypatch):
    build = evaluate.DMFTransformer
    monkeypatch.setattr(evaluate, "DMFTransformer", lambda **arguments: build(**arguments | {"patch_size": 8}))
    monkeypatch.setattr(evaluate, "SIZE", 16)
    comparison = Comparison("pixels", num_images=20, batch_size=8, device=CPU)
    row = compare(comparison, rounds=1, device=CPU)
    ratio = row["stream_images_per_second"] / row["files_images_per_second"]
    assert row["speedup"] == pytest.approx(ratio)


def test_ways_that_disagree_are_an_error(monkeypatch):
    monkeypatch.setattr(Comparison, "__init__", lambda self: None)
    monkeypatch.setattr(Comparison, "distance", lambda self, way: float(len(way.__name__)))
    with pytest.raises(AssertionError, match="the two ways disagree"):
        compare(Comparison(), rounds=1, device=CPU)
