"""From images to a latent store: ``prepare.py task=latents``."""

from datamodules.preparation.latents import prepare_latents

__all__ = ["prepare_latents"]
