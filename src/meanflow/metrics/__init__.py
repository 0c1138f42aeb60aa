"""Metrics of generated images."""

from meanflow.metrics.frechet import FrechetDistance, frechet_distance
from meanflow.metrics.inception_score import InceptionScore, MeanAndDeviation, inception_score
from meanflow.metrics.reference import Reference, ReferenceBuilder
from meanflow.metrics.reference_file import read_reference, write_reference
from meanflow.metrics.statistics import FeatureStatistics, Gaussian

__all__ = [
    "FeatureStatistics",
    "FrechetDistance",
    "Gaussian",
    "InceptionScore",
    "MeanAndDeviation",
    "Reference",
    "ReferenceBuilder",
    "frechet_distance",
    "inception_score",
    "read_reference",
    "write_reference",
]
