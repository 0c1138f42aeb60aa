"""Lightning modules."""

from meanflow.modules.base import GenerativeModule
from meanflow.modules.codec import CodecModule
from meanflow.modules.flow import FlowModule
from meanflow.modules.fsdp import FullyShardedStrategy
from meanflow.modules.training import TrainingModule

__all__ = [
    "CodecModule",
    "FlowModule",
    "FullyShardedStrategy",
    "GenerativeModule",
    "TrainingModule",
]
