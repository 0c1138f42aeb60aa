"""Training of the network of a pipeline: latents in, a flow or a flow map out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from meanflow.modules.training import TrainingModule
from meanflow.pipeline import Pipeline
from meanflow.types import LatentBatch, LossOutput

# Settings of a network or an optimizer that change how something is computed, not what.
RUNTIME_SETTINGS = ("attention", "activation_checkpointing", "fused")


class GenerativeModule(TrainingModule):
    """Trains the network of a pipeline.

    Args:
        pipeline: Network, codec, normalisation and default sampler.
        objective: Objective with ``draw(shape, generator)``, called ``(network, x, y, draws)``.
        arguments: Optimizer, schedule, seed and compile, as in ``TrainingModule``.
    """

    def __init__(self, pipeline: Pipeline, objective: Any, **arguments: Any) -> None:
        super().__init__(pipeline.network, objective, **arguments)
        self.pipeline = pipeline

    def frozen_networks(self) -> list[nn.Module]:
        """Return networks that take part in the loss but are not trained, averaged or saved."""
        return []

    def require_data(self, datamodule: Any) -> None:
        """Check that a data module has the latents that the pipeline is made for.

        Raises:
            ValueError: If it has not.
        """
        datamodule.require_pipeline(self.pipeline)

    def shared_parts(self) -> list[Any]:
        """Return objective, pipeline and frozen networks (a teacher, an encoder)."""
        return [*super().shared_parts(), self.pipeline, *self.frozen_networks()]

    def on_fit_start(self) -> None:
        """Bring frozen networks to the device."""
        for network in self.frozen_networks():
            network.to(self.device)

    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        """Draw latents and random numbers from the generator and call the objective."""
        x = batch.sample(generator)
        return self.objective(self.network, x, batch.y, self.objective.draw(x.shape, generator))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the network is, so that the file can be opened without the run's configuration."""
        checkpoint["pipeline"] = self.pipeline.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint to resume is of this network.

        Raises:
            ValueError: If it is not; the settings that differ are listed.
        """
        if "pipeline" not in checkpoint:
            raise ValueError("the checkpoint to resume is not of a training run of this project")
        saved, own = (config["network"] for config in (checkpoint["pipeline"], self.pipeline.config))
        differences = [
            f"{key}: {saved.get(key)!r} instead of {own.get(key)!r}"
            for key in own | saved
            if saved.get(key) != own.get(key) and key not in RUNTIME_SETTINGS
        ]
        if differences:
            raise ValueError(f"the checkpoint to resume is of another network: {'; '.join(differences)}")
