"""Training of an autoencoder on images."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from meanflow.modules.data import TrainingData
from meanflow.modules.training import TrainingModule
from meanflow.objectives import Reconstruction
from meanflow.types import LatentBatch, LossOutput


class CodecModule(TrainingModule):
    """Trains diffusers' ``AutoencoderKL`` on a store of pixels (codec ``identity``).

    Args:
        arguments: Those of ``TrainingModule``. The objective is called ``(network, x, draws)``.

    Raises:
        ValueError: If the network is no autoencoder, or the objective does not train one.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not (hasattr(self.network, "encode") and isinstance(self.objective, Reconstruction)):
            raise ValueError(
                "module=codec needs network=autoencoder_kl_small and objective=reconstruction, got the network "
                f"{type(self.network).__name__} and the objective {type(self.objective).__name__}; "
                "experiment=codec_fashion_mnist chooses all of them"
            )
        self._configuration = {key: value for key, value in self.network.config.items() if not key.startswith("_")}

    @override
    def require_data(self, datamodule: TrainingData) -> None:
        found = datamodule.store.configuration
        if found.codec["name"] != "identity":
            raise ValueError(f"an autoencoder trains on pixels; the store holds latents of {found.codec}")
        if found.latent_shape[0] != self.network.config.in_channels:
            raise ValueError(
                f"network.in_channels must be the {found.latent_shape[0]} channels of the images, "
                f"got {self.network.config.in_channels}"
            )

    @override
    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        config = self.network.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        shape = (len(batch.mean), config.latent_channels, *(side // factor for side in batch.mean.shape[2:]))
        noise = self.objective.draw(shape, generator)
        return self.objective(self.network, batch.mean, noise.to(batch.mean))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the configuration of the network."""
        checkpoint["autoencoder"] = self._configuration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint to resume is of this network.

        Raises:
            ValueError: If it is of another network.
        """
        if checkpoint.get("autoencoder") != self._configuration:
            raise ValueError("the checkpoint to resume is of another network")
