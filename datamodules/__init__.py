"""Latent stores and their Lightning data modules."""

from datamodules.digits import DigitsDataModule
from datamodules.latents import LatentDataModule
from datamodules.store import LatentStore
from datamodules.writer import LatentStoreWriter

__all__ = ["DigitsDataModule", "LatentDataModule", "LatentStore", "LatentStoreWriter"]
