"""Scores of a trained model, or of given images, under a named protocol."""

from meanflow.evaluation.labels import BalancedLabels, DataLabels, LabelOrder, RandomLabels
from meanflow.evaluation.protocol import Protocol

__all__ = ["BalancedLabels", "DataLabels", "LabelOrder", "Protocol", "RandomLabels"]
