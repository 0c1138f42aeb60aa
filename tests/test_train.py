"""The program train.py: killed and resumed, in two processes, and on bad input."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import evaluate
import prepare
import train
from datamodules import DigitsDataModule
from meanflow import random_streams
from meanflow.checkpoints import load_weights
from meanflow.files.torch_file import read_torch_file

ROOT = Path(__file__).parent.parent
TINY = [
    "network.hidden_size=16",
    "network.depth=2",
    "network.num_heads=2",
    "datamodule.batch_size=32",
    "optimizer.lr=1e-3",
    "callbacks.sample_grid=null",
    "callbacks.throughput=null",
    "callbacks.ema.decay=0.9",
    "logger=csv",
]
DMF = [*TINY, "experiment=quickstart_dmf", "init_from=null", "network.dmf_depth=1"]
FLOW = [*TINY, "experiment=quickstart_flow"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose ``digits`` is the store."""
    path = tmp_path_factory.mktemp("data")
    _ = DigitsDataModule(path / "digits").store
    return path


def command(folder: Path, data: Path, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *overrides, f"run_dir={folder}", f"data_dir={data}"]


def run(folder: Path, data: Path, *overrides: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run to the end; it must exit as expected."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}
    result = subprocess.run(
        command(folder, data, *overrides), capture_output=True, text=True, cwd=folder.parent, env=environment
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result


def assert_equal_runs(a: Path, b: Path) -> None:
    """Weights, averages, optimizer and step must agree bit for bit."""
    first, second = (read_torch_file(folder / "checkpoints" / "last.ckpt") for folder in (a, b))
    assert first["global_step"] == second["global_step"]
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(first[key][name], second[key][name]) for name in first[key] | second[key]), key
    moments = [content["optimizer_states"][0]["state"] for content in (first, second)]
    for index, state in moments[0].items():
        assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(moments[1][index][key])) for key in state)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [FLOW, DMF], ids=["flow", "dmf"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, digits, overrides):
    overrides = [*overrides, "trainer.max_steps=400", "callbacks.checkpoint.every_n_train_steps=23"]
    run(tmp_path / "whole", digits, *overrides)
    killed = tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(2):  # killed twice, at whatever step it happens to be
        last = killed / "checkpoints" / "last.ckpt"
        before = last.stat().st_mtime_ns if last.exists() else None
        process = subprocess.Popen(
            command(killed, digits, *overrides), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert read_torch_file(last)["global_step"] < 400
    run(killed, digits, *overrides)
    assert_equal_runs(tmp_path / "whole", killed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "strategy"), [(FLOW, "ddp"), (DMF, "ddp"), (DMF, "fsdp")], ids=["flow-ddp", "dmf-ddp", "dmf-fsdp"]
)
def test_two_processes_equal_one(tmp_path, digits, overrides, strategy):
    """Two processes over gloo against a loop that does both ranks' halves in one process."""
    steps = 3
    overrides = [
        *overrides,
        f"trainer.max_steps={steps}",
        "schedule=constant",
        "schedule.warmup_steps=0",
        "+optimizer.eps=1e-3",  # without it, Adam turns the rounding of a gradient of zero into a whole step
    ]
    on_cpu = ["trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2"]
    run(tmp_path / "two", digits, *overrides, f"trainer={strategy}", *on_cpu)
    two = load_weights(tmp_path / "two" / "checkpoints" / "last.ckpt", ema=False)

    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*overrides, f"output_dir={tmp_path}", f"data_dir={digits}"])
    torch.manual_seed(random_streams.generator(0, purpose=random_streams.INITIALIZATION).initial_seed())
    module = instantiate(config.module)
    optimizer = module.optimizer(module.network.parameters())
    loader = instantiate(config.datamodule).train_dataloader()
    for step, batch in zip(range(steps), loader, strict=False):
        optimizer.zero_grad()
        for rank in range(2):
            half = batch._replace(mean=batch.mean.chunk(2)[rank], y=batch.y.chunk(2)[rank])
            (module.loss(half, random_streams.generator(0, step, rank)).loss.mean() / 2).backward()
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), 1.0)
        optimizer.step()
    for name, value in module.network.state_dict().items():
        torch.testing.assert_close(two[name], value, atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_other_settings_are_refused(tmp_path, digits):
    overrides = [*FLOW, "trainer.max_steps=3", "trainer.log_every_n_steps=1"]
    folder = tmp_path / "run"
    run(folder, digits, *overrides)
    files = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and ".hydra" not in str(path)
    }
    result = run(folder, digits, *overrides)
    assert "has finished: 3 of 3 steps" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in files} == files
    result = run(folder, digits, *overrides, "optimizer.lr=0.5", "trainer.max_steps=5", status=1)
    assert "optimizer.lr is 0.001 there and 0.5 here" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in files} == files
    run(folder, digits, *overrides, "trainer.max_steps=5", "network.activation_checkpointing=true")
    logs = sorted((folder / "logs" / "csv").glob("*/metrics.csv"))
    assert len(logs) == 2  # the first session's log is still there
    assert read_torch_file(folder / "checkpoints" / "last.ckpt")["global_step"] == 5


