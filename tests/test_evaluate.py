"""Scoring samplers and given images, and the program evaluate.py."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import evaluate
from meanflow.checkpoints import save_folder
from meanflow.distributed import Ranks
from meanflow.evaluation.reference import DataReference, chosen_data, compare_with_file, protocol_reference
from meanflow.evaluation.run import evaluate_images, evaluate_samplers
from meanflow.evaluation.scorer import ImageBatch
from meanflow.metrics.features import PixelFeatures
from meanflow.metrics.reference import Reference, ReferenceBuilder
from meanflow.metrics.reference_file import write_reference
from meanflow.samplers import ClassifierFreeGuidance, FlowEuler, FlowMapEuler, NetworkGuidance
from tests import tiny

ROOT = Path(__file__).parent.parent
METRICS = ["fd_pixels", "kid_pixels", "precision_recall_pixels"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:fd_pixels from"),  # 24 images in 16 dimensions
    pytest.mark.filterwarnings("ignore:kid_pixels from subsets of"),
]


def random_images(number: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (number, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def reference_of(images: torch.Tensor, keep: bool = True) -> Reference:
    builder = ReferenceBuilder([PixelFeatures()], kept=range(len(images)) if keep else ())
    builder.update(images, range(len(images)))
    return builder.compute()


def test_distance_of_the_data_to_itself_is_zero(store):
    data, scorer, pipeline = tiny.datamodule(store), tiny.scorer(), tiny.flow_pipeline()
    DataReference(data, 24, 7, Ranks(), Console(quiet=True)).compare(scorer, pipeline)
    images = pipeline.decode(data.latents(range(24)))
    assert scorer.score([ImageBatch(images, range(24))])["fd_pixels"] == pytest.approx(0, abs=1e-6)
    assert scorer.score([ImageBatch(255 - images, range(24))])["fd_pixels"] > 0.1


def test_rows_do_not_depend_on_the_batch_size(tmp_path):
    # Each half of the data must have more images than the features have dimensions, 16. The covariance of fewer is
    # singular, and a distance between singular covariances has about seven digits (see frechet_distance).
    data = tiny.datamodule(tiny.write_store(tmp_path / "store", num_samples=60))
    pipeline, protocol = tiny.flow_pipeline(), tiny.protocol(metrics=METRICS)
    samplers = [FlowEuler(1), FlowEuler(3, guidance=ClassifierFreeGuidance(2.0))]
    evaluations = [
        evaluate_samplers(pipeline, samplers, tiny.scorer(protocol), protocol, data=data, batch_size=size, seed=1)
        for size in (7, 60)
    ]
    for a, b in zip(*(evaluation.rows for evaluation in evaluations), strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-9)
        assert set(a.metrics) == {"fd_pixels", "kid_pixels", "kid_pixels_std", "precision_pixels", "recall_pixels"}
    assert [row.nfe for row in evaluations[0].rows] == [1, 6]
    assert evaluations[0].real_split == pytest.approx(evaluations[1].real_split, rel=1e-9)
    assert evaluations[0].headline == "fd_pixels"
    assert evaluations[0].best.metrics["fd_pixels"] == min(row.metrics["fd_pixels"] for row in evaluations[0].rows)


def test_the_best_row_of_a_metric_where_more_is_better(store):
    protocol = tiny.protocol(metrics=["precision_recall_pixels", "fd_pixels"])
    samplers = [FlowEuler(steps) for steps in (1, 2, 3, 8)]
    evaluation = evaluate_samplers(
        tiny.flow_pipeline(), samplers, tiny.scorer(protocol), protocol, data=tiny.datamodule(store)
    )
    assert evaluation.best.metrics["precision_pixels"] == max(
        row.metrics["precision_pixels"] for row in evaluation.rows
    )


def test_the_protocol_says_how_images_are_rounded(store):
    pipeline, data = tiny.flow_pipeline(), tiny.datamodule(store)
    pictures = {}
    for rounding in ("round", "truncate"):
        kept = []
        protocol = tiny.protocol(rounding=rounding)

        class Keep:
            def add(self, images, indices, kept=kept):
                kept.append(images)

            def finish(self):
                pass

        evaluate_samplers(
            pipeline,
            [FlowEuler(1)],
            tiny.scorer(),
            protocol,
            data=data,
            outputs=lambda sampler, labels, keep=Keep: [keep()],
        )
        pictures[rounding] = torch.cat(kept).int()
    difference = pictures["round"] - pictures["truncate"]
    assert set(difference.unique().tolist()) == {0, 1}


def test_beside_a_file_no_data_are_needed(tmp_path):
    write_reference(reference_of(random_images(40)), tmp_path / "reference.npz")
    protocol = tiny.protocol(metrics=METRICS, reference=str(tmp_path / "reference.npz"), num_samples=20)
    scorer = tiny.scorer(protocol)
    compare_with_file(scorer, protocol_reference(protocol), "cpu")
    evaluation = evaluate_samplers(tiny.flow_pipeline(), [FlowEuler(1)], scorer, protocol)
    assert evaluation.num_images == 20
    assert evaluation.real_split is None
    assert scorer.reference_origin["file"] == str(tmp_path / "reference.npz")
    assert len(str(scorer.reference_origin["sha256"])) == 64


def test_images_in_a_reference_stand_in_for_features(tmp_path):
    """ADM's files hold images, of which precision and recall are computed."""
    images = random_images(30)
    gaussian = reference_of(images).pooled["pixels"]
    arrays = {"mu": gaussian.mu.numpy(), "sigma": gaussian.sigma.numpy(), "arr_0": images.permute(0, 2, 3, 1).numpy()}
    np.savez(tmp_path / "adm.npz", **arrays)
    protocol = tiny.protocol(metrics=["kid_pixels"], reference=str(tmp_path / "adm.npz"))
    scorer = tiny.scorer(protocol)
    compare_with_file(scorer, protocol_reference(protocol), "cpu", batch_size=7)
    wanted = tiny.scorer(protocol)
    wanted.set_reference(reference_of(images))
    batches = [ImageBatch(random_images(20, seed=1), range(20))]
    assert scorer.score(batches) == wanted.score(batches)


