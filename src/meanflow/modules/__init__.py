"""Lightning modules."""

from meanflow.modules.base import GenerativeModule
from meanflow.modules.dmf import DMFModule
from meanflow.modules.flow import FlowModule
from meanflow.modules.fsdp import FullyShardedStrategy
from meanflow.modules.imf import IMFModule

__all__ = ["DMFModule", "FlowModule", "FullyShardedStrategy", "GenerativeModule", "IMFModule"]
