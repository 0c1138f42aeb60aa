"""Scoring in a stream and by way of files."""

import torch

from benchmarks.evaluate import Comparison, compare

CPU = torch.device("cpu")


def test_both_ways_arrive_at_the_same_distance_and_their_speeds_are_compared(monkeypatch):
    small = {"input_size": 16, "patch_size": 8}
    from benchmarks import evaluate

    build = evaluate.DMFTransformer
    monkeypatch.setattr(evaluate, "DMFTransformer", lambda **arguments: build(**arguments | small))
    monkeypatch.setattr(evaluate, "SIZE", 16)
    comparison = Comparison("pixels", num_images=900, batch_size=300, device=CPU)
    row = compare(comparison, rounds=1, device=CPU)
    assert row["speedup"] == row["stream_images_per_second"] / row["files_images_per_second"] > 1
