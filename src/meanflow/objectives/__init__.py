"""Training objectives: pure functions of (model, data, draws)."""

from meanflow.objectives.dmf import DecoupledMeanFlow, DMFDraws
from meanflow.objectives.flow_matching import FlowMatching, FlowMatchingDraws, alignment_loss, mean_squared_error
from meanflow.objectives.imf import IMFDraws, ImprovedMeanFlow
from meanflow.objectives.label_dropping import IndependentLabelDrop, LeadingLabelDrop, drop_labels
from meanflow.objectives.reconstruction import Reconstruction

__all__ = [
    "DMFDraws",
    "DecoupledMeanFlow",
    "FlowMatching",
    "FlowMatchingDraws",
    "IMFDraws",
    "ImprovedMeanFlow",
    "IndependentLabelDrop",
    "LeadingLabelDrop",
    "Reconstruction",
    "alignment_loss",
    "drop_labels",
    "mean_squared_error",
]
