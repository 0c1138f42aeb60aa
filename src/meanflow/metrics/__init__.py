"""Metrics of generated images."""

from meanflow.metrics.catalogue import METRICS, build_metrics
from meanflow.metrics.frechet import FrechetDistance, frechet_distance
from meanflow.metrics.image_metric import ImageMetric
from meanflow.metrics.inception_score import InceptionScore, MeanAndDeviation, inception_score
from meanflow.metrics.kernel_distance import KernelDistance, kernel_distances
from meanflow.metrics.precision_recall import PrecisionAndRecall, PrecisionRecall, precision_and_recall
from meanflow.metrics.reference import Reference, ReferenceBuilder
from meanflow.metrics.reference_file import read_reference, write_reference
from meanflow.metrics.requirements import require_same_weights
from meanflow.metrics.statistics import FeatureStatistics, Gaussian

__all__ = [
    "METRICS",
    "FeatureStatistics",
    "FrechetDistance",
    "Gaussian",
    "ImageMetric",
    "InceptionScore",
    "KernelDistance",
    "MeanAndDeviation",
    "PrecisionAndRecall",
    "PrecisionRecall",
    "Reference",
    "ReferenceBuilder",
    "build_metrics",
    "frechet_distance",
    "inception_score",
    "kernel_distances",
    "precision_and_recall",
    "read_reference",
    "require_same_weights",
    "write_reference",
]
