"""The metrics of generated images, by name.

==================  =================================  =================================  ==========  ================
metric              values                             features                           range       better
==================  =================================  =================================  ==========  ================
fid                 fid                                inception, pooled                  [0, ∞)      lower
sfid                sfid                               inception, spatial                 [0, ∞)      lower
is                  is_mean, is_std                    inception, class logits            [1, K]      higher, neither
kid                 kid, kid_std                       inception, pooled                  about >= 0  lower, neither
precision_recall    precision, recall                  inception, pooled                  [0, 1]      higher
fd_X                fd_X                               X, pooled                          [0, ∞)      lower
kid_X               kid_X, kid_X_std                   X, pooled                          about >= 0  lower, neither
precision_recall_X  precision_X, recall_X              X, pooled                          [0, 1]      higher
==================  =================================  =================================  ==========  ================

``X`` is ``dinov2``, ``efficientnet_lite0`` or ``pixels``. Fréchet distances have the squared unit of the features. Some
papers multiply KID by 1,000; this project does not. The inception score is a number of classes, at most K. Precision
and recall are shares. KID, precision and recall need a reference that keeps features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from meanflow.metrics.frechet import FrechetDistance
from meanflow.metrics.image_metric import ImageMetric
from meanflow.metrics.inception_score import InceptionScore
from meanflow.metrics.kernel_distance import KernelDistance
from meanflow.metrics.precision_recall import PrecisionRecall


def _metrics_of(extractor: str) -> dict[str, Callable[[], ImageMetric]]:
    return {
        f"fd_{extractor}": partial(FrechetDistance, f"fd_{extractor}", extractor),
        f"kid_{extractor}": partial(KernelDistance, extractor, f"kid_{extractor}"),
        f"precision_recall_{extractor}": partial(PrecisionRecall, extractor, f"_{extractor}"),
    }


METRICS: Mapping[str, Callable[[], ImageMetric]] = {
    "fid": partial(FrechetDistance, "fid", "inception"),
    "sfid": partial(FrechetDistance, "sfid", "inception", "spatial"),
    "is": InceptionScore,
    "kid": partial(KernelDistance, "inception"),
    "precision_recall": partial(PrecisionRecall, "inception"),
    **_metrics_of("dinov2"),
    **_metrics_of("efficientnet_lite0"),
    **_metrics_of("pixels"),
}


def build_metrics(names: Sequence[str]) -> list[ImageMetric]:
    """Build the metrics of these names, in this order.

    Raises:
        ValueError: If a name is unknown or comes twice.
    """
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metrics must be among {list(METRICS)}, got {name!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"every metric counts once, got {list(names)}")
    return [METRICS[name]() for name in names]
