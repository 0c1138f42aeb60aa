"""Preparation by ``prepare.py``: stores of latents, reference statistics, stores from official data sets."""

from datamodules.preparation.latents.run import prepare_latents
from datamodules.preparation.statistics.run import prepare_statistics

__all__ = ["prepare_latents", "prepare_statistics"]
