"""Fully sharded training with ordinary checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from meanflow.modules.sharding import divided_like, whole_on_cpu

# The content of a checkpoint, or a state dict in it: tensors, numbers and strings in nested containers.
Content = dict[str, Any]

# Weights, optimizer state and average stay float32.
PRECISIONS = ("32-true", "bf16-mixed")


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks, with the checkpoints of a single process.

    The module's ``configure_model`` shards the network. A checkpoint is one file with whole tensors, written by rank 0
    through the trainer's ``CheckpointIO`` and read by every rank, so that a run can go on under another strategy or
    with another number of ranks, and ``meanflow.load`` opens it. Lightning's own strategy writes around the
    ``CheckpointIO``, and what it has read no longer holds the weights, which averaging needs.

    Args:
        arguments: ``process_group_backend`` and ``timeout`` of ``ModelParallelStrategy``.

    Raises:
        ValueError: When training begins, if the trainer's precision is none of ``PRECISIONS``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **arguments)

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def setup_environment(self) -> None:
        precision = self.precision_plugin.precision
        if precision not in PRECISIONS:
            raise ValueError(f"trainer.precision must be one of {', '.join(PRECISIONS)} under FSDP, got {precision}")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @override
    def lightning_module_state_dict(self) -> Content:
        return ParallelStrategy.lightning_module_state_dict(self)

    @override
    def optimizer_state(self, optimizer: Optimizer) -> Content:
        return ParallelStrategy.optimizer_state(self, optimizer)

    @override
    def save_checkpoint(self, checkpoint: Content, filepath: str | Path, storage_options: object = None) -> None:
        content = whole_on_cpu(checkpoint, keep=self.is_global_zero)
        ParallelStrategy.save_checkpoint(self, content, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> Content:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        saved = checkpoint["state_dict"]
        parts = {name: divided_like(value, own[name]) if name in own else value for name, value in saved.items()}
        self.lightning_module.load_state_dict(parts, strict=strict)

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = [
            divided_optimizer_state(state, optimizer)
            for state, optimizer in zip(checkpoint["optimizer_states"], self.optimizers, strict=True)
        ]
        ParallelStrategy.load_optimizer_state_dict(self, {"optimizer_states": states})


def divided_optimizer_state(state_dict: Mapping[str, Any], optimizer: Optimizer) -> Content:
    """Return a state dict of whole tensors, where each tensor of the shape of its parameter is divided like it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def divided(value: object, parameter: Tensor) -> object:
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            return divided_like(value, parameter)
        return value  # a step count

    # State is kept under the parameter's number, in the order of the groups.
    return {
        **state_dict,
        "state": {
            number: {key: divided(value, parameters[number]) for key, value in state.items()}
            for number, state in state_dict["state"].items()
        },
    }
