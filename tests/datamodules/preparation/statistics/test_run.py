"""From images to reference statistics: the same numbers however a run is cut up, and one line for every error."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.images.crop import crop_image
from datamodules.preparation import prepare_latents, prepare_statistics
from datamodules.preparation.statistics.partial import PartialStatistics, read_starts
from datamodules.preparation.statistics.workspace import StatisticsWorkspace
from meanflow.codecs import AutoencoderKLCodec, IdentityCodec, round_to_uint8
from meanflow.distributed import Ranks
from meanflow.metrics import frechet_distance
from meanflow.metrics.features import EfficientNetLite0Features, ImageFeatures, PixelFeatures, efficientnet_lite0
from meanflow.metrics.reference import Reference
from meanflow.metrics.reference_file import read_reference
from tests import images, photographs
from tests.datamodules.preparation.interruption import KilledError, held_lock, kill_at_rename
from tests.photographs import needs_photographs

RESOLUTION = 4
NUM_IMAGES = 10


class GradientFeatures(PixelFeatures):
    """Differences of pixels as spatial features beside the pixels."""

    name = "gradients"

    def weights_sha256(self) -> str:
        return "0" * 64

    def __call__(self, images):
        return ImageFeatures(super().__call__(images).pooled, images.float().diff(dim=-1).flatten(1))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source")
    images.write_class_folders(path, NUM_IMAGES)
    return path


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    """The file of an uninterrupted run: parts of 3, 3, 3 and 1 images."""
    out = tmp_path_factory.mktemp("whole") / "stats.npz"
    prepare(source, out)
    return out


def prepare(source: Path, out: Path, extractors=(PixelFeatures, GradientFeatures), **arguments) -> str:
    settings = {"resolution": RESOLUTION, "num_features": 4, "batch_size": 3, "save_seconds": 0, "num_workers": 0}
    features = {extractor.name: extractor() for extractor in extractors}
    return prepare_statistics(source, out, features, **({"device": "cpu"} | settings | arguments))


def assert_equal(a: Reference, b: Reference, tolerance: float = 0.0) -> None:
    """Check that matrices are equal relative to their largest entry, and that kept features are equal."""
    for first, second in ((a.pooled, b.pooled), (a.spatial, b.spatial)):
        assert first.keys() == second.keys()
        for name in first:
            assert first[name].num_samples == second[name].num_samples
            for x, y in zip(first[name][:2], second[name][:2], strict=True):
                assert (x - y).abs().max() <= tolerance * y.abs().max()
    assert a.features.keys() == b.features.keys()
    assert all(torch.equal(a.features[name], b.features[name]) for name in a.features)


def crops(source: Path) -> torch.Tensor:
    names = sorted(source.rglob("*.png"))
    return torch.stack([torch.from_numpy(crop_image(images.picture(int(n.stem)), RESOLUTION).pixels) for n in names])


def test_a_file_holds_the_moments_of_the_crops_and_says_what_they_are(source, whole):
    reference = read_reference(whole)
    features = GradientFeatures()(crops(source))
    for moments, x in (
        (reference.pooled["pixels"], features.pooled),
        (reference.pooled["gradients"], features.pooled),
        (reference.spatial["gradients"], features.spatial),
    ):
        assert moments.num_samples == NUM_IMAGES
        torch.testing.assert_close(moments.mu, x.double().mean(dim=0))
        torch.testing.assert_close(moments.sigma, torch.cov(x.double().T))
    assert reference.spatial.keys() == {"gradients"}
    assert reference.weights_sha256 == {"gradients": "0" * 64}
    for kept in reference.features.values():
        assert kept.dtype == torch.float32
        rows = [int((features.pooled == row).all(dim=1).nonzero()) for row in kept]
        assert len(rows) == 4
        assert rows == sorted(rows)
    expected = {
        "source": str(source),
        "images": "files",
        "crop": "centre crop of ADM, RGB",
        "resolution": RESOLUTION,
        "num_images": NUM_IMAGES,
        "features": {"pixels": None, "gradients": "0" * 64},
        "bad_images": [],
    }
    assert expected.items() <= reference.origin.items()
    assert {"meanflow", "torch"} <= reference.origin["versions"].keys()
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]


@pytest.mark.parametrize("moment", range(16))
def test_a_run_that_stops_anywhere_goes_on_to_the_same_bytes(source, whole, tmp_path, monkeypatch, moment):
    kill_at_rename(monkeypatch, moment // 2, moment % 2 == 1, lambda: prepare(source, tmp_path / "stats.npz"))
    prepare(source, tmp_path / "stats.npz")
    assert (tmp_path / "stats.npz").read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["stats.npz"]


def test_what_was_kept_is_not_read_again(source, whole, tmp_path, monkeypatch):
    class Interrupted(PixelFeatures):
        num_calls = 0

        def __call__(self, images):
            self.num_calls += 1
            if self.num_calls == 4:
                raise KilledError
            return super().__call__(images)

    with pytest.raises(KilledError):
        prepare(source, tmp_path / "stats.npz", (Interrupted, GradientFeatures))
    opened = []
    original = images.Image.open
    monkeypatch.setattr(images.Image, "open", lambda file, **kw: opened.append(file) or original(file, **kw))
    prepare(source, tmp_path / "stats.npz")
    assert len(opened) == 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_make_the_same_bytes(source, whole, tmp_path, num_workers):
    prepare(source, tmp_path / "stats.npz", num_workers=num_workers, save_seconds=60)
    assert (tmp_path / "stats.npz").read_bytes() == whole.read_bytes()


def test_ranks_one_after_the_other_agree_with_one(source, whole, tmp_path):
    out = tmp_path / "stats.npz"
    line = prepare(source, out, rank=1, world_size=2)
    assert line == f"{out}: rank 1 has done its part; 6 of 10 images are still to come"
    assert not out.exists()
    assert "statistics of 10 images" in prepare(source, out, rank=0, world_size=2)
    assert_equal(read_reference(out), read_reference(whole), tolerance=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ["stats.npz"]
    assert "statistics of 10 images" in prepare(source, out, rank=1, world_size=2)  # nothing is left to do


PREPARE = """
import sys
from tests.datamodules.preparation.statistics.test_run import prepare
prepare(sys.argv[1], sys.argv[2], rank=int(sys.argv[3]), world_size=2)
"""


@pytest.mark.slow
def test_ranks_at_the_same_time_agree_with_one(source, whole, tmp_path):
    out = tmp_path / "stats.npz"
    root = Path(__file__).parents[4]
    ranks = [subprocess.Popen([sys.executable, "-c", PREPARE, source, out, str(rank)], cwd=root) for rank in range(2)]
    assert [process.wait() for process in ranks] == [0, 0]
    assert_equal(read_reference(out), read_reference(whole), tolerance=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ["stats.npz"]


def test_a_rank_may_find_that_another_one_has_finished(source, whole, tmp_path, monkeypatch):
    """Both ranks have read their parts when one of them writes the file and removes the workspace."""
    out = tmp_path / "stats.npz"
    prepare(source, out, rank=0, world_size=2)
    write = PartialStatistics.write

    def write_and_be_overtaken(statistics: PartialStatistics, path: Path) -> None:
        write(statistics, path)
        prepare(source, out, rank=0, world_size=2)

    monkeypatch.setattr(PartialStatistics, "write", write_and_be_overtaken)
    assert "statistics of 10 images" in prepare(source, out, save_seconds=60, rank=1, world_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["stats.npz"]


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2, 3, 5])
def test_another_number_of_ranks_goes_on(source, whole, tmp_path, first, second):
    """In each run, the last rank is killed at its second image."""

    class Interrupted(GradientFeatures):
        num_calls = 0

        def __call__(self, images):
            self.num_calls += 1
            if self.num_calls == 2:
                raise KilledError
            return super().__call__(images)

    out = tmp_path / "stats.npz"
    arguments = {"batch_size": 1}
    for world_size in (first, second, first):
        with contextlib.suppress(KilledError):  # a rank of five may have but one image left
            prepare(source, out, (PixelFeatures, Interrupted), **arguments, rank=world_size - 1, world_size=world_size)
        assert not out.exists()
    for rank in range(second):
        prepare(source, out, **arguments, rank=rank, world_size=second)
    reference = read_reference(out)
    assert reference.origin["num_images"] == NUM_IMAGES
    assert_equal(reference, read_reference(whole), tolerance=1e-12)


def test_labels_are_of_no_concern(source, whole, tmp_path):
    (tmp_path / "flat").mkdir()
    for file in source.rglob("*.png"):  # in the order of the folders
        (tmp_path / "flat" / f"{file.parent.name}_{file.name}").write_bytes(file.read_bytes())
    archive = images.write_zip(source, tmp_path / "images.zip", prefix="set/")
    for path in (tmp_path / "flat", archive):
        prepare(path, tmp_path / f"{path.stem}.npz")
        assert_equal(read_reference(tmp_path / f"{path.stem}.npz"), read_reference(whole))


def test_a_store_of_pixels_has_the_statistics_of_its_images(source, whole, tmp_path):
    prepare_latents(source, tmp_path / "store", IdentityCodec(3), RESOLUTION, num_workers=0, device="cpu")
    with pytest.raises(ValueError, match=r"resolution must be 4, as in the store .*, got 8"):
        prepare(tmp_path / "store", tmp_path / "stats.npz", resolution=8)
    prepare(tmp_path / "store", tmp_path / "stats.npz", resolution=None, num_workers=1)
    reference = read_reference(tmp_path / "stats.npz")
    assert reference.origin["images"] == "store of pixels"
    assert_equal(reference, read_reference(whole))


def test_a_store_of_latents_is_decoded_and_the_file_says_so(source, tmp_path):
    codec = AutoencoderKLCodec(images.write_autoencoder(tmp_path / "vae"))
    prepare_latents(source, tmp_path / "store", codec, RESOLUTION, dtype="float32", num_workers=0, device="cpu")
    prepare(tmp_path / "store", tmp_path / "stats.npz")
    reference = read_reference(tmp_path / "stats.npz")
    assert reference.origin["images"] == "reconstructions by autoencoder_kl from a store of latents"
    assert reference.origin["codec"] == codec.config
    assert reference.origin["codec_weights"] == codec.fingerprint()
    decoded = round_to_uint8(codec.decode(codec.encode(crops(source).float() / 127.5 - 1).mean))
    mu = PixelFeatures()(decoded).pooled.double().mean(dim=0)
    torch.testing.assert_close(reference.pooled["pixels"].mu, mu, rtol=0, atol=1e-3)


def bad_folder(path: Path) -> Path:
    """Write ten files, two of which are no images."""
    images.write_class_folders(path)
    (path / "train" / "n0" / "000.png").write_bytes(b"")
    (path / "train" / "n2" / "008.png").write_text("<html>not found</html>")
    return path


def test_bad_images_are_left_out_and_listed(tmp_path, capsys):
    line = prepare(bad_folder(tmp_path / "images"), tmp_path / "stats.npz", num_features=10, max_bad=2, batch_size=1)
    assert "statistics of 8 images" in line
    assert line.endswith("features of 8 images are kept; 2 bad images are listed in it")
    bad = {"train/n0/000.png": "empty file", "train/n2/008.png": "no known image format"}
    origin = read_reference(tmp_path / "stats.npz").origin
    assert {entry["source"]: entry["reason"] for entry in origin["bad_images"]} == bad
    shown = capsys.readouterr().out
    assert all(f"bad image {name}: {reason}" in shown for name, reason in bad.items())


def test_too_many_bad_images_are_an_error_and_nothing_is_lost(tmp_path):
    source, message = bad_folder(tmp_path / "images"), r"2 images cannot be decoded, max_bad is 1; the last is train/n2"
    arguments = {"save_seconds": 60}
    with pytest.raises(ValueError, match=message):
        prepare(source, tmp_path / "stats.npz", max_bad=1, **arguments)
    prepare(source, tmp_path / "of_two.npz", max_bad=1, **arguments, rank=0, world_size=2)
    with pytest.raises(ValueError, match=message):  # each of two ranks has one
        prepare(source, tmp_path / "of_two.npz", max_bad=1, **arguments, rank=1, world_size=2)
    prepare(source, tmp_path / "stats.npz", max_bad=2, **arguments)
    prepare(source, tmp_path / "of_two.npz", max_bad=2, **arguments)
    prepare(source, tmp_path / "at_once.npz", max_bad=2, **arguments)
    assert (tmp_path / "stats.npz").read_bytes() == (tmp_path / "at_once.npz").read_bytes()
    assert_equal(read_reference(tmp_path / "of_two.npz"), read_reference(tmp_path / "at_once.npz"), tolerance=1e-12)


def test_a_single_image_has_no_statistics(tmp_path):
    images.write_class_folders(tmp_path / "images", 1)
    with pytest.raises(ValueError, match="statistics need at least 2 images, 1 of its 1 can be decoded"):
        prepare(tmp_path / "images", tmp_path / "stats.npz")
    assert not (tmp_path / "stats.npz").exists()


def test_features_that_are_not_finite_are_named(source, tmp_path):
    class Broken(PixelFeatures):
        def __call__(self, images):
            return ImageFeatures(super().__call__(images).pooled / 0)

    message = "images train/n0/000.png to train/n0/006.png: features must be finite"
    with pytest.raises(ValueError, match=message):
        prepare(source, tmp_path / "stats.npz", (Broken,))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"resolution": 0}, ValueError, "resolution must be at least 1, got 0"),
        ({"resolution": None}, ValueError, "a value must be given for resolution"),
        ({"max_bad": -1}, ValueError, "max_bad must be at least 0, got -1"),
        ({"num_workers": -1}, ValueError, "num_workers must be at least 0, got -1"),
        ({"num_features": -1}, ValueError, "num_features must be at least 0, got -1"),
        ({"save_seconds": -1}, ValueError, "save_seconds must be at least 0, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"extractors": ()}, ValueError, "features must name at least one extractor"),
        ({"rank": 1}, ValueError, "rank and world_size go together, got 1 and None"),
        ({"device": "abacus"}, ValueError, "device must be auto, cpu, cuda or cuda:N, got 'abacus'"),
        ({"source": "nowhere"}, FileNotFoundError, "nowhere: there is no such folder or zip file"),
        ({"out": "stats.pkl"}, ValueError, r"out must end in \.npz, got .*stats\.pkl"),
    ],
)
def test_bad_values_are_one_line_and_leave_nothing(source, tmp_path, arguments, kind, message):
    arguments = {"source": source, **arguments, "out": tmp_path / arguments.get("out", "stats.npz")}
    with pytest.raises(kind, match=message):
        prepare(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_images_leaves_nothing(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="there are no images in it"):
        prepare(tmp_path / "images", tmp_path / "stats.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_missing_weights_fail_before_any_image_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"no_such_package"):
        prepare(tmp_path / "nowhere", tmp_path / "stats.npz", (EfficientNetLite0Features,))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_other_settings_is_not_touched(source, whole, tmp_path):
    out = tmp_path / "stats.npz"
    out.write_bytes(whole.read_bytes())
    assert "statistics of 10 images" in prepare(source, out)  # finished: nothing to do
    for arguments, message in (
        ({"resolution": 8}, "resolution=4, asked for is resolution=8"),
        ({"num_features": 3}, "num_features=4, asked for is num_features=3"),
        ({"extractors": (PixelFeatures,)}, "features={.*}, asked for is features={'pixels': None}"),
    ):
        with pytest.raises(FileExistsError, match=rf"stats\.npz: holds {message}; remove it or write elsewhere"):
            prepare(source, out, **arguments)
    assert out.read_bytes() == whole.read_bytes()

    np.savez(tmp_path / "adm.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(FileExistsError, match="holds statistics that were not made from images"):
        prepare(source, tmp_path / "adm.npz")
    (tmp_path / "thesis.npz").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.npz: exists already and is no file of statistics"):
        prepare(source, tmp_path / "thesis.npz")
    assert (tmp_path / "thesis.npz").read_text() == "years of work"


def test_unfinished_statistics_of_other_settings_are_not_gone_on_with(source, tmp_path):
    prepare(source, tmp_path / "stats.npz", rank=0, world_size=2)
    message = r"stats\.npz\.partial: holds batch_size=3, asked for is batch_size=5"
    with pytest.raises(FileExistsError, match=message):
        prepare(source, tmp_path / "stats.npz", batch_size=5)


def test_a_second_run_into_the_same_file_is_refused(source, whole, tmp_path):
    workspace = StatisticsWorkspace(tmp_path / "stats.npz")
    workspace.make()
    with held_lock(workspace.folder / "rank-0-of-2.lock"):
        for rank, world_size in ((0, 2), (0, 1)):
            with pytest.raises(FileExistsError, match=r"another run is at work here \(rank-0-of-2\)"):
                prepare(source, tmp_path / "stats.npz", rank=rank, world_size=world_size)
    prepare(source, tmp_path / "stats.npz")  # the lock of a killed run is free
    assert (tmp_path / "stats.npz").read_bytes() == whole.read_bytes()


def test_parts_are_never_counted_twice(source, tmp_path):
    workspace = StatisticsWorkspace(tmp_path / "stats.npz")
    prepare(source, workspace.out, rank=0, world_size=2)
    workspace.file(Ranks(0, 3)).write_bytes(workspace.file(Ranks(0, 2)).read_bytes())
    prepare(source, workspace.out, rank=1, world_size=2)
    with pytest.raises(ValueError, match=r"rank-0-of-3.* images from 0 on are counted already"):
        prepare(source, workspace.out, rank=0, world_size=2)
    assert not workspace.out.exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_bytes_each_time_and_nearly_those_of_a_cpu(source, whole, tmp_path):
    for name in ("first.npz", "second.npz"):
        prepare(source, tmp_path / name, device="auto", num_workers=2)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    reference, expected = read_reference(tmp_path / "first.npz"), read_reference(whole)
    torch.testing.assert_close(reference.pooled["pixels"].sigma, expected.pooled["pixels"].sigma)
    torch.testing.assert_close(reference.spatial["gradients"].sigma, expected.spatial["gradients"].sigma)


SCRIPT = Path(__file__).parents[4] / "prepare.py"


def start(source: Path, out: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, SCRIPT, "task=stats", f"source={source}", f"out={out}", "features=[efficientnet_lite0]"]
    command += ["resolution=64", "batch_size=4", "num_workers=0", "save_seconds=0", "device=cpu", *arguments]
    return subprocess.Popen(command, cwd=out.parent, stdout=subprocess.DEVNULL)


def num_read(workspace: StatisticsWorkspace) -> int:
    """Number of images in the file of the only rank."""
    file = workspace.file(Ranks())
    return 4 * len(read_starts([file])) if file.exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec(efficientnet_lite0.PACKAGE) is None, reason="the package with the weights is not installed"
)
@needs_photographs
def test_photographs_killed_and_shared_by_processes(tmp_path):
    """Read MEANFLOW_NUM_IMAGES photographs, 48 by default; all 1000 take minutes."""
    num_images = int(os.environ.get("MEANFLOW_NUM_IMAGES", "48"))
    (tmp_path / "images").mkdir()
    for file in sorted(photographs.FOLDER.rglob("*.JPEG"))[:num_images]:
        (tmp_path / "images" / file.name).symlink_to(file)
    assert start(tmp_path / "images", tmp_path / "one.npz").wait() == 0
    pair = [start(tmp_path / "images", tmp_path / "two.npz", f"rank={rank}", "world_size=2") for rank in range(2)]
    assert [process.wait() for process in pair] == [0, 0]
    workspace = StatisticsWorkspace(tmp_path / "killed.npz")
    for num_kept in (num_images // 4, num_images // 2, 3 * num_images // 4):
        process = start(tmp_path / "images", workspace.out)
        while process.poll() is None and num_read(workspace) < num_kept:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start(tmp_path / "images", workspace.out).wait() == 0
    assert (tmp_path / "killed.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()
    one, two = read_reference(tmp_path / "one.npz"), read_reference(tmp_path / "two.npz")
    assert one.origin["num_images"] == num_images
    assert_equal(two, one, tolerance=1e-10)
    assert frechet_distance(one.pooled["efficientnet_lite0"], two.pooled["efficientnet_lite0"]) < 1e-6

    halves = []
    for number in range(2):
        half = tmp_path / f"half_{number}"
        half.mkdir()
        for file in sorted((tmp_path / "images").iterdir())[number::2]:
            (half / file.name).symlink_to(file.resolve())
        prepare(half, tmp_path / f"half_{number}.npz", (EfficientNetLite0Features,), resolution=64, batch_size=4)
        halves.append(read_reference(tmp_path / f"half_{number}.npz").pooled["efficientnet_lite0"])
    assert frechet_distance(*halves) > 1
