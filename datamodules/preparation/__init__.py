"""From images to a latent store (``prepare.py task=latents``) and to reference statistics (``task=stats``)."""

from datamodules.preparation.latents.run import prepare_latents
from datamodules.preparation.statistics.run import prepare_statistics

__all__ = ["prepare_latents", "prepare_statistics"]
