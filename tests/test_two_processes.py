"""Two processes equal one: losses, gradients and whole runs under DDP and FSDP2, over gloo on the CPU.

One pair of processes does all of the work, because starting it takes longer; the tests look at what it has left.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

import meanflow
from callbacks import (
    EMA,
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    PeriodicScore,
    SampleGrid,
    StopOnNonFiniteLoss,
    Throughput,
    TimeBins,
)
from meanflow import random_streams
from meanflow.metrics.features import PixelFeatures
from meanflow.modules import FullyShardedStrategy, GenerativeModule
from meanflow.modules.sharding import whole
from meanflow.objectives.guidance import ModelGuidance
from tests import tiny
from train import quiet_lightning

pytestmark = pytest.mark.slow

NUM_STEPS = 2
# Buckets so small that DDP has several, as for a real network.
STRATEGIES: dict[str, Callable[[], Any]] = {
    "ddp": lambda: DDPStrategy(bucket_cap_mb=0.01),  # type: ignore[arg-type]
    "fsdp": FullyShardedStrategy,
}
METHODS: dict[str, Callable[..., GenerativeModule]] = {
    "flow": tiny.flow_module,
    # An interval so short that at some step one rank has something to guide and the other has not.
    "dmf": partial(tiny.dmf_module, ModelGuidance(0.6, (0.4, 0.5))),
    "imf": tiny.imf_module,
}


class Case(NamedTuple):
    """How a method is trained."""

    method: str
    strategy: str
    checkpointing: bool = False
    accumulate: int = 1
    compiled: bool = False


EAGER = [
    Case(method, strategy, checkpointing, accumulate)
    for method, strategy, (checkpointing, accumulate) in product(
        METHODS, STRATEGIES, [(False, 1), (True, 1), (True, 2)]
    )
]
COMPILED = [Case("dmf", "ddp", True, compiled=True), Case("imf", "fsdp", True, compiled=True)]


def module_of(case: Case) -> GenerativeModule:
    """A module in whose second step an error of the first shows."""
    module = METHODS[case.method](
        optimizer=partial(torch.optim.SGD, lr=0.1), compile="blocks" if case.compiled else None
    )
    module.network.activation_checkpointing = case.checkpointing
    return module


class Recorder(Callback):
    """Keeps the loss of every batch and the gradient of every step, whole."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.norms: list[Tensor] = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append({name: whole(p.grad).clone() for name, p in module.network.named_parameters()})

    def on_train_batch_end(self, trainer, module, *_):
        self.losses.append(trainer.callback_metrics["train/loss"])
        if trainer.global_step == len(self.gradients) > len(self.norms):
            self.norms.append(module.gradient_norm)


def train_case(case: Case, store: Path, folder: Path) -> dict[str, Any]:
    """Train on this rank; return what was recorded."""
    recorder = Recorder()
    with (
        mock.patch("torch.compile", partial(torch.compile, backend="eager")),  # machine code takes long to make
        mock.patch("torch.distributed._DEFAULT_FIRST_BUCKET_BYTES", 1000),  # the compiler reckons with this one
    ):
        tiny.fit(
            module_of(case),
            tiny.datamodule(store),
            folder,
            strategy=STRATEGIES[case.strategy](),
            devices=2,
            max_steps=NUM_STEPS,
            accumulate_grad_batches=case.accumulate,
            callbacks=[recorder],
        )
    return {"losses": recorder.losses, "gradients": recorder.gradients, "norms": recorder.norms}


