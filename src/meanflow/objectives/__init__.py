"""Training objectives: pure functions of (model, data, draws)."""

from meanflow.objectives.dmf import DecoupledMeanFlow, DMFDraws
from meanflow.objectives.flow_matching import FlowMatching, FlowMatchingDraws, alignment_loss, mean_squared_error
from meanflow.objectives.label_dropping import drop_labels

__all__ = [
    "DMFDraws",
    "DecoupledMeanFlow",
    "FlowMatching",
    "FlowMatchingDraws",
    "alignment_loss",
    "drop_labels",
    "mean_squared_error",
]
