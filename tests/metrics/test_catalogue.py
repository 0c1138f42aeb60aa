import pytest

from meanflow.metrics import build_metrics
from tests.metrics import every_metric


def test_names_of_values():
    names = {"fid", "sfid", "is_mean", "is_std", "kid", "kid_std", "precision", "recall"}
    for extractor in ("dinov2", "efficientnet_lite0", "pixels"):
        names |= {f"fd_{extractor}", f"kid_{extractor}", f"kid_{extractor}_std"}
        names |= {f"precision_{extractor}", f"recall_{extractor}"}
    found = every_metric.values([range(every_metric.NUM_IMAGES)], every_metric.reference())
    assert found.keys() == names
    assert all(isinstance(value, float) for value in found.values())


def test_order_and_direction():
    fid, score, shares, kid = build_metrics(["fid", "is", "precision_recall_dinov2", "kid"])
    assert [m.extractor for m in (fid, score, shares, kid)] == ["inception", "inception", "dinov2", "inception"]
    assert [m.needs_features for m in (fid, score, shares, kid)] == [False, False, True, True]
    assert fid.higher_is_better == {"fid": False}
    assert score.higher_is_better == {"is_mean": True, "is_std": None}
    assert shares.higher_is_better == {"precision_dinov2": True, "recall_dinov2": True}
    assert kid.higher_is_better == {"kid": False, "kid_std": None}


def test_unknown_and_repeated_names():
    with pytest.raises(ValueError, match=r"metrics must be among \['fid', 'sfid', .*, got 'fid_dinov2'"):
        build_metrics(["fid", "fid_dinov2"])
    with pytest.raises(ValueError, match=r"every metric counts once, got \['fid', 'is', 'fid'\]"):
        build_metrics(["fid", "is", "fid"])