def test_given_images_are_scored_as_they_are():
    protocol = tiny.protocol(reference="somewhere")
    scorer = tiny.scorer(protocol)
    scorer.set_reference(reference_of(random_images(40)))
    images = random_images(30, seed=1)
    evaluation = evaluate_images([(images[:20], range(20)), (images[20:], range(20, 30))], 30, scorer, protocol)
    assert evaluation.num_images == 30
    assert evaluation.rows[0].sampler is None
    assert evaluation.best.metrics == pytest.approx(scorer.score([ImageBatch(images, range(30))]))


def test_given_images_need_a_file():
    with pytest.raises(ValueError, match="protocol tiny compares with data, but given images need a reference file"):
        evaluate_images([], 0, tiny.scorer(), tiny.protocol())


def test_a_reference_of_other_weights_is_refused():
    class Weighted(PixelFeatures):
        def weights_sha256(self):
            return "00"

    scorer = tiny.scorer()
    scorer.extractors["pixels"] = Weighted()
    reference = Reference(reference_of(random_images(9)).pooled, weights_sha256={"pixels": "ff"})
    with pytest.raises(ValueError, match="other weights of 'pixels', sha256 ff"):
        scorer.set_reference(reference)


def test_a_reference_of_images_of_another_size_is_refused():
    scorer = tiny.scorer()
    builder = ReferenceBuilder([PixelFeatures()])
    builder.update(random_images(9), range(9))
    scorer.set_reference(builder.compute({"file": "stats.npz", "resolution": 8}))
    message = r"stats.npz describes images of 8 x 8 pixels, but the images to score have 4 x 4"
    with pytest.raises(ValueError, match=message):
        scorer.score([ImageBatch(random_images(9), range(9))])


def test_samples_that_are_no_numbers_are_named(store):
    pipeline = tiny.flow_pipeline()
    with torch.no_grad():
        next(pipeline.network.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="latents must be finite, those of sample 0 are not"):
        evaluate_samplers(pipeline, [FlowEuler(1)], tiny.scorer(), tiny.protocol(), data=tiny.datamodule(store))


def test_fewer_samples_are_chosen_over_all_classes(store):
    """Stores are often sorted by class; the first samples would be of one class."""

    class Sorted:
        num_samples = 1000
        labels = torch.arange(1000) // 100

    chosen = chosen_data(Sorted(), 100)
    assert chosen == sorted(set(chosen))
    assert len(Sorted.labels[chosen].unique()) == 10
    assert chosen_data(Sorted(), 1000) == list(range(1000))


@pytest.mark.parametrize(("number", "message"), [(25, "from 4 to the 24 data, got 25"), (3, "got 3")])
def test_number_of_samples_out_of_range(number, message, store):
    with pytest.raises(ValueError, match=f"num_samples must be .*{message}"):
        evaluate_samplers(
            tiny.flow_pipeline(),
            [],
            tiny.scorer(),
            tiny.protocol(),
            data=tiny.datamodule(store),
            num_samples=number,
        )


