"""Flow pretraining, Decoupled MeanFlow and few-step sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meanflow.checkpoints import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import ``load`` when it is first asked for: ``import meanflow`` alone is instant."""
    if name == "load":
        from meanflow.checkpoints import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