@pytest.mark.slow
def test_logs_to_wandb_without_an_account(tmp_path, digits, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    overrides = [override for override in FLOW if not override.startswith(("logger", "callbacks.sample_grid"))]
    run(tmp_path / "run", digits, *overrides, "logger=wandb", "trainer.max_steps=2")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_training_returns_the_best_score_that_it_logged(tmp_path, digits, monkeypatch):
    from hydra import compose, initialize_config_dir

    scores = ["callbacks.score.every_n_train_steps=2", "callbacks.score.num_samples=64"]
    overrides = [*TINY, *scores, "method=flow", "trainer=cpu", "trainer.max_steps=6", "sampler.num_steps=2"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*overrides, f"output_dir={tmp_path / 'run'}", f"data_dir={digits}"])
    monkeypatch.setattr(train, "quiet_lightning", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = train.main(config)
    with next((tmp_path / "run" / "logs" / "csv").glob("*/metrics.csv")).open() as file:
        logged = [float(row["score/fd_pixels"]) for row in csv.DictReader(file) if row["score/fd_pixels"]]
    assert isinstance(best, float)
    assert len(logged) == 3
    assert best == min(logged)
    assert train.main(config) == best, "a finished run returns its score"


@pytest.mark.slow
def test_a_sweep_gives_every_job_its_folder(tmp_path, digits):
    run(tmp_path / "sweep", digits, *FLOW, "trainer.max_steps=2", "seed=0,1", "hydra.mode=MULTIRUN")
    checkpoints = sorted((tmp_path / "sweep").glob("*/checkpoints/last.ckpt"))
    assert [("seed=0" in str(path), "seed=1" in str(path)) for path in checkpoints] == [(True, False), (False, True)]
    weights = [load_weights(path) for path in checkpoints]
    assert not torch.equal(*(weight["x_embedder.proj.weight"] for weight in weights))


def test_bad_input_is_one_line_and_status_1(tmp_path, digits):
    result = run(tmp_path / "run", digits, *FLOW, f"resume={tmp_path / 'nothing.ckpt'}", status=1)
    assert result.stderr.startswith("error: resume must be auto, null or a checkpoint")
    assert result.stderr.count("\n") == 1
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    result = run(tmp_path / "run", digits, *FLOW, f"resume={tmp_path / 'other.ckpt'}", status=1)
    assert "is no checkpoint of a training run" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.num_classes=9"], "error: network.num_classes must be 10 for the store"),
        (["init_from=nothing.ckpt"], "error: no checkpoint at nothing.ckpt"),
        (["network.depth=0"], "error: depth must be at least 1, got 0"),
        (["+network.foo=1"], "error: network.foo is no argument of SiT, which takes input_size, patch_size"),
        (["seed=abc"], "error: seed must be a whole number, got 'abc'"),
        (["datamodule=latents"], "error: a value must be given for datamodule.path"),
        (["datamodule.batch_size=5000"], "error: batch_size must be at most the 1797 samples"),
        (
            ["optimizer.lr=1e30", "trainer.max_steps=20"],
            "error: the loss or its gradient is not finite at training step",
        ),
    ],
)
def test_bad_values_are_one_line_and_status_1(tmp_path, digits, overrides, message):
    result = run(tmp_path / "run", digits, *FLOW, *overrides, status=1)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(message), result.stderr
    assert "Traceback" not in result.stderr


