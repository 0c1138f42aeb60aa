"""Training of an autoencoder on images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from typing_extensions import override

from meanflow.codecs.autoencoder import Autoencoder
from meanflow.modules.data import TrainingData
from meanflow.modules.training import TrainingModule
from meanflow.objectives import Reconstruction
from meanflow.types import LatentBatch, LossOutput

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


class CodecModule(TrainingModule):
    """Trains diffusers' ``AutoencoderKL`` on a store of pixels (codec ``identity``).

    Args:
        arguments: Those of ``TrainingModule``. The objective is called ``(network, x, draws)``.

    Raises:
        ValueError: If the network is no autoencoder, or the objective does not train one.
    """

    objective: Reconstruction

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not (hasattr(self.network, "encode") and isinstance(self.objective, Reconstruction)):
            raise ValueError(
                "module=codec needs network=autoencoder_kl_small and objective=reconstruction, got the network "
                f"{type(self.network).__name__} and the objective {type(self.objective).__name__}; "
                "experiment=codec_fashion_mnist chooses all of them"
            )
        settings = cast(Mapping[str, object], self.autoencoder.config)
        self._configuration = {key: value for key, value in settings.items() if not key.startswith("_")}

    @property
    def autoencoder(self) -> Autoencoder:
        """The network, with the type of an autoencoder."""
        return cast(Autoencoder, self.network)

    @override
    def require_data(self, datamodule: TrainingData) -> None:
        found = datamodule.store.configuration
        if found.codec["name"] != "identity":
            raise ValueError(f"an autoencoder trains on pixels; the store holds latents of {found.codec}")
        if found.latent_shape[0] != self.autoencoder.config.in_channels:
            raise ValueError(
                f"network.in_channels must be the {found.latent_shape[0]} channels of the images, "
                f"got {self.autoencoder.config.in_channels}"
            )

    @override
    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        config = self.autoencoder.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        shape = (len(batch.mean), config.latent_channels, *(side // factor for side in batch.mean.shape[2:]))
        noise = self.objective.draw(shape, generator)
        return self.objective(cast("AutoencoderKL", self.network), batch.mean, noise.to(batch.mean))

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
