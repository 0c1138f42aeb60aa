"""Training of the network of a pipeline: latents in, a flow or a flow map out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from meanflow.compilation import CompiledObjective, compile_blocks, compile_blocks_to_shard
from meanflow.configuration import constructor_default, differences
from meanflow.models import NetworkModule
from meanflow.modules.agreement import require_agreement
from meanflow.modules.data import TrainingData
from meanflow.modules.sharding import is_sharded, reshard, shard
from meanflow.modules.training import TrainingModule
from meanflow.objectives import Distillation
from meanflow.pipeline import Pipeline
from meanflow.types import LatentBatch, LossOutput, Objective


class GenerativeModule(TrainingModule):
    """Trains the network of a pipeline.

    Args:
        pipeline: Network, codec, normalization and default sampler.
        objective: The objective that trains the network.
        compile: The part that ``torch.compile`` compiles: nothing (``None``), each block of the network (``"blocks"``,
            ready in less than a minute), or the whole step from draws to losses as one graph (``"step"``, which takes
            many minutes for large networks).
        arguments: Optimizer, schedule and seed, as in ``TrainingModule``.

    Raises:
        ValueError: If ``compile`` has another value, or network, objective and sampler do not fit together.
    """

    network: NetworkModule
    objective: Objective

    def __init__(self, pipeline: Pipeline, objective: Objective, compile: str | None = None, **arguments: Any) -> None:
        super().__init__(pipeline.network, objective, **arguments)
        if compile not in (None, "blocks", "step"):
            raise ValueError(f"module.compile must be null, blocks or step, got {compile!r}")
        require_agreement(pipeline.network, objective, pipeline.sampler)
        self.pipeline = pipeline
        self.compile_mode = compile
        self.run_objective: Callable[..., LossOutput] = objective
        # Taken now, because a sharded network has another class.
        self.pipeline_config = pipeline.config

    def frozen_networks(self) -> list[nn.Module]:
        """Return the networks that take part in the loss and are not trained, averaged or saved: a teacher."""
        guidance = getattr(self.objective, "guidance", None)
        teacher = guidance.teacher if isinstance(guidance, Distillation) else None
        return [teacher] if isinstance(teacher, nn.Module) else []

    @override
    def require_data(self, datamodule: TrainingData) -> None:
        datamodule.require_pipeline(self.pipeline)

    def setup(self, stage: str) -> None:
        """Compile the part that ``compile`` names.

        Raises:
            ValueError: If a whole step is to be compiled while the network is to be sharded.
        """
        if stage != "fit":
            return
        if self.compile_mode == "blocks":
            (compile_blocks if self.device_mesh is None else compile_blocks_to_shard)(self.network)
            for network in self.frozen_networks():
                compile_blocks(network)
        if self.compile_mode == "step":
            if self.device_mesh is not None:
                raise ValueError("module.compile=step is one graph, which trainer=fsdp would break; use blocks")
            self.run_objective = CompiledObjective(self.objective)

    def configure_model(self) -> None:
        """Shard the network, if the strategy is fully sharded."""
        if self.device_mesh is not None and not is_sharded(self.network):
            shard(self.network, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Bring frozen networks to the device."""
        for network in self.frozen_networks():
            network.to(self.device)

    @override
    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        x = batch.sample(generator)
        return self.run_objective(self.network, x, batch.y, self.objective.draw(x.shape, generator))

    def on_after_backward(self) -> None:
        """Drop the parameters that a sharded network gathered for the step."""
        reshard(self.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the configuration of the pipeline: the file can be opened without the configuration of the run."""
        checkpoint["pipeline"] = self.pipeline_config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint to resume is of this network.

        Raises:
            ValueError: If it is of another network; the message lists the settings that differ.
        """
        if "pipeline" not in checkpoint:
            raise ValueError("the checkpoint to resume is not of a training run of this project")
        saved, own = (config["network"] for config in (checkpoint["pipeline"], self.pipeline_config))
        if saved["name"] != own["name"]:  # the arguments of two classes cannot be compared
            saved, own = ({"name": config["name"]} for config in (saved, own))
        constructor = type(self.pipeline.network)
        listed = [
            f"{key}: {before!r} instead of {now!r}"
            for key, before, now in differences(saved, own, lambda key: constructor_default(constructor, key))
        ]
        if listed:
            raise ValueError(f"the checkpoint to resume is of another network: {'; '.join(listed)}")
