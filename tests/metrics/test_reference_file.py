"""Reference statistics of other projects."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from meanflow.metrics import frechet_distance, read_reference

DATA = Path(__file__).parent.parent / "golden" / "data" / "formats" / "fid_stats" / "data"


def moments(dim=3):
    return {"mu": np.arange(dim, dtype=np.float64), "sigma": np.eye(dim)}


def pickled(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def test_every_published_form():
    pkl, edm, imf = (read_reference(DATA / name) for name in ("dmf_ref.pkl", "edm_ref.npz", "imf_jax_ref.npz"))
    assert list(pkl) == ["fid", "fd_dinov2"]
    assert list(edm) == list(imf) == ["fid"]
    assert isinstance(pkl["fid"].num_samples, int)
    assert edm["fid"].num_samples is None
    assert frechet_distance(pkl["fid"], edm["fid"]) < 1e-9
    assert torch.equal(edm["fid"].sigma, imf["fid"].sigma)


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol(tmp_path, protocol):
    path = pickled(tmp_path / "ref.pkl", {"num_images": 7, "fid": moments(), "notes": ["a", 1.5]}, protocol)
    (gaussian,) = read_reference(path).values()
    assert gaussian.mu.tolist() == [0, 1, 2]
    assert gaussian.mu.dtype == torch.float64
    assert gaussian.num_samples == 7


def test_names_of_numpy_1(tmp_path):
    content = pickle.dumps({"fid": moments()}, protocol=2)
    (tmp_path / "ref.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    assert torch.equal(read_reference(tmp_path / "ref.pkl")["fid"].sigma, torch.eye(3, dtype=torch.float64))


class MakeFolder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_is_refused_and_named(tmp_path, protocol):
    path = pickled(tmp_path / "ref.pkl", {"fid": moments(), "more": MakeFolder(tmp_path / "touched")}, protocol)
    with pytest.raises(ValueError, match=r"ref\.pkl is refused: it holds (posix|nt)\.mkdir besides arrays"):
        read_reference(path)
    objects = np.array([MakeFolder(tmp_path / "touched")], dtype=object)
    path = pickled(tmp_path / "ref.pkl", {"fid": {"mu": objects, "sigma": objects}}, protocol)
    with pytest.raises(ValueError, match="is refused: it holds"):
        read_reference(path)
    np.savez(tmp_path / "ref.npz", mu=objects, sigma=objects)
    with pytest.raises(ValueError, match=r"ref\.npz is damaged: Object arrays cannot be loaded"):
        read_reference(tmp_path / "ref.npz")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no reference statistics, but a list"),
        ({"num_images": 3}, r"holds no reference statistics: it has \['num_images'\]"),
        ({"fid": {"mu": np.ones(3)}}, "ref.pkl, fid: sigma must be an array of floating-point numbers, got NoneType"),
        ({"fid": {"mu": np.ones(3), "sigma": np.eye(2)}}, r"mu \(3,\) and sigma \(2, 2\) must be \(D,\) and \(D, D\)"),
        ({"fid": {"mu": np.full(2, np.nan), "sigma": np.eye(2)}}, "mu must be finite"),
        ({"fid": {"mu": np.array([{}]), "sigma": np.eye(1)}}, "mu must be an array of floating-point numbers"),
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
