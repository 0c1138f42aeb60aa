"""From images to a store: the same bytes however a run is cut up, and one line for every error."""

from __future__ import annotations

import errno
import hashlib
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.images.crop import crop_image
from datamodules.loading.dataset import LatentDataset
from datamodules.preparation import prepare_latents
from datamodules.preparation.latents.plan import LatentPlan
from datamodules.preparation.latents.workspace import LatentWorkspace
from datamodules.store.reader import LatentStore
from meanflow.codecs import AutoencoderKLCodec, IdentityCodec
from meanflow.codecs.normalization import IMF, SCALE_0_18215, identity
from tests import images
from tests.datamodules.preparation.interruption import held_lock, kill_at_rename

RESOLUTION = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source")
    images.write_class_folders(path, num_images=10)
    return path


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    return images.write_autoencoder(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def whole(source, vae, tmp_path_factory) -> Path:
    """The store of an uninterrupted run: shards of 4, parts of 3, 1, 3, 1 and 2 images."""
    out = tmp_path_factory.mktemp("whole") / "store"
    prepare(source, out, vae)
    return out


def prepare(source: Path, out: Path, vae: Path, **arguments) -> str:
    settings = {"resolution": RESOLUTION, "batch_size": 3, "shard_size": 4, "num_workers": 0, "device": "cpu"}
    return prepare_latents(source, out, AutoencoderKLCodec(vae), **(settings | arguments))


def checksums(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def assert_close_in_half(a: torch.Tensor, b: torch.Tensor) -> None:
    """Check that latents are equal up to the rounding to float16 and the effect of the batch on the encoder."""
    torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def test_a_store_holds_the_moments_of_the_crops(source, vae, whole):
    store = LatentStore(whole)
    store.verify()
    assert sorted(checksums(whole)) == [
        "labels.npy",
        "manifest.json",
        *(f"shard-{k:05d}.npy" for k in range(3)),
        "source_ends.npy",
        "sources.txt",
    ]
    assert [path.name for path in whole.parent.iterdir()] == ["store"]
    names = sorted(file.relative_to(source).as_posix() for file in source.rglob("*.png"))
    assert list(store.sources) == names
    assert store.sources[2:4] == names[2:4]
    assert store.manifest.class_names == ("n0", "n1", "n2")
    crops = torch.stack(
        [torch.from_numpy(crop_image(images.picture(int(name[9:12])), RESOLUTION).pixels) for name in names]
    )
    moments = AutoencoderKLCodec(vae).encode(crops.float() / 127.5 - 1)
    mean, std, y = store.gather(np.arange(10))
    assert_close_in_half(mean, moments.mean)
    assert_close_in_half(std, moments.std)
    assert y.tolist() == [int(name[7]) for name in names]
    assert store.manifest.normalization == SCALE_0_18215  # the scaling factor of the autoencoder
    batch = LatentDataset(store, images=True).__getitems__([3, 13])
    assert torch.equal(batch.image, torch.stack([crops[3], crops[3].flip(-1)]))


@pytest.mark.parametrize("moment", range(12))
def test_a_run_that_stops_anywhere_goes_on_to_the_same_bytes(source, vae, whole, tmp_path, monkeypatch, moment):
    out = tmp_path / "store"
    kill_at_rename(monkeypatch, moment, moment % 2 == 1, lambda: prepare(source, out, vae))
    assert not (tmp_path / "store").exists()
    prepare(source, tmp_path / "store", vae)
    assert checksums(tmp_path / "store") == checksums(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_worker_processes_and_ranks_make_the_same_bytes(source, vae, whole, tmp_path):
    out = tmp_path / "store"
    assert "rank 1 has done its part; 2 of 3 shards" in prepare(source, out, vae, rank=1, world_size=2)
    assert not out.exists()
    assert "10 moments of 3 classes" in prepare(source, out, vae, rank=0, world_size=2, num_workers=2)
    assert checksums(out) == checksums(whole)
    assert "10 moments of 3 classes" in prepare(source, out, vae, rank=1, world_size=2)  # nothing is left to do


def test_a_rank_may_find_that_another_one_has_finished(source, vae, whole, tmp_path, monkeypatch):
    """Both ranks have encoded their shards when one of them publishes the store and removes the workspace."""
    prepare(source, tmp_path / "store", vae, rank=0, world_size=2)
    totals = LatentWorkspace.totals

    def be_overtaken(workspace: LatentWorkspace, plan: LatentPlan) -> dict[str, int]:
        with monkeypatch.context() as patch:
            patch.setattr(LatentWorkspace, "totals", totals)
            prepare(source, tmp_path / "store", vae, rank=0, world_size=2)
        return totals(workspace, plan)

    monkeypatch.setattr(LatentWorkspace, "totals", be_overtaken)
    assert "10 moments of 3 classes" in prepare(source, tmp_path / "store", vae, rank=1, world_size=2)
    assert checksums(tmp_path / "store") == checksums(whole)


def test_a_zip_file_and_a_flat_folder_hold_the_same_latents(vae, whole, tmp_path, source):
    archive = images.write_zip(source, tmp_path / "images.zip")
    prepare(archive, tmp_path / "zipped", vae, num_workers=1)
    for name in ("shard-00000.npy", "labels.npy", "sources.txt"):
        assert checksums(tmp_path / "zipped")[name] == checksums(whole)[name]
    assert LatentDataset(LatentStore(tmp_path / "zipped"), images=True)[3].image.shape == (1, 3, 8, 8)

    images.write_flat(tmp_path / "flat")
    prepare(tmp_path / "flat", tmp_path / "of_flat", vae, num_classes=7)
    store = LatentStore(tmp_path / "of_flat")
    assert store.manifest.num_classes == 7
    assert store.labels.tolist() == [number % 3 for number in range(10)]
    by_label = np.argsort(store.labels.numpy(), kind="stable")
    assert_close_in_half(store.gather(by_label)[0], LatentStore(whole).gather(np.arange(10))[0])


def test_flipped_copies_are_latents_of_flipped_images(source, vae, tmp_path):
    prepare(source, tmp_path / "store", vae, flipped_copies=True, dtype="float32", normalization="imf")
    store = LatentStore(tmp_path / "store")
    store.verify()
    assert store.manifest.normalization == IMF
    crop = torch.from_numpy(crop_image(images.picture(0), RESOLUTION).pixels)[None].float() / 127.5 - 1
    expected = AutoencoderKLCodec(vae).encode(crop.flip(-1))
    batch = LatentDataset(store).__getitems__([0, 10])
    torch.testing.assert_close(batch.mean[1], IMF.normalize(expected.mean)[0])
    torch.testing.assert_close(batch.std[1], IMF.normalize_std(expected.std)[0])
    assert not torch.allclose(batch.mean[1], batch.mean[0].flip(-1), atol=1e-3)  # the encoder is not symmetric


def test_bf16_is_close_to_fp32(source, vae, whole, tmp_path):
    prepare(source, tmp_path / "store", vae, precision="bf16")
    first, second = (LatentStore(path).gather(np.arange(10))[0] for path in (whole, tmp_path / "store"))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, second, rtol=0.05, atol=0.05)


def test_pixels_are_kept_by_the_identity_and_can_be_encoded_again(source, vae, whole, tmp_path):
    arguments = {"resolution": RESOLUTION, "num_workers": 0, "device": "cpu"}
    prepare_latents(source, tmp_path / "pixels", IdentityCodec(3), **arguments)
    store = LatentStore(tmp_path / "pixels")
    assert store.manifest.kind == "latents"
    assert store.manifest.normalization == identity(3)
    with pytest.raises(ValueError, match="resolution must be 8, as in the store"):
        prepare(tmp_path / "pixels", tmp_path / "again", vae, resolution=4)
    prepare(tmp_path / "pixels", tmp_path / "again", vae)
    again = LatentStore(tmp_path / "again")
    assert again.manifest.class_names == ("n0", "n1", "n2")
    assert_close_in_half(again.gather(np.arange(10))[0], LatentStore(whole).gather(np.arange(10))[0])
    image = LatentDataset(again, images=True)[3].image
    assert torch.equal(image, LatentDataset(store, images=True)[3].image)


def bad_folder(path: Path) -> Path:
    """Write ten files, three of which are no images."""
    images.write_class_folders(path)
    (path / "train" / "n0" / "000.png").write_bytes(b"")
    (path / "train" / "n1" / "004.png").write_text("<html>not found</html>")
    whole = (path / "train" / "n2" / "008.png").read_bytes()
    (path / "train" / "n2" / "008.png").write_bytes(whole[: len(whole) // 2])
    return path


def test_bad_images_are_listed_with_their_reasons(vae, tmp_path, capsys):
    line = prepare(bad_folder(tmp_path / "images"), tmp_path / "store", vae, max_bad=3)
    assert line.endswith("3 bad images are listed in its manifest")
    store = LatentStore(tmp_path / "store")
    store.verify()
    assert len(store) == 7
    bad = {entry["source"]: entry["reason"] for entry in store.manifest.bad_images}
    assert bad["train/n0/000.png"] == "empty file"
    assert bad["train/n1/004.png"] == "no known image format"
    assert "truncated" in bad["train/n2/008.png"] or "broken" in bad["train/n2/008.png"]
    shown = capsys.readouterr().out
    assert all(f"bad image {name}: {reason}" in shown for name, reason in bad.items())
    assert not set(bad) & set(store.sources)


def test_too_many_bad_images_are_an_error_and_nothing_is_lost(vae, tmp_path):
    source = bad_folder(tmp_path / "images")
    with pytest.raises(ValueError, match=r"2 images cannot be decoded, max_bad is 1; the last is train/n1/004\.png"):
        prepare(source, tmp_path / "store", vae, max_bad=1)
    before = {file.name: file.stat().st_mtime_ns for file in LatentWorkspace(tmp_path / "store").store.iterdir()}
    assert before
    prepare(source, tmp_path / "store", vae, max_bad=3)
    assert all((tmp_path / "store" / name).stat().st_mtime_ns == time for name, time in before.items())
    prepare(source, tmp_path / "at_once", vae, max_bad=3)
    assert checksums(tmp_path / "store") == checksums(tmp_path / "at_once")


def test_a_source_without_any_image_that_can_be_read(vae, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "x.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="none of its 1 images can be decoded"):
        prepare(tmp_path / "images", tmp_path / "store", vae)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"resolution": 9}, ValueError, r"resolution must be a multiple of 2 for the codec .*, got 9"),
        ({"max_bad": -1}, ValueError, "max_bad must be at least 0, got -1"),
        ({"num_workers": -1}, ValueError, "num_workers must be at least 0, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"precision": "fp16"}, ValueError, r"precision must be one of \['fp32', 'bf16'\], got 'fp16'"),
        ({"dtype": "bfloat16"}, ValueError, r"dtype must be one of .* got 'bfloat16'"),
        ({"normalization": "dmf"}, ValueError, r"normalization must be null, identity or one of .*, got 'dmf'"),
        ({"num_classes": 2}, ValueError, "num_classes is 2, .* has 3 classes"),
        ({"rank": 1}, ValueError, "rank and world_size go together, got 1 and None"),
        ({"rank": 2, "world_size": 2}, ValueError, r"rank must lie in \[0, world_size = 2\), got 2"),
        ({"device": "abacus"}, ValueError, "device must be auto, cpu, cuda or cuda:N, got 'abacus'"),
        ({"source": "nowhere"}, FileNotFoundError, "nowhere: there is no such folder or zip file"),
    ],
)
def test_bad_values_are_one_line_and_leave_nothing(source, vae, tmp_path, arguments, kind, message):
    source = arguments.pop("source", source)
    with pytest.raises(kind, match=message) as caught:
        prepare(source, tmp_path / "store", vae, **arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_source_leaves_nothing(vae, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="there are no images in it"):
        prepare(tmp_path / "images", tmp_path / "store", vae)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_latent_that_is_not_finite_is_named(source, tmp_path):
    class Broken(IdentityCodec):
        def encode(self, images):
            return super().encode(images * 1e6)

    with pytest.raises(ValueError, match=r"train/n0/000\.png: its latent is not finite in float16"):
        prepare_latents(source, tmp_path / "store", Broken(3), RESOLUTION, num_workers=0, device="cpu")


def test_a_store_of_another_configuration_is_not_touched(source, vae, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    before = checksums(whole)
    assert "10 moments" in prepare(source, tmp_path / "store", vae)  # finished: nothing to do
    other = images.write_autoencoder(tmp_path / "other_vae", seed=1)
    for arguments, message in (
        ({"resolution": 4}, "resolution=8, asked for is resolution=4"),
        ({"flipped_copies": True}, "flipped_copies=False, asked for is flipped_copies=True"),
        ({"precision": "bf16"}, "precision='fp32', asked for is precision='bf16'"),
    ):
        with pytest.raises(FileExistsError, match=f"store: holds {message}; remove it or write elsewhere"):
            prepare(source, tmp_path / "store", vae, **arguments)
    with pytest.raises(FileExistsError, match="holds codec="):
        prepare(source, tmp_path / "store", other)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no valid latent store"):
        prepare(source, tmp_path / "folder", vae)
    assert checksums(tmp_path / "store") == before
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "years of work"


def test_an_unfinished_store_of_other_settings_or_weights_is_not_gone_on_with(source, vae, tmp_path):
    prepare(source, tmp_path / "store", vae, rank=0, world_size=2)
    with pytest.raises(FileExistsError, match=r"\.store\.partial: holds batch_size=3, asked for is batch_size=5"):
        prepare(source, tmp_path / "store", vae, batch_size=5)
    changed = tmp_path / "vae"
    shutil.copytree(vae, changed)
    prepare(source, tmp_path / "other", changed, rank=0, world_size=2)
    images.write_autoencoder(changed, seed=2)
    with pytest.raises(FileExistsError, match=r"\.other\.partial: holds codec_weights="):
        prepare(source, tmp_path / "other", changed)


def test_a_second_run_into_the_same_store_is_refused(source, vae, whole, tmp_path):
    workspace = LatentWorkspace(tmp_path / "store")
    workspace.make()
    with held_lock(workspace.folder / "rank-0-of-2.lock"):
        for rank, world_size in ((0, 2), (0, 1), (2, 3)):
            with pytest.raises(FileExistsError, match=r"another run is at work here \(rank-0-of-2\)"):
                prepare(source, tmp_path / "store", vae, rank=rank, world_size=world_size)
        prepare(source, tmp_path / "store", vae, rank=1, world_size=2)  # the other half of that run
    prepare(source, tmp_path / "store", vae)  # the lock of a killed run is free
    assert checksums(tmp_path / "store") == checksums(whole)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Limit the size of files, in place of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_one_line_and_nothing_is_lost(source, vae, tmp_path, small_disk):
    prepare(source, tmp_path / "whole", vae, resolution=64)
    small_disk(60_000)  # three latents of 16 kB and the lists fit, the four of a shard do not
    with pytest.raises(OSError, match=r"shard-00000\.npy cannot be written: File too large") as caught:
        prepare(source, tmp_path / "store", vae, resolution=64)
    assert caught.value.errno == errno.EFBIG
    small_disk(resource.RLIM_INFINITY)
    kept = LatentWorkspace(tmp_path / "store")
    assert len(list(kept.parts.iterdir())) == 2
    assert list(kept.store.iterdir()) == []
    prepare(source, tmp_path / "store", vae, resolution=64)
    assert checksums(tmp_path / "store") == checksums(tmp_path / "whole")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_bytes_each_time_and_nearly_those_of_a_cpu(source, vae, whole, tmp_path):
    for name in ("first", "second"):
        prepare(source, tmp_path / name, vae, device="auto", flipped_copies=True, num_workers=2)
    assert checksums(tmp_path / "first") == checksums(tmp_path / "second")
    first, second = (LatentStore(path).gather(np.arange(10))[0] for path in (whole, tmp_path / "first"))
    torch.testing.assert_close(first, second, rtol=0.01, atol=0.01)
    prepare(source, tmp_path / "bf16", vae, device="cuda:0", precision="bf16")