def train_run(name: str, store: Path, folder: Path, strategy: str, steps: int, resume: Path | None = None) -> None:
    """Train with everything that a real run has."""
    callbacks = [
        EMA(0.5),
        TimeBins(folder / name, every_n_train_steps=1, num_bins=2),
        StopOnNonFiniteLoss(folder),
        Throughput(1),
        SampleGrid(folder / name / "samples", every_n_train_steps=2, num_rows=1),
        # 9 samples: three batches on the first rank, two on the second.
        PeriodicScore(
            tiny.protocol(metrics=["fd_pixels", "kid_pixels", "precision_recall_pixels"]),
            {"pixels": PixelFeatures()},
            folder / name / "samples",
            every_n_train_steps=2,
            num_samples=9,
            batch_size=2,
        ),
        LastCheckpoint(folder / name, every_n_train_steps=3),
        BestCheckpoint(folder / name),
    ]
    # A large eps: without it, Adam turns the rounding of a gradient of zero into a whole step.
    module = tiny.dmf_module(optimizer=partial(torch.optim.AdamW, lr=1e-2, eps=1e-3, fused=True))
    trainer = tiny.trainer(
        folder,
        strategy=STRATEGIES[strategy](),
        devices=2,
        max_steps=steps,
        callbacks=callbacks,
        enable_checkpointing=True,
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(module, datamodule=tiny.datamodule(store), ckpt_path=resume)


def work(rank: int, port: int, store: Path, folder: Path) -> None:
    """Do everything that takes two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    quiet_lightning()
    recorded = {case: train_case(case, store, folder) for case in EAGER + COMPILED}
    torch.save({tuple(case): record for case, record in recorded.items()}, folder / f"{rank}.pt")
    for strategy in STRATEGIES:
        train_run(f"{strategy}_whole", store, folder, strategy, steps=4)
        train_run(f"{strategy}_half", store, folder, strategy, steps=2)
    for strategy, other in product(STRATEGIES, STRATEGIES):
        last = folder / f"{strategy}_half" / "last.ckpt"
        train_run(f"{strategy}_then_{other}", store, folder, other, steps=4, resume=last)


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of as many batches as the longest case takes."""
    return tiny.write_store(tmp_path_factory.mktemp("stores") / "tiny", num_samples=32)


@pytest.fixture(scope="module")
def folder(own_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the two processes have left their results."""
    path = tmp_path_factory.mktemp("distributed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(port, own_store, path), nprocs=2)
    return path


class Reference(NamedTuple):
    """What both ranks do, in one process: ``[step][rank]`` and ``[step][name]``."""

    losses: list[list[Tensor]]
    share_guided: list[list[float]]
    gradients: list[dict[str, Tensor]]
    norms: list[Tensor]


def reference(case: Case, store: Path) -> Reference:
    """Train with a loop over ranks."""
    module = module_of(case._replace(compiled=False, checkpointing=False))
    network = module.network
    optimizer = module.optimizer(network.parameters())
    result = Reference([], [], [], [])
    for index, batch in zip(
        range(NUM_STEPS * case.accumulate), tiny.datamodule(store).train_dataloader(), strict=False
    ):
        outputs = [
            module.loss(half, random_streams.generator(0, index, rank)) for rank, half in enumerate(halves(batch))
        ]
        losses = [output.loss.mean() for output in outputs]
        (sum(losses) / (2 * case.accumulate)).backward()
        result.losses.append([loss.detach() for loss in losses])
        result.share_guided.append([float(output.diagnostics.get("share_guided", 0)) for output in outputs])
        if (index + 1) % case.accumulate == 0:
            result.gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
            result.norms.append(nn.utils.clip_grad_norm_(network.parameters(), 1.0))
            optimizer.step()
            optimizer.zero_grad()
    return result


def halves(batch: Any) -> Iterator[Any]:
    """The parts of a batch that the ranks get."""
    for rank in range(2):
        yield batch._replace(mean=batch.mean.chunk(2)[rank], y=batch.y.chunk(2)[rank])


@pytest.mark.parametrize("case", EAGER + COMPILED, ids=lambda case: "-".join(map(str, case)))
def test_losses_and_gradients_are_those_of_one_process(folder, own_store, case):
    """The ranks have other data and other draws, so each must end with the mean of both gradients."""
    expected = reference(case, own_store)
    for rank in range(2):
        recorded = torch.load(folder / f"{rank}.pt", weights_only=True)[tuple(case)]
        assert len(recorded["gradients"]) == NUM_STEPS
        torch.testing.assert_close(recorded["losses"], [losses[rank] for losses in expected.losses])
        torch.testing.assert_close(recorded["norms"], expected.norms)
        for gradients, wanted in zip(recorded["gradients"], expected.gradients, strict=True):
            assert max(differences(gradients, wanted).values()) < 1e-4


def differences(gradients: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Relative distance of each parameter's gradient from the wanted one."""
    assert gradients.keys() == wanted.keys()
    return {name: float((gradients[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted}


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_not_averaged_would_show(own_store, method):
    wanted = reference(Case(method, "ddp"), own_store).gradients[0]
    module = module_of(Case(method, "ddp"))
    first_half = next(halves(next(iter(tiny.datamodule(own_store).train_dataloader()))))
    module.loss(first_half, random_streams.generator(0, 0, 0)).loss.mean().backward()
    gradients = {name: parameter.grad for name, parameter in module.network.named_parameters()}
    assert min(differences(gradients, wanted).values()) > 1e-2


def test_ranks_call_the_network_a_different_number_of_times(own_store):
    shares = reference(Case("dmf", "fsdp"), own_store).share_guided
    assert any(min(share) == 0 < max(share) for share in shares)


def content(folder: Path, run: str) -> dict[str, Any]:
    return AtomicCheckpointIO().load_checkpoint(folder / run / "last.ckpt")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_equals_the_uninterrupted_one(folder, strategy):
    first, second = (content(folder, f"{strategy}_{run}") for run in ("whole", f"then_{strategy}"))
    assert first["global_step"] == second["global_step"] == 4
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(first[key][name], second[key][name]) for name in first[key] | second[key])
    a, b = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (first, second))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[number][key], b[number][key]) for number in a for key in a[number])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_by_time_are_those_of_all_ranks(folder, own_store, strategy):
    """In the first step, whose weights are known; a resumed run has the same history as an uninterrupted one."""
    history, resumed = (
        next(state for key, state in content(folder, run)["callbacks"].items() if key.startswith("TimeBins"))
        for run in (f"{strategy}_whole", f"{strategy}_then_{strategy}")
    )
    assert history["steps"].tolist() == [1, 2, 3, 4]
    batch = next(iter(tiny.datamodule(own_store).train_dataloader()))
    module = tiny.dmf_module()
    ranks = [module.loss(half, random_streams.generator(0, 0, rank)).by_t for rank, half in enumerate(halves(batch))]
    for name, means in zip(history["names"], history["means"][0], strict=True):
        t, value = (torch.cat(parts) for parts in zip(*(by_t[name] for by_t in ranks), strict=True))
        assert 0 < (t < 0.5).sum() < len(t)
        torch.testing.assert_close(means, torch.stack([value[t < 0.5].mean(), value[t >= 0.5].mean()]))
    assert torch.equal(resumed["steps"], history["steps"])
    torch.testing.assert_close(resumed["means"], history["means"], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("run", ["fsdp_whole", "ddp_then_fsdp", "fsdp_then_ddp"])
def test_sharded_training_ends_where_unsharded_does(folder, run):
    expected, result = content(folder, "ddp_whole"), content(folder, run)
    assert expected.keys() == result.keys()
    for key in ("state_dict", "current_model_state"):
        torch.testing.assert_close(result[key], expected[key], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        result["optimizer_states"][0]["state"], expected["optimizer_states"][0]["state"], rtol=1e-4, atol=1e-6
    )


def test_a_sharded_run_can_be_opened_and_has_pictures_and_a_best_checkpoint(folder):
    for name in ("last", "best"):
        pipeline = meanflow.load(folder / "fsdp_whole" / f"{name}.ckpt")
        assert pipeline.sample([0, 1, 2]).shape == (3, 1, 4, 4)
    average = content(folder, "fsdp_whole")["state_dict"]["network.final_layer.linear.weight"]
    loaded = meanflow.load(folder / "fsdp_whole" / "last.ckpt").network.final_layer.linear.weight
    assert torch.equal(loaded, average)
    sharded, unsharded = (folder / f"{strategy}_whole" / "samples" / "step_00000002.png" for strategy in STRATEGIES)
    assert sharded.read_bytes() == unsharded.read_bytes()