# One command each, in-process: nothing of it reaches the data or the first step.
BAD_COMMANDS = [
    ("objective=dmf", "objective=dmf needs a flow map network", "method=dmf"),
    ("method=flow network=dmf_digits", "objective=flow_matching needs a flow network", "network is a flow map network"),
    ("method=dmf objective.weighting=unweighted", "weighting@objective.weighting=NAME with NAME one of all_pairs"),
    ("method=dmf weighting@objective.weighting=unweighted", "objective.weighting (Unweighted)", "network.logvar=false"),
    ("experiment=quickstart_dmf sampler=flow_euler", "sampler (FlowEuler)", "network is a flow map network"),
    ("guidance=none", "guidance@objective.guidance=distillation|model|none", "objective=dmf"),
    ("method=dmf guidance=none", "guidance@objective.guidance=distillation|model|none"),
    ("method=nothing", "method must be one of dmf, flow, imf, got 'nothing'"),
    ("method=null", "method must be one of dmf, flow, imf, got null"),
    ("experiment=nothing", "experiment must be one of codec_fashion_mnist, dmf_xl_2_256", "got 'nothing'"),
    ("groupx=1", "there is no group or key 'groupx'"),
    ("trainer.nothing=1", "there is no group or key 'trainer.nothing'"),
    ("optimizer.lr=fast", "optimizer.lr must be a number", "got 'fast'"),
    ("network.depth=x", "network.depth must be a whole number, got 'x'"),
    ("+optimizer.learning_rate=1", "optimizer.learning_rate is no argument of AdamW", "lr"),
    ("objective=reconstruction", "objective (Reconstruction)", "network together"),
    ("seed=1.5", "seed must be a whole number, got 1.5"),
    ("trainer.max_steps=${nothing}", "Interpolation key 'nothing' not found"),
    ("name", "Error parsing override 'name'"),
    ("schedule=cosine schedule.final_factor=2", "final_factor must be from 0 to 1, got 2"),
]


@pytest.mark.parametrize("words", BAD_COMMANDS, ids=[words[0] for words in BAD_COMMANDS])
def test_a_bad_command_is_one_line_that_names_the_keys(words, tmp_path, digits, monkeypatch, capsys):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    arguments = [*words[0].split(), f"run_dir={tmp_path / 'run'}", f"data_dir={tmp_path / 'no_data'}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        train.main()
    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words[1:]), error
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "no_data").exists()
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_the_traceback_of_a_bad_command_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for argument, error in (("method=nothing", Exception), (f"resume={tmp_path / 'nothing.ckpt'}", FileNotFoundError)):
        monkeypatch.setattr(sys, "argv", ["train.py", argument, f"run_dir={tmp_path / 'run'}"])
        with pytest.raises(error, match="nothing"):
            train.main()


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(train, "checkpoint_to_resume", lambda *arguments: {}["a bug"])
    monkeypatch.setattr(sys, "argv", ["train.py", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit):
        train.main()
    assert "KeyError: 'a bug'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "argument", "message"),
    [
        (evaluate, "protocol=nothing", "protocol must be one of adm, edm2"),
        (evaluate, "nothing=1", "there is no group or key 'nothing'"),
        (prepare, "task=nothing", "task must be one of compare, convert"),
    ],
)
def test_the_other_programs_answer_alike(program, argument, message, monkeypatch, capsys):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", [f"{program.__name__}.py", argument])
    with pytest.raises(SystemExit) as caught:
        program.main()
    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_help_lists_the_groups_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['train.py', '--help']; import runpy\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    listed = help_choices(result.stdout)
    elsewhere = {"codec", "task"}  # groups of prepare.py
    groups = {path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").glob("**/*/*.yaml")}
    assert {choice.partition("@")[0] for choice in listed} == groups - elsewhere
    for choice, names in listed.items():
        assert names == {path.stem for path in (ROOT / "conf" / choice.partition("@")[0]).glob("*.yaml")}, choice


def help_choices(text: str) -> dict[str, set[str]]:
    """The choices of the help with the options of each."""
    choices: dict[str, set[str]] = {}
    choice = ""
    for line in text.partition("Choices (CHOICE=OPTION):")[2].partition("Keys (")[0].splitlines():
        choice = line[:37].strip() or choice
        words = re.sub(r"\(.*\)|:.*| or some of them|[\[\]]", "", line[37:])
        choices.setdefault(choice, set()).update(word for word in re.split(r"[, ]+", words) if word)
    del choices[""]
    choices["experiment"] -= {"a", "whole", "recipe"}
    return choices


def test_every_choice_of_the_help_works_in_the_form_in_which_it_stands(monkeypatch, capsys):
    from hydra import compose, initialize_config_dir

    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        train.main()
    choices = help_choices(capsys.readouterr().out)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for choice, names in choices.items():
            base = ["method=dmf"] if "@" in choice else []
            option = sorted(names)[0]
            compose("train", [*base, f"{choice}={f'[{option}]' if choice == 'features' else option}", "output_dir=x"])
