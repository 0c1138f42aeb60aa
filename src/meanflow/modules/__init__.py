"""Lightning modules."""

from meanflow.modules.base import GenerativeModule
from meanflow.modules.dmf import DMFModule
from meanflow.modules.flow import FlowModule

__all__ = ["DMFModule", "FlowModule", "GenerativeModule"]
