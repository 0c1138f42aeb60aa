"""Access to the parts of a training run with their types. Lightning's ``Trainer`` does not declare the types."""

from __future__ import annotations

from typing import TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules import LatentDataModule
from meanflow.modules import GenerativeModule
from meanflow.modules.training import TrainingModule

C = TypeVar("C", bound=Callback)


def training_module(module: LightningModule) -> TrainingModule:
    """Return the module as a ``TrainingModule``.

    Raises:
        ValueError: If the module has another type.
    """
    if not isinstance(module, TrainingModule):
        raise ValueError(f"this callback needs a TrainingModule, got {type(module).__name__}")
    return module


def generative_module(module: LightningModule) -> GenerativeModule:
    """Return the module as a ``GenerativeModule``.

    Raises:
        ValueError: If the module has another type.
    """
    if not isinstance(module, GenerativeModule):
        raise ValueError(f"this callback needs a module that trains a pipeline, got {type(module).__name__}")
    return module


def data_module(trainer: Trainer) -> LatentDataModule:
    """Return the data module of the trainer as a ``LatentDataModule``.

    Raises:
        ValueError: If the data module has another type, or there is none.
    """
    found: object = getattr(trainer, "datamodule", None)
    if not isinstance(found, LatentDataModule):
        raise ValueError(f"this callback needs a LatentDataModule, got {type(found).__name__}")
    return found


def find_callback(trainer: Trainer, kind: type[C]) -> C | None:
    """Return the first callback of the trainer that has this type, or ``None``."""
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)
