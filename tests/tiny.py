"""A training run that takes a second: two blocks, 16 wide, on a few dozen random 4x4 images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from datamodules import LatentDataModule, LatentStoreWriter
from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity
from meanflow.evaluation.labels import BalancedLabels, DataLabels
from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.scorer import Scorer
from meanflow.interpolant import LinearPath
from meanflow.metrics.features import PixelFeatures
from meanflow.models import DMFTransformer, IMFTransformer, SiT
from meanflow.modules import FlowModule, GenerativeModule
from meanflow.objectives import DecoupledMeanFlow, FlowMatching, ImprovedMeanFlow, IndependentLabelDrop
from meanflow.objectives.guidance import Guidance, ModelGuidance
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.times import LogitNormal, OrderedPair, PartlyEqualPair
from meanflow.objectives.weighting import AdaptiveWeight, PerSampleLogVariance
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowEuler, FlowMapEuler, NetworkGuidance

NUM_CLASSES = 3
NETWORK: dict[str, Any] = {
    "input_size": 4,
    "patch_size": 2,
    "in_channels": 1,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": NUM_CLASSES,
}


def write_store(path: Path, num_samples: int = 24) -> Path:
    """Write a store of random images; return its path."""
    generator = torch.Generator().manual_seed(5)
    codec = IdentityCodec(1)
    with LatentStoreWriter(
        path,
        kind="latents",
        codec=codec.config,
        normalization=identity(1),
        resolution=4,
        latent_shape=(1, 4, 4),
        num_classes=NUM_CLASSES,
    ) as writer:
        images = torch.rand(num_samples, 1, 4, 4, generator=generator) * 2 - 1
        writer.append(images, None, torch.arange(num_samples) % NUM_CLASSES)
    return path


def datamodule(path: Path, **arguments: Any) -> LatentDataModule:
    """Return the data module of a store made by ``write_store``."""
    return LatentDataModule(path, **({"batch_size": 8} | arguments))


def flow_pipeline(seed: int = 0) -> Pipeline:
    """Return a flow whose weights are random, the zero-initialized ones too."""
    return Pipeline(randomized(SiT(**NETWORK), seed), IdentityCodec(1), identity(1), FlowEuler(2))


def dmf_pipeline(seed: int = 0) -> Pipeline:
    """Return a flow map whose weights are random, the zero-initialized ones too."""
    network = randomized(DMFTransformer(**NETWORK, dmf_depth=1), seed)
    return Pipeline(network, IdentityCodec(1), identity(1), FlowMapEuler(1))


def imf_pipeline(seed: int = 0, **arguments: Any) -> Pipeline:
    """Return a flow map with guidance as an input, whose weights are random, the zero-initialized ones too."""
    network = randomized(IMFTransformer(**NETWORK | {"aux_head_depth": 1} | arguments), seed)
    sampler = FlowMapEuler(1, guidance=NetworkGuidance(2.0, (0.2, 0.8)))
    return Pipeline(network, IdentityCodec(1), identity(1), sampler)


def randomized(network: Any, seed: int) -> Any:
    """Draw every parameter from a normal with standard deviation 0.1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def protocol(**arguments: Any) -> Protocol:
    """Return a protocol in pixels. The data are the reference by default."""
    labels = BalancedLabels() if arguments.get("reference") else DataLabels()
    defaults: dict[str, Any] = {"name": "tiny", "metrics": ["fd_pixels"], "labels": labels, "rounding": "round"}
    return Protocol(**defaults | arguments)


def scorer(used: Protocol | None = None) -> Scorer:
    """Return the scorer of a protocol."""
    return Scorer((used or protocol()).metrics, {"pixels": PixelFeatures()})


def flow_module(**arguments: Any) -> FlowModule:
    """Return a module that trains ``flow_pipeline``."""
    return FlowModule(**_training(flow_pipeline(), FlowMatching(LinearPath(), LogitNormal()), arguments))


def dmf_module(guidance: Guidance | None = None, **arguments: Any) -> GenerativeModule:
    """Return a module that trains ``dmf_pipeline``."""
    objective = DecoupledMeanFlow(
        LinearPath(),
        LogitNormal(),
        OrderedPair(LogitNormal(0.4), LogitNormal(-1.2)),
        guidance or ModelGuidance(0.6, (0.0, 0.7)),
        PerSampleLogVariance(),
    )
    return GenerativeModule(**_training(dmf_pipeline(), objective, arguments))


def imf_module(**arguments: Any) -> GenerativeModule:
    """Return a module that trains ``imf_pipeline``."""
    times = LogitNormal(-0.4)
    objective = ImprovedMeanFlow(
        PartlyEqualPair(times, times, 0.5),
        PowerLawScale(),
        UniformInterval(),
        IndependentLabelDrop(0.1),
        AdaptiveWeight(),
    )
    return GenerativeModule(**_training(imf_pipeline(), objective, arguments))


def _training(pipeline: Pipeline, objective: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    defaults = {"pipeline": pipeline, "objective": objective, "optimizer": partial(torch.optim.AdamW, lr=1e-3)}
    return defaults | arguments


def trainer(path: Path, **arguments: Any) -> Trainer:
    """Return a silent CPU trainer without checkpoints."""
    defaults: dict[str, Any] = {
        "default_root_dir": path,
        "accelerator": "cpu",
        "max_steps": 4,
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
    }
    return Trainer(**(defaults | arguments))


def fit(module: GenerativeModule, data: LatentDataModule, path: Path, **arguments: Any) -> Trainer:
    """Train; return the trainer."""
    used = trainer(path, **arguments)
    used.fit(module, datamodule=data)
    return used
