"""Training objectives: pure functions of (model, data, draws)."""

from meanflow.objectives.dmf import DecoupledMeanFlow, DMFDraws
from meanflow.objectives.flow_matching import FlowMatching, FlowMatchingDraws, alignment_loss, mean_squared_error
from meanflow.objectives.guidance import Distillation, ModelGuidance, NoGuidance
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.imf import IMFDraws, ImprovedMeanFlow
from meanflow.objectives.label_drop import IndependentLabelDrop, LeadingLabelDrop, drop_labels
from meanflow.objectives.reconstruction import Reconstruction
from meanflow.objectives.times import ArctanNormal, LogitNormal, OfficialArctanNormal, OrderedPair, PartlyEqualPair
from meanflow.objectives.weighting import AdaptiveWeight, AllPairsLogVariance, PerSampleLogVariance, Unweighted

__all__ = [
    "AdaptiveWeight",
    "AllPairsLogVariance",
    "ArctanNormal",
    "DMFDraws",
    "DecoupledMeanFlow",
    "Distillation",
    "FlowMatching",
    "FlowMatchingDraws",
    "IMFDraws",
    "ImprovedMeanFlow",
    "IndependentLabelDrop",
    "LeadingLabelDrop",
    "LogitNormal",
    "ModelGuidance",
    "NoGuidance",
    "OfficialArctanNormal",
    "OrderedPair",
    "PartlyEqualPair",
    "PerSampleLogVariance",
    "PowerLawScale",
    "Reconstruction",
    "UniformInterval",
    "Unweighted",
    "alignment_loss",
    "drop_labels",
    "mean_squared_error",
]
