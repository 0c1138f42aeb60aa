"""Lightning modules."""

from meanflow.modules.base import GenerativeModule
from meanflow.modules.codec import CodecModule
from meanflow.modules.dmf import DMFModule
from meanflow.modules.flow import FlowModule
from meanflow.modules.imf import IMFModule

__all__ = ["CodecModule", "DMFModule", "FlowModule", "GenerativeModule", "IMFModule"]
