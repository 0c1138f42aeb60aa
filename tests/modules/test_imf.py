"""Training of an improved MeanFlow network."""

from functools import partial

import torch

from meanflow.pipeline import Pipeline
from tests import tiny


def test_training_lowers_the_error(store, tmp_path):
    """On one batch with fixed draws, before and after."""
    module = tiny.imf_module(optimizer=partial(torch.optim.AdamW, lr=1e-2))
    batch = next(iter(tiny.datamodule(store).train_dataloader()))

    def errors() -> tuple[float, float]:
        output = module.loss(batch, torch.Generator().manual_seed(0))
        return output.diagnostics["u_loss"].item(), output.diagnostics["v_loss"].item()

    before = errors()
    tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=60)
    after = errors()
    assert after[0] < 0.9 * before[0]
    assert after[1] < 0.9 * before[1]


def test_logs_its_diagnostics(store, tmp_path):
    trainer = tiny.fit(tiny.imf_module(), tiny.datamodule(store), tmp_path, max_steps=1)
    names = {"loss", "grad_norm", "u_loss", "v_loss", "du_dt_norm", "share_guided"}
    assert {f"train/{name}" for name in names} <= set(trainer.callback_metrics)
    assert all(torch.isfinite(value) for value in trainer.callback_metrics.values())


def test_resumed_equals_uninterrupted_and_the_checkpoint_says_what_it_is(store, tmp_path):
    whole = tiny.imf_module()
    tiny.fit(whole, tiny.datamodule(store), tmp_path, max_steps=4)

    first = tiny.fit(tiny.imf_module(), tiny.datamodule(store), tmp_path, max_steps=2)
    first.save_checkpoint(tmp_path / "step2.ckpt")
    resumed = tiny.imf_module(pipeline=tiny.imf_pipeline(seed=1))
    trainer = tiny.trainer(tmp_path, max_steps=4)
    trainer.fit(resumed, datamodule=tiny.datamodule(store), ckpt_path=tmp_path / "step2.ckpt")
    assert trainer.global_step == 4
    for name, value in whole.network.named_parameters():
        assert torch.equal(value, resumed.network.get_parameter(name)), name

    config = torch.load(tmp_path / "step2.ckpt", weights_only=True)["pipeline"]
    assert Pipeline.from_config(config).config == whole.pipeline.config


def test_bfloat16_keeps_weights_and_loss_in_float32(store, tmp_path):
    module = tiny.imf_module()
    trainer = tiny.fit(module, tiny.datamodule(store), tmp_path, max_steps=2, precision="bf16-mixed")
    assert {parameter.dtype for parameter in module.network.parameters()} == {torch.float32}
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
