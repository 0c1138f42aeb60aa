"""Files that version 0.1.0 wrote open, evaluate and resume: run folders, checkpoints, exported folders and a store."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import evaluate
import meanflow
import train
from meanflow.files.torch_file import read_torch_file
from meanflow.pipeline import Pipeline

DATA = Path(__file__).parent / "data" / "version_0_1_0.zip"
METHODS = ("flow", "dmf", "imf")
# The settings of the runs in the keys of the present version.
SETTINGS = [
    "latent.input_size=4",
    "latent.num_classes=3",
    "network.hidden_size=4",
    "network.num_heads=2",
    "network.depth=2",
    "datamodule=latents",
    "datamodule.path=store",
    "datamodule.num_workers=0",
    "datamodule.batch_size=8",
    "trainer=cpu",
    "callbacks.sample_grid=null",
    "callbacks.throughput=null",
    "callbacks.time_bins=null",
    "callbacks.score=null",
    "callbacks.best=null",
    "callbacks.ema.decay=0.9",
    "callbacks.checkpoint.every_n_train_steps=4",
    "optimizer.lr=1e-2",
    "logger=csv",
]
METHOD_SETTINGS = {
    "flow": ["method=flow", "interpolant=cosine"],
    "dmf": ["method=dmf", "network.dmf_depth=1", "guidance@objective.guidance=model"],
    "imf": ["method=imf", "label_drop@objective.label_drop=leading", "schedule.warmup_steps=6"],
}

# The runs lie in another folder than when they were written.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The dirpath has changed from", "ignore:Checkpoint directory .* not empty"
)


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """The files in a folder of their own, which is the working directory."""
    with zipfile.ZipFile(DATA) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(files) -> dict[str, Any]:
    return json.loads((files / "expected.json").read_text())


def weights_sha256(pipeline: Pipeline) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(pipeline.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def run(program: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", *arguments])
    program.main()


@pytest.fixture
def two_threads():
    """Compute on two threads, as the runs did: Adam turns the rounding of a gradient near zero into a step."""
    number = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(number)


def resume(monkeypatch: pytest.MonkeyPatch, method: str, *arguments: str) -> None:
    settings = [*SETTINGS, *METHOD_SETTINGS[method], f"name={method}", "trainer.max_steps=8", *arguments]
    run(train, monkeypatch, *settings)


@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_and_folders_load(method, files, expected):
    checkpoint = f"runs/{method}/checkpoints/last.ckpt"
    sha256 = expected[method]["weights_sha256"]
    assert weights_sha256(meanflow.load(checkpoint)) == sha256["averaged"]
    assert weights_sha256(meanflow.load(checkpoint, ema=False)) == sha256["trained"]
    assert weights_sha256(meanflow.load(f"exported/{method}")) == sha256["averaged"]
    pictures = torch.tensor(expected[method]["images"]).reshape(12, 1, 4, 4)
    for path in (checkpoint, f"exported/{method}"):
        images = meanflow.load(path).sample(torch.arange(12) % 3, seed=3)
        # Another CPU may round a value that lies between two of the 256 to the other one.
        assert (images.int() - pictures).abs().max() <= 1
        assert (images != pictures).float().mean() < 0.01


@pytest.mark.filterwarnings("ignore:fd_pixels from 12 .* the covariance is singular")
@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_evaluate(method, files, expected, monkeypatch):
    data = ["datamodule=latents", "datamodule.path=store", "datamodule.num_workers=0"]
    numbers = ["num_samples=24", "batch_size=8", "results=score.json"]
    run(evaluate, monkeypatch, f"ckpt=runs/{method}/checkpoints/last.ckpt", *data, *numbers)
    metrics = json.loads((files / "score.json").read_text())["metrics"]
    assert metrics == pytest.approx(expected[method]["score"], rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_runs_resume(two_threads, method, files, expected, monkeypatch):
    resume(monkeypatch, method)
    checkpoint = read_torch_file(files / "runs" / method / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 8
    for key, part in (("averaged", "state_dict"), ("trained", "current_model_state")):
        sums = expected[method]["after_8_steps"][key]
        assert checkpoint[part].keys() == sums.keys()
        for name, weight in checkpoint[part].items():
            # A sum of weights of both signs can be small; its error is relative to the norm of the weights.
            total, squares = weight.double().sum().item(), weight.double().square().sum().item()
            assert squares == pytest.approx(sums[name][1], rel=1e-6, abs=1e-12), name
            assert total == pytest.approx(sums[name][0], rel=1e-6, abs=1e-6 * sums[name][1] ** 0.5 + 1e-12), name


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [
        ("flow", "interpolant=linear", "objective.interpolant._target_ is 'CosinePath' there and 'LinearPath' here"),
        ("dmf", "objective.guidance.interval=[0,0.5]", "objective.guidance.interval is [0.0, 0.7] there and [0, 0.5]"),
        (
            "dmf",
            "objective.label_drop.prob_drop_label=0.2",
            "objective.label_drop.prob_drop_label is 0.1 there and 0.2",
        ),
        ("imf", "objective.weighting.p=0.5", "objective.weighting.p is 1.0 there and 0.5 here"),
        (
            "imf",
            "label_drop@objective.label_drop=independent",
            "is 'LeadingLabelDrop' there and 'IndependentLabelDrop'",
        ),
        ("imf", "callbacks.ema.decay=0.99", "callbacks.ema.decay is 0.9 there and 0.99 here"),
        ("flow", "trainer.gradient_clip_val=null", "trainer.gradient_clip_val is 1.0 there and None here"),
        ("flow", "trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches is 1 there and 2 here"),
        ("flow", "datamodule.batch_size=4", "datamodule.batch_size is 8 there and 4 here"),
        ("flow", "trainer.precision=bf16-mixed", "trainer.precision is '32-true' there and 'bf16-mixed' here"),
        ("flow", "callbacks.ema=null", "callbacks.ema.decay is 0.9 there and None here"),
    ],
)
def test_runs_do_not_resume_with_another_setting(method, argument, message, files, monkeypatch, capsys):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit):
        resume(monkeypatch, method, argument)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"runs/{method} is a run with other settings: " in error
    assert message in error
    assert error.count(";") <= 2, "one setting and the advice"
    assert error.count("\n") == 1


def test_nothing_that_a_saved_configuration_names_is_imported(files, monkeypatch):
    path = files / "runs" / "flow" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["optimizer"] |= {"_target_": "malicious.module.AdamW", "eps": 1e-8}  # the default of the present one
    path.write_text(yaml.safe_dump(config))
    resume(monkeypatch, "flow")
    assert not any(name.startswith("malicious") for name in sys.modules)
