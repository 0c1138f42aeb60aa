"""Throughput: the logged values, and the number of FLOPs of a step."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from callbacks import Throughput
from callbacks.throughput import flops_per_sample
from tests import tiny


def test_logs_rates_and_memory(store, tmp_path):
    trainer = tiny.fit(
        tiny.dmf_module(), tiny.datamodule(store), tmp_path, callbacks=[Throughput(every_n_train_steps=2)], max_steps=4
    )
    for name in ("images_per_second", "step_seconds", "memory_gib", "tflops_per_second"):
        assert trainer.callback_metrics[f"throughput/{name}"] > 0
    assert "throughput/mfu" not in trainer.callback_metrics  # nobody knows the peak of a CPU


def test_flops_are_those_of_a_training_step(store, tmp_path):
    module = tiny.flow_module()
    tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=1)
    batch = next(iter(tiny.datamodule(store).train_dataloader()))
    parameters = list(module.network.parameters())
    with FlopCounterMode(display=False) as counter:
        loss = module.loss(batch, torch.Generator().manual_seed(0)).loss.mean()
        torch.autograd.grad(loss, parameters)
    assert flops_per_sample(module, batch) == counter.get_total_flops() / len(batch.y)


def test_counting_leaves_no_gradient_and_no_draw_behind(store, tmp_path):
    modules = [tiny.dmf_module(), tiny.dmf_module()]
    for module, callbacks in zip(modules, ([], [Throughput(1)]), strict=True):
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=callbacks, max_steps=3)
    a, b = (module.network.state_dict() for module in modules)
    assert all(torch.equal(a[key], b[key]) for key in a)
