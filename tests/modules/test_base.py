"""Training modules: draws, logging, schedule, clipping."""

import copy
from functools import partial

import pytest
import torch

from callbacks import EMA
from meanflow import random_streams
from meanflow.modules import base
from meanflow.modules.schedules import Cosine
from meanflow.objectives.guidance import Distillation
from tests import tiny


@pytest.mark.parametrize("make", [tiny.flow_module, tiny.dmf_module, tiny.imf_module])
def test_every_parameter_is_trained(make, store, tmp_path):
    module = make()
    before = copy.deepcopy(module.network.state_dict())
    tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=2)
    unchanged = [name for name, value in module.network.named_parameters() if torch.equal(value.detach(), before[name])]
    assert unchanged == []


def test_step_is_a_function_of_seed_step_and_rank(store, tmp_path):
    """The weights after two steps are those of a loop written out by hand."""
    module = tiny.dmf_module(seed=3)
    by_hand = copy.deepcopy(module.network)
    data = tiny.datamodule(store, seed=3)
    tiny.fit(module, data, tmp_path, max_steps=2)

    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-3)
    for step, batch in zip(range(2), tiny.datamodule(store, seed=3).train_dataloader(), strict=False):
        generator = random_streams.generator(3, step, 0)
        x = batch.sample(generator)
        output = module.objective(by_hand, x, batch.y, module.objective.draw(x.shape, generator))
        optimizer.zero_grad()
        output.loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
    for name, value in module.network.named_parameters():
        assert torch.equal(value, by_hand.get_parameter(name)), name


def test_other_seeds_draw_other_numbers(store, tmp_path):
    weights = []
    for seed in (0, 1):
        module = tiny.flow_module(seed=seed)
        tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=1)
        weights.append(module.network.x_embedder.proj.weight.detach().clone())
    assert not torch.equal(*weights)


def test_logs_loss_diagnostics_and_gradient_norm(store, tmp_path):
    trainer = tiny.fit(tiny.dmf_module(), tiny.datamodule(store), tmp_path, max_steps=1)
    names = {"loss", "grad_norm", "fm_loss", "mf_loss", "du_dt_norm", "share_guided", "logvar"}
    assert {f"train/{name}" for name in names} <= set(trainer.callback_metrics)
    assert all(torch.isfinite(value) for value in trainer.callback_metrics.values())


def test_gradient_is_clipped_and_its_norm_logged_before(store, tmp_path):
    """With plain gradient descent of rate 1, the step is the clipped gradient."""
    module = tiny.flow_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    before = [value.detach().clone() for value in module.network.parameters()]
    trainer = tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=1, gradient_clip_val=1e-3)
    moved = torch.cat([(a - b).flatten() for a, b in zip(module.network.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert trainer.callback_metrics["train/grad_norm"] > 1e-2


def test_schedule_sees_the_whole_run_and_the_epoch(store, tmp_path):
    module = tiny.flow_module(schedule=Cosine(warmup_epochs=1))
    rates = []
    module.on_train_batch_start = lambda batch, index: rates.append(module.trainer.optimizers[0].param_groups[0]["lr"])
    tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=6)  # an epoch has 24 / 8 = 3 steps
    assert rates == pytest.approx([1e-3 * factor for factor in (1 / 3, 2 / 3, 1, 1, 0.75, 0.25)])


def test_accumulated_gradients_count_as_one_optimizer_step(store, tmp_path):
    module = tiny.flow_module(schedule=Cosine())
    trainer = tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=3, accumulate_grad_batches=2)
    assert trainer.global_step == 3
    assert trainer.fit_loop.epoch_loop.batch_progress.total.processed >= 5  # the last group of an epoch may be short


def test_epochs_limit_a_run_too(store, tmp_path):
    trainer = tiny.fit(
        tiny.flow_module(schedule=Cosine()), tiny.datamodule(store), tmp_path, max_steps=-1, max_epochs=2
    )
    assert trainer.global_step == 6


def test_distillation_trains(store, tmp_path):
    teacher = tiny.flow_pipeline(seed=9).network.eval().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    module = tiny.dmf_module(guidance=Distillation(teacher, omega=1.5, interval=(0.0, 0.8)))
    trainer = tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=2)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert not any(key.startswith("objective") or "teacher" in key for key in module.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_only_the_norm_can_be_clipped(store, tmp_path):
    with pytest.raises(ValueError, match="gradient_clip_algorithm must be 'norm', got 'value'"):
        tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, gradient_clip_algorithm="value")


def test_bfloat16_keeps_weights_and_loss_in_float32(store, tmp_path):
    module = tiny.dmf_module()
    trainer = tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=1, precision="bf16-mixed")
    assert {value.dtype for value in module.network.parameters()} == {torch.float32}
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("mode", ["blocks", "step"])
def test_compiled_training_is_training(mode, store, tmp_path, monkeypatch):
    # Machine code takes long to make; these stop before that.
    for name in ("CompiledObjective", "compile_blocks"):
        monkeypatch.setattr(base, name, partial(getattr(base, name), backend="eager"))
    weights = []
    for compile_mode in (None, mode):
        module = tiny.dmf_module(compile=compile_mode)
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=[EMA(0.9)], max_steps=2)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.network.parameters()]))
    torch.testing.assert_close(*weights)
    compiled = module.run_objective is not module.objective, module.network.blocks[0]._compiled_call_impl is not None
    assert compiled == (mode == "step", mode == "blocks")
    torch._dynamo.reset()


def test_other_kinds_of_compilation_are_refused():
    with pytest.raises(ValueError, match=r"module.compile must be null, blocks or step, got True"):
        tiny.dmf_module(compile=True)
