"""Scoring samplers, and the program evaluate.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from meanflow.checkpoints import save_folder
from meanflow.evaluation import chosen_data, evaluate_samplers, score, set_reference
from meanflow.metrics import FrechetDistance
from meanflow.metrics.features import PixelFeatures
from meanflow.samplers import FlowEuler
from tests import tiny

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore:Fréchet distance from")  # 24 images in 16 dimensions


def test_distance_of_the_data_to_itself_is_zero(store):
    data, metric = tiny.datamodule(store), FrechetDistance(PixelFeatures())
    images = [tiny.flow_pipeline().decode(data.latents(range(24)))]
    set_reference(metric, images)
    assert score(metric, images) == pytest.approx(0, abs=1e-6)
    assert score(metric, [255 - batch for batch in images]) > 0.1
    set_reference(metric, [255 - batch for batch in images])  # a second reference replaces the first
    assert score(metric, images) > 0.1


def test_rows_do_not_depend_on_the_batch_size(store):
    pipeline, data = tiny.flow_pipeline(), tiny.datamodule(store)
    samplers = [FlowEuler(1), FlowEuler(3, omega=2.0)]
    evaluations = [
        evaluate_samplers(
            pipeline, samplers, FrechetDistance(PixelFeatures()), data, batch_size=size, seed=1, num_pictured=5
        )
        for size in (7, 24)
    ]
    for a, b in zip(*(evaluation.rows for evaluation in evaluations), strict=True):
        assert a.frechet_distance == pytest.approx(b.frechet_distance, rel=1e-9)
    assert [row.nfe for row in evaluations[0].rows] == [1, 6]
    assert evaluations[0].real_split == pytest.approx(evaluations[1].real_split, rel=1e-9)
    assert [len(images) for images in evaluations[0].images] == [5, 5]
    assert all(torch.equal(*pair) for pair in zip(*(e.images for e in evaluations), strict=True))


def test_fewer_samples_are_chosen_over_all_classes(store):
    """Stores are often sorted by class; the first samples would be of one class."""

    class Sorted:
        num_samples = 1000
        labels = torch.arange(1000) // 100

    chosen = chosen_data(Sorted(), 100)
    assert chosen == sorted(set(chosen))
    assert len(Sorted.labels[chosen].unique()) == 10
    assert chosen_data(Sorted(), 1000) == list(range(1000))


def test_number_of_samples_out_of_range(store):
    with pytest.raises(ValueError, match="num_samples must be from 4 to the 24 data, got 25"):
        evaluate_samplers(
            tiny.flow_pipeline(), [], FrechetDistance(PixelFeatures()), tiny.datamodule(store), num_samples=25
        )


def run(*overrides, status=0):
    environment = os.environ | {"HYDRA_FULL_ERROR": "0"}
    command = [sys.executable, str(ROOT / "evaluate.py"), *overrides]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status, result.stdout + result.stderr
    return result


@pytest.mark.slow
def test_program_writes_results_and_picture(store, tmp_path):
    save_folder(tiny.flow_pipeline(), tmp_path / "model")
    result = run(
        f"ckpt={tmp_path / 'model'}",
        "datamodule=latents",
        f"datamodule.path={store}",
        "sampler.num_steps=[1,2]",
        "sampler.omega=[1.5,2]",
        "sampler.interval=[0.2,0.9]",
        f"results={tmp_path / 'new' / 'results.json'}",
        f"picture={tmp_path / 'new' / 'picture.png'}",
    )
    content = json.loads((tmp_path / "new" / "results.json").read_text())
    grid = [(row["sampler"]["num_steps"], row["sampler"]["omega"]) for row in content["rows"]]
    assert grid == [(1, 1.5), (1, 2), (2, 1.5), (2, 2)]
    assert {row["sampler"]["t_max"] for row in content["rows"]} == {0.9}
    assert [row["nfe"] for row in content["rows"]] == [1, 1, 3, 3]  # t = 1 is outside the interval
    assert content["best"]["frechet_distance"] == min(row["frechet_distance"] for row in content["rows"])
    assert content["num_samples"] == 24
    assert content["features"] == "pixels"
    with Image.open(tmp_path / "new" / "picture.png") as picture:
        assert picture.mode == "RGB"
    assert "two halves of the data" in result.stdout
    assert "best: num_steps=" in result.stdout


@pytest.mark.slow
def test_bad_input_is_one_line_and_status_1(store, tmp_path):
    save_folder(tiny.flow_pipeline(), tmp_path / "model")
    cases = {
        ("ckpt=nothing.ckpt",): "error: no checkpoint at nothing.ckpt",
        (f"ckpt={tmp_path / 'model'}", f"data_dir={tmp_path}"): "error: network.in",
        (f"ckpt={tmp_path / 'model'}", "sampler.num_steps=0"): "error: num_steps must be a whole number",
        (f"ckpt={tmp_path / 'model'}", "sampler.interval=[0.5]"): "error: sampler.interval must be [t_min,t_max]",
        (f"ckpt={tmp_path / 'model'}", "+sampler.gamma=1"): "error: FlowEuler has no argument 'gamma'",
        (): "error: a value must be given for ckpt",
    }
    for overrides, message in cases.items():
        assert run(*overrides, status=1).stderr.startswith(message)
