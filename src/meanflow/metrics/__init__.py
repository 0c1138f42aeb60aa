"""Metrics of generated images."""

from meanflow.metrics.frechet import FrechetDistance, frechet_distance
from meanflow.metrics.reference import read_reference
from meanflow.metrics.statistics import FeatureStatistics, Gaussian

__all__ = ["FeatureStatistics", "FrechetDistance", "Gaussian", "frechet_distance", "read_reference"]
