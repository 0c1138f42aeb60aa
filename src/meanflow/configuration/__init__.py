"""The plain values that a run is configured with: whether constructors take them, and when two runs are the same."""

from meanflow.configuration.arguments import constructor_arguments, constructor_default, require_arguments
from meanflow.configuration.same_run import differences, require_same_settings

__all__ = [
    "constructor_arguments",
    "constructor_default",
    "differences",
    "require_arguments",
    "require_same_settings",
]
