"""Tests that need a CUDA device: parity with the CPU, bfloat16, and a training step that never waits for the device."""

import copy
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
import torch

import meanflow
from callbacks import EMA, LastCheckpoint, SampleGrid, StopOnNonFiniteLoss, Throughput, TimeBins
from meanflow.compilation import CompiledObjective
from meanflow.evaluation.scorer import ImageBatch, Scorer
from meanflow.metrics.features import EfficientNetLite0Features
from meanflow.modules import FullyShardedStrategy
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 1, 4, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator)


@contextmanager
def waiting_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


METHODS = [tiny.flow_module, tiny.dmf_module, tiny.imf_module]


@pytest.mark.parametrize("make", METHODS)
def test_loss_and_gradients_are_those_of_the_cpu(make, batch):
    module = make()
    x, y = (tensor.double() if tensor.is_floating_point() else tensor for tensor in batch)
    draws = module.objective.draw(x.shape, torch.Generator().manual_seed(1))
    gradients = []
    for device in ("cpu", "cuda"):
        network = copy.deepcopy(module.network).double().to(device)
        loss = module.objective(network, x.to(device), y.to(device), draws).loss.mean()
        gradients.append([g.cpu() for g in torch.autograd.grad(loss, list(network.parameters()))])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", METHODS)
def test_the_objective_never_waits_for_the_device(make, batch):
    module = make()
    network, (x, y) = module.network.cuda(), (tensor.cuda() for tensor in batch)
    draws = module.objective.draw(x.shape, torch.Generator().manual_seed(1))
    module.objective(network, x, y, draws).loss.mean().backward()  # first calls may allocate and wait
    with waiting_is_an_error():
        module.objective(network, x, y, draws).loss.mean().backward()


def test_trains_in_bfloat16(store, tmp_path):
    bins = TimeBins(tmp_path, every_n_train_steps=2)
    callbacks = [EMA(0.9), bins, StopOnNonFiniteLoss(tmp_path), Throughput(2), LastCheckpoint(tmp_path, 2)]
    module = tiny.dmf_module()
    trainer = tiny.fit(
        module,
        tiny.datamodule(store),
        tmp_path,
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        callbacks=callbacks,
        enable_checkpointing=True,
        max_steps=4,
    )
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert {value.device.type for value in callbacks[0].average.values()} == {"cuda"}
    assert trainer.callback_metrics["throughput/mfu"] >= 0
    assert bins.steps.tolist() == [2, 4]
    assert not bins.means.isinf().any()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("make", METHODS)
def test_a_compiled_step_never_waits_and_has_the_same_loss(make, batch):
    module = make()
    network, (x, y) = module.network.cuda(), (tensor.cuda() for tensor in batch)
    compiled = CompiledObjective(module.objective)
    losses = []
    for step in range(4):
        draws = module.objective.draw(x.shape, torch.Generator().manual_seed(step))
        # By the last step it is compiled, for any number of guided samples.
        with waiting_is_an_error() if step == 3 else nullcontext():
            loss = compiled(network, x, y, draws).loss.mean()
            loss.backward()
        losses.append((loss, module.objective(network, x, y, draws).loss.mean()))
    for ours, eager in losses:
        torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [tiny.flow_pipeline, tiny.dmf_pipeline, tiny.imf_pipeline])
def test_accelerated_sampling_draws_the_same_images_to_its_precision(make):
    labels = [0, 1, 2, 0, 1]
    exact = make().to("cuda").sample(labels, num_steps=2, batch_size=2)
    fast = make().to("cuda").accelerate(compile=False).sample(labels, num_steps=2, batch_size=2)
    assert (exact.int() - fast.int()).abs().max() <= 4  # of 255


# No objective changes an output in place.
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor")
def test_trains_sharded_and_goes_on(store, tmp_path, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what Lightning sets is taken back
        monkeypatch.delenv(name)
    ends = []
    for steps, resume in ((4, None), (2, None), (4, tmp_path / "2" / "last.ckpt")):
        folder = tmp_path / ("resumed" if resume else str(steps))
        trainer = tiny.trainer(
            folder,
            accelerator="gpu",
            devices=1,
            strategy=FullyShardedStrategy(),
            precision="bf16-mixed",
            callbacks=[EMA(0.9), SampleGrid(folder, 2), StopOnNonFiniteLoss(folder), LastCheckpoint(folder, 4)],
            enable_checkpointing=True,
            max_steps=steps,
        )
        module = tiny.dmf_module(optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True))
        trainer.fit(module, datamodule=tiny.datamodule(store), ckpt_path=resume)
        ends.append(torch.load(folder / "last.ckpt", weights_only=True))
    assert {value.device.type for value in ends[0]["state_dict"].values()} == {"cpu"}
    torch.testing.assert_close(ends[2]["state_dict"], ends[0]["state_dict"])
    assert meanflow.load(tmp_path / "resumed" / "last.ckpt").sample([0]).shape == (1, 1, 4, 4)


def test_scores_are_those_of_the_cpu_whatever_tensorfloat32_says(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8, generator=generator)
    values = {}
    for device in ("cpu", "cuda"):
        scorer = Scorer(
            ["fd_efficientnet_lite0", "kid_efficientnet_lite0", "precision_recall_efficientnet_lite0"],
            {"efficientnet_lite0": EfficientNetLite0Features()},
        )
        builder = scorer.reference_builder()
        builder.update(images[:10].to(device), range(10))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few images
            scorer.set_reference(builder.compute())
            values[device] = scorer.score([ImageBatch(images[10:].to(device), range(10))])
    assert values["cuda"] == pytest.approx(values["cpu"], rel=1e-3, abs=1e-4)
