"""Training of an autoencoder on images."""

from __future__ import annotations

from typing import Any

import torch

from meanflow.modules.training import TrainingModule
from meanflow.types import LatentBatch, LossOutput


class CodecModule(TrainingModule):
    """Trains diffusers' ``AutoencoderKL`` on a store of pixels (codec ``identity``).

    Args:
        arguments: Those of ``TrainingModule``; the objective is called ``(network, x, draws)``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._configuration = {key: value for key, value in self.network.config.items() if not key.startswith("_")}

    def require_data(self, datamodule: Any) -> None:
        """Check that the data are images of the right kind.

        Raises:
            ValueError: If they are not.
        """
        found = datamodule.store.configuration
        if found.codec["name"] != "identity":
            raise ValueError(f"an autoencoder trains on pixels; the store holds latents of {found.codec}")
        if found.latent_shape[0] != self.network.config.in_channels:
            raise ValueError(
                f"network.in_channels must be the {found.latent_shape[0]} channels of the images, "
                f"got {self.network.config.in_channels}"
            )

    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        """Draw the noise of the posterior and call the objective."""
        config = self.network.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        shape = (len(batch.mean), config.latent_channels, *(side // factor for side in batch.mean.shape[2:]))
        noise = self.objective.draw(shape, generator)
        return self.objective(self.network, batch.mean, noise.to(batch.mean))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the network is."""
        checkpoint["autoencoder"] = self._configuration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint to resume is of this network.

        Raises:
            ValueError: If it is not.
        """
        if checkpoint.get("autoencoder") != self._configuration:
            raise ValueError("the checkpoint to resume is of another network")