def run(*overrides, status=0, program=()):
    environment = os.environ | {"HYDRA_FULL_ERROR": "0"}
    command = [sys.executable, *program, str(ROOT / "evaluate.py"), *overrides]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status, result.stdout + result.stderr
    return result


@pytest.fixture
def model(tmp_path):
    save_folder(tiny.flow_pipeline(), tmp_path / "model")
    return f"ckpt={tmp_path / 'model'}"


@pytest.mark.slow
def test_program_writes_results_and_pictures(model, store, tmp_path):
    result = run(
        model,
        "datamodule=latents",
        f"datamodule.path={store}",
        "sampler.num_steps=[1,2]",
        "sampler.guidance.omega=[1.5,2]",
        "sampler.guidance.interval=[0.2,0.9]",
        f"results={tmp_path / 'new' / 'results.json'}",
        "save=[grid,png,npz]",
        f"save_to={tmp_path / 'samples'}",
    )
    content = json.loads((tmp_path / "new" / "results.json").read_text())
    grid = [(row["sampler"]["num_steps"], row["sampler"]["guidance"]["omega"]) for row in content["rows"]]
    assert grid == [(1, 1.5), (1, 2), (2, 1.5), (2, 2)]
    assert all(row["sampler"]["guidance"]["interval"] == [0.2, 0.9] for row in content["rows"])
    assert [row["nfe"] for row in content["rows"]] == [1, 1, 3, 3]  # t = 1 is outside the interval
    assert content["metrics"] == content["best"]["metrics"]
    assert content["metrics"]["fd_pixels"] == min(row["metrics"]["fd_pixels"] for row in content["rows"])
    assert content["num_images"] == 24
    assert content["protocol"]["name"] == "pixels"
    assert content["protocol"]["rounding"] == "round"
    assert content["protocol"]["labels"] == {"name": "DataLabels"}
    assert content["features"] == {"pixels": {"weights_sha256": None}}
    assert len(content["ckpt"]["sha256"]) == 64
    assert content["seed"] == 0
    assert content["num_processes"] == 1
    assert {"torch", "torch-fidelity", "meanflow", "python"} <= set(content["versions"])
    assert content["hardware"]["device"] == "cpu"
    folder = tmp_path / "samples" / "num_steps=2,omega=2"
    with Image.open(folder / "grid.png") as picture:
        assert picture.mode == "RGB"
    with np.load(folder / "samples.npz") as file:
        assert file["arr_0"].shape == (24, 4, 4, 1)
        for number in (0, 23):
            with Image.open(folder / "png" / f"{number:06d}.png") as image:
                assert np.array_equal(np.asarray(image), file["arr_0"][number, :, :, 0])
    assert "two halves of the data" in result.stdout
    assert "best: num_steps=" in result.stdout


def test_lists_of_settings_are_a_grid():
    sampler = FlowMapEuler(2, guidance=NetworkGuidance(7.5, (0.4, 0.65)))
    settings = {"num_steps": [1, 2], "guidance": {"omega": [7, 8], "interval": [[0.4, 0.65], [0.3, 0.7]]}}
    grid = evaluate.sampler_grid(sampler, settings)
    guidances = [(omega, interval) for omega in (7, 8) for interval in ((0.4, 0.65), (0.3, 0.7))]
    expected = [(steps, *guidance) for steps in (1, 2) for guidance in guidances]
    assert [(s.num_steps, s.guidance.omega, s.guidance.interval) for s in grid] == expected
    assert all(isinstance(s.guidance, NetworkGuidance) for s in grid)
    assert evaluate.row_name(grid[1], grid) == "num_steps=1,omega=7,interval=0.3-0.7"


def test_settings_that_are_not_given_stay():
    sampler = FlowMapEuler(2, shift=1.5, guidance=NetworkGuidance(7.5, (0.4, 0.65)))
    unset = {"num_steps": None, "guidance": {"omega": None, "interval": None}}
    [same] = evaluate.sampler_grid(sampler, unset)
    assert same.config == sampler.config
    assert evaluate.row_name(same, [same]) == ""
    [wider] = evaluate.sampler_grid(
        sampler, unset | {"guidance": {"omega": None, "interval": [0.1, 0.9]}, "shift": 1.0}
    )
    assert wider.config == sampler.config | {
        "shift": 1.0,
        "guidance": {"name": "NetworkGuidance", "omega": 7.5, "interval": [0.1, 0.9]},
    }
    with pytest.raises(ValueError, match=r"interval must be \[t_min, t_max\]"):
        evaluate.sampler_grid(sampler, {"guidance": {"interval": [0.5]}})


