"""Protocols, and the protocols in conf/protocol."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from meanflow.evaluation.labels import BalancedLabels, DataLabels, RandomLabels
from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.scorer import Scorer
from meanflow.metrics.features import FEATURES

CONF = Path(__file__).parents[2] / "conf"


def protocol(name: str) -> Protocol:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("evaluate", overrides=[f"protocol={name}"]).protocol)


# What each publication does: labels, what becomes of 0.5 gray levels, samples.
PUBLISHED = {
    "adm": (RandomLabels, 100, {"fid", "sfid", "is", "precision_recall"}),
    "edm2": (RandomLabels, 100, {"fid", "fd_dinov2"}),
    "jit": (BalancedLabels, 101, {"fid", "is"}),
    "imf": (BalancedLabels, 101, {"fid", "is"}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name):
    labels, level, metrics = PUBLISHED[name]
    found = protocol(name)
    assert (found.name, found.num_samples) == (name, 50_000)
    assert isinstance(found.labels, labels)
    assert set(found.metrics) == metrics
    assert found.reference
    assert found.reference_origin
    # 100.7 gray levels
    assert found.quantize(torch.tensor(100.7 / 127.5 - 1)) == level


def test_rounding_at_a_tie_is_what_separates_jit_and_imf():
    tie = torch.tensor(100.5 / 127.5 - 1, dtype=torch.float64)
    assert protocol("jit").quantize(tie) == 100
    assert protocol("imf").quantize(tie) == 101


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "protocol").glob("*.yaml")))
def test_every_protocol_can_be_scored(name):
    scorer = Scorer(protocol(name).metrics, {name: extractor() for name, extractor in FEATURES.items()})
    assert not scorer.higher_is_better  # a distance ranks samplers, checkpoints too


def test_config_is_plain_and_tells_where_the_reference_is():
    record = protocol("adm").config
    assert record["labels"] == {"name": "RandomLabels", "seed": 0}
    assert record["rounding"] == "truncate"
    assert record["reference"].endswith("VIRTUAL_imagenet256_labeled.npz")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"rounding": "floor"},
            r"protocol.rounding must be one of \['round', .*\], got 'floor'",
        ),
        ({"num_samples": 1}, "protocol.num_samples must be at least 2, got 1"),
        ({"metrics": []}, "protocol.metrics must name at least one"),
    ],
)
def test_bad_values(changed, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**{"name": "x", "metrics": ["fid"], "labels": DataLabels(), "rounding": "round"} | changed)
