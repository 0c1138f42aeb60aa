"""Reference statistics of other projects."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from meanflow.metrics import Gaussian, Reference, frechet_distance, read_reference, write_reference
from meanflow.metrics.features import PixelFeatures
from meanflow.metrics.reference import ReferenceBuilder
from tests.metrics.malicious import Malicious

DATA = Path(__file__).parent.parent / "golden" / "data" / "formats" / "fid_stats" / "data"


def moments(dim=3):
    return {"mu": np.arange(dim, dtype=np.float64), "sigma": np.eye(dim)}


def pickled(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def test_every_published_form():
    pkl, edm, imf = (read_reference(DATA / name) for name in ("dmf_ref.pkl", "edm_ref.npz", "imf_jax_ref.npz"))
    assert list(pkl.pooled) == ["inception", "dinov2"]
    assert list(edm.pooled) == list(imf.pooled) == ["inception"]
    assert frechet_distance(pkl.pooled["inception"], edm.pooled["inception"]) < 1e-9
    assert torch.equal(edm.pooled["inception"].sigma, imf.pooled["inception"].sigma)
    assert isinstance(pkl.origin["num_images"], int)
    assert pkl.pooled["dinov2"].num_samples == pkl.origin["num_images"]
    assert edm.origin["num_images"] is None
    for name, reference in (("dmf_ref.pkl", pkl), ("edm_ref.npz", edm), ("imf_jax_ref.npz", imf)):
        assert reference.origin["file"] == reference.name == str(DATA / name)
        assert reference.origin["sha256"] == hashlib.sha256((DATA / name).read_bytes()).hexdigest()
        assert reference.spatial == reference.features == reference.weights_sha256 == {}
        assert not reference.origin["has_images"]


def test_the_form_of_adm(tmp_path):
    spatial = {"mu_s": np.ones(2, dtype=np.float32), "sigma_s": 2 * np.eye(2)}
    images = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "adm.npz", arr_0=images, arr_1=np.arange(4), **moments(), **spatial)
    reference = read_reference(tmp_path / "adm.npz")
    assert reference.pooled["inception"].mu.tolist() == [0, 1, 2]
    assert torch.equal(reference.spatial["inception"].sigma, 2 * torch.eye(2, dtype=torch.float64))
    assert reference.spatial["inception"].mu.dtype == torch.float64
    assert reference.origin["has_images"]


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol(tmp_path, protocol):
    path = pickled(tmp_path / "ref.pkl", {"num_images": 7, "fid": moments(), "notes": ["a", 1.5]}, protocol)
    (gaussian,) = read_reference(path).pooled.values()
    assert gaussian.mu.tolist() == [0, 1, 2]
    assert gaussian.mu.dtype == torch.float64
    assert gaussian.num_samples == 7


def test_names_of_numpy_1(tmp_path):
    content = pickle.dumps({"fid": moments()}, protocol=2)
    (tmp_path / "ref.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    reference = read_reference(tmp_path / "ref.pkl")
    assert torch.equal(reference.pooled["inception"].sigma, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_is_refused_and_named(tmp_path, protocol):
    """In a pickle, in an array of a pickle, in an array of a .npz file (more in test_plain_pickle.py)."""
    marker = tmp_path / "marker"
    path = pickled(tmp_path / "ref.pkl", {"fid": moments(), "more": Malicious(marker)}, protocol)
    with pytest.raises(ValueError, match=r"ref\.pkl is refused: it holds (posix|nt)\.system besides arrays"):
        read_reference(path)
    objects = np.array([Malicious(marker)], dtype=object)
    path = pickled(tmp_path / "ref.pkl", {"fid": {"mu": objects, "sigma": objects}}, protocol)
    with pytest.raises(ValueError, match=r"ref\.pkl is refused: it holds an array of 'O8'"):
        read_reference(path)
    np.savez(tmp_path / "ref.npz", mu=objects, sigma=objects)
    with pytest.raises(ValueError, match=r"ref\.npz is damaged: mu: Object arrays cannot be loaded"):
        read_reference(tmp_path / "ref.npz")
    np.savez(tmp_path / "ref.npz", metadata=objects)
    with pytest.raises(ValueError, match=r"ref\.npz is damaged: metadata: Object arrays cannot be loaded"):
        read_reference(tmp_path / "ref.npz")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no reference statistics, but a list"),
        ({"num_images": 3}, r"holds no reference statistics: it has \['num_images'\]"),
        ({"fid": {"mu": np.ones(3)}}, "ref.pkl, fid: sigma must be an array of floating-point numbers, got NoneType"),
        ({"fid": {"mu": np.ones(3), "sigma": np.eye(2)}}, r"mu \(3,\) and sigma \(2, 2\) must be \(D,\) and \(D, D\)"),
        ({"fid": {"mu": np.full(2, np.nan), "sigma": np.eye(2)}}, "mu must be finite"),
        ({"fid": {"mu": np.arange(2), "sigma": np.eye(2)}}, "mu must be an array of floating-point numbers, got int64"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_reference(pickled(tmp_path / "ref.pkl", content))


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no reference statistics at"):
        read_reference(tmp_path / "none.npz")
    for name in ("dmf_ref.pkl", "edm_ref.npz"):
        content = (DATA / name).read_bytes()
        for size in (len(content) // 2, 1):
            (tmp_path / name).write_bytes(content[:size])
            with pytest.raises(ValueError, match=f"{name} is truncated"):
                read_reference(tmp_path / name)
    np.savez(tmp_path / "other.npz", a=np.ones(1))
    with pytest.raises(ValueError, match=r"it has \['a'\] in place of mu and sigma, or ref_mu and ref_sigma"):
        read_reference(tmp_path / "other.npz")


def gaussian(dim, num_samples=9, seed=0):
    x = torch.randn(2 * dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Gaussian(x.mean(dim=0), torch.cov(x.T), num_samples)


@pytest.fixture
def reference():
    return Reference(
        pooled={"inception": gaussian(4), "dinov2": gaussian(3, seed=1), "pixels": gaussian(2, seed=2)},
        spatial={"inception": gaussian(5, seed=3)},
        features={"inception": torch.rand(6, 4), "dinov2": torch.rand(7, 3)},
        weights_sha256={"inception": "ab" * 32, "dinov2": "cd" * 32},
        origin={"source": "images", "resolution": 256, "crop": "center"},
    )


def test_what_is_written_is_read(reference, tmp_path):
    write_reference(reference, tmp_path / "ours.npz")
    found = read_reference(tmp_path / "ours.npz")
    for kind in ("pooled", "spatial"):
        expected = getattr(reference, kind)
        assert getattr(found, kind).keys() == expected.keys()
        for name, moments in getattr(found, kind).items():
            assert torch.equal(moments.mu, expected[name].mu)
            assert torch.equal(moments.sigma, expected[name].sigma)
            assert moments.num_samples == 9
    assert found.features.keys() == reference.features.keys()
    assert all(torch.equal(found.features[name], reference.features[name]) for name in found.features)
    assert found.weights_sha256 == reference.weights_sha256
    assert found.origin.items() >= (reference.origin | {"num_images": 9, "has_images": False}).items()
    assert found.origin["file"] == str(tmp_path / "ours.npz")
    assert found.origin["versions"]["torch"] == torch.__version__.split("+")[0]


def test_other_programs_find_their_keys_without_pickles(reference, tmp_path):
    write_reference(reference, tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as file:
        assert np.array_equal(file["mu"], reference.pooled["inception"].mu)
        assert np.array_equal(file["sigma_s"], reference.spatial["inception"].sigma)
        inception = {"mu", "sigma", "mu_s", "sigma_s", "inception.features"}
        others = {"dinov2.mu", "dinov2.sigma", "dinov2.features", "pixels.mu", "pixels.sigma"}
        assert set(file) == inception | others | {"metadata"}
        assert json.loads(str(file["metadata"]))["extractors"]["pixels"] == {"weights_sha256": None, "num_images": 9}


def test_writing_again_gives_the_same_bytes_and_new_whereabouts(reference, tmp_path):
    for name in ("a.npz", "b.npz"):
        write_reference(reference, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    write_reference(read_reference(tmp_path / "a.npz"), tmp_path / "copy.npz")
    copy = read_reference(tmp_path / "copy.npz")
    assert copy.origin["file"] == str(tmp_path / "copy.npz")
    assert copy.origin["sha256"] == hashlib.sha256((tmp_path / "copy.npz").read_bytes()).hexdigest()
    assert copy.origin["source"] == "images"
    assert torch.equal(copy.pooled["dinov2"].sigma, reference.pooled["dinov2"].sigma)


def test_a_reference_without_statistics_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="there are no statistics to write"):
        write_reference(Reference(), tmp_path / "ours.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_built_reference_can_be_written(tmp_path):
    builder = ReferenceBuilder([PixelFeatures()])
    images = torch.randint(0, 256, (5, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    builder.update(images, keep=[True, False, True, False, False])
    write_reference(builder.compute({"source": "memory"}), tmp_path / "pixels.npz")
    found = read_reference(tmp_path / "pixels.npz")
    torch.testing.assert_close(found.pooled["pixels"].sigma, torch.cov(PixelFeatures()(images).pooled.T.double()))
    assert torch.equal(found.features["pixels"], PixelFeatures()(images[[0, 2]]).pooled)
    assert found.origin["num_images"] == 5
    assert found.weights_sha256 == {}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "its metadata are not as they were written"),
        ("[]", "its metadata are not as they were written"),
        ("{}", r"its metadata are not as they were written \(KeyError\('format_version'\)\)"),
        ({"format_version": 2}, "has format version 2, this program reads 1"),
        ({"extractors": {}}, "its metadata name no feature extractor"),
        ({"extractors": {"pixels": {"num_images": 3, "weights_sha256": None}}}, "is damaged: pixels.mu: "),
    ],
)
def test_damaged_metadata_are_named(tmp_path, metadata, message):
    if isinstance(metadata, dict):
        metadata = json.dumps({"format_version": 1, "extractors": {}, "origin": {}, "versions": {}} | metadata)
    np.savez(tmp_path / "ours.npz", metadata=np.array(metadata))
    with pytest.raises(ValueError, match=rf"ours\.npz .*{message}"):
        read_reference(tmp_path / "ours.npz")