@pytest.mark.slow
def test_program_on_two_ranks_equals_one(model, tmp_path):
    store = tiny.write_store(tmp_path / "store", num_samples=60)  # halves of 20 in 16 dimensions: see above
    common = (model, "datamodule=latents", f"datamodule.path={store}", "protocol.metrics=[fd_pixels,kid_pixels]")
    common += ("protocol=pixels", "batch_size=5", "num_samples=41", "save=[npz,grid]")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    ways = {"one": ((), ()), "torchrun": ((), torchrun), "devices": (("devices=2",), ())}
    contents, samples, grids = {}, {}, {}
    for name, (overrides, program) in ways.items():
        result = run(
            *common, *overrides, f"results={tmp_path / name}.json", f"save_to={tmp_path / name}", program=program
        )
        assert result.stdout.count("two halves of the data") == 1
        contents[name] = json.loads((tmp_path / f"{name}.json").read_text())
        grids[name] = (tmp_path / name / "grid.png").read_bytes()
        with np.load(tmp_path / name / "samples.npz") as file:
            samples[name] = file["arr_0"]
    for name in ("torchrun", "devices"):
        assert contents[name]["num_processes"] == 2
        assert contents[name]["metrics"] == pytest.approx(contents["one"]["metrics"], rel=1e-9)
        assert contents[name]["real_split"] == pytest.approx(contents["one"]["real_split"], rel=1e-9)
        assert np.array_equal(samples[name], samples["one"])
        assert grids[name] == grids["one"]


@pytest.mark.slow
def test_program_scores_given_images(tmp_path):
    images = random_images(40)
    write_reference(reference_of(random_images(60, seed=1)), tmp_path / "reference.npz")
    np.savez(tmp_path / "samples.npz", arr_0=images.permute(0, 2, 3, 1).numpy())
    with zipfile.ZipFile(tmp_path / "samples.zip", "w") as archive:
        (tmp_path / "folder").mkdir()
        for number, image in enumerate(images):
            file = tmp_path / "folder" / f"{number:03d}.png"
            Image.fromarray(image[0].numpy()).save(file)
            archive.write(file, file.name)
    # Files become RGB, arrays stay gray: pixels differ in number, other features do not.
    run(
        f"images={tmp_path / 'samples.npz'}",
        f"reference={tmp_path / 'reference.npz'}",
        f"results={tmp_path / 'scores.json'}",
    )
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["metrics"]["fd_pixels"] > 0
    assert content["num_images"] == 40
    assert content["rows"][0]["sampler"] is None
    assert content["reference"]["file"] == str(tmp_path / "reference.npz")
    assert content["images"] == str(tmp_path / "samples.npz")
    for name in ("folder", "samples.zip"):
        message = run(f"images={tmp_path / name}", f"reference={tmp_path / 'reference.npz'}", status=1).stderr
        assert "reference.npz has 'pixels' features of 16 dimensions, those of the images have 48" in message


@pytest.mark.slow
def test_bad_input_is_one_line_and_status_1(model, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"something")
    write_reference(reference_of(random_images(9)), tmp_path / "reference.npz")
    inception = (model, "protocol=imf", f"reference={tmp_path / 'reference.npz'}")
    cases = {
        ("ckpt=nothing.ckpt",): "error: no checkpoint at nothing.ckpt",
        (model, f"data_dir={tmp_path}"): "error: network.in",
        (model, "sampler.num_steps=0"): "error: num_steps must be a whole number",
        (model, "sampler.guidance.interval=[0.5]"): "error: interval must be [t_min, t_max]",
        (model, "+sampler.gamma=1"): "error: FlowEuler has no argument 'gamma'",
        (): "error: either ckpt=PATH (a model) or images=PATH (given images) must be given",
        (model, "protocol.metrics=[fidd]"): "error: metrics must be among ['fid', 'sfid', 'is', 'kid'",
        (model, "protocol=imf"): "error: the reference of protocol imf: no file at data/references/imagenet_256_fid",
        (*inception, "features.inception.weights=nothing.pth"): "error: no file at nothing.pth (features.inception.w",
        (*inception, f"features.inception.weights={tmp_path / 'weights.pth'}"): f"error: {tmp_path / 'weights.pth'} is",
        (model, "protocol=offline", "reference=nothing.npz"): "error: the reference of protocol offline: no file at",
        (model, "save=[grid,jpg]"): "error: save must be among ['grid', 'png', 'npz'], got 'jpg'",
        ("images=nothing", "num_samples=5", "save=png"): "error: num_samples, save must be null with images=PATH",
        ("images=nothing", f"reference={tmp_path / 'none.npz'}"): "error: the reference of protocol pixels",
    }
    for overrides, message in cases.items():
        error = run(*overrides, status=1).stderr
        assert error.startswith(message)
        assert error.count("\n") == 1
