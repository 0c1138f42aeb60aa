import pytest
import torch

from meanflow.evaluation.compare_references import compare_references
from meanflow.metrics import Gaussian
from meanflow.metrics.reference import Reference
from meanflow.metrics.reference_file import write_reference


def write(path, weights="0" * 64, **means):
    moments = {name: Gaussian(torch.tensor(mu).double(), torch.eye(len(mu)).double(), 9) for name, mu in means.items()}
    write_reference(Reference(moments, weights_sha256=dict.fromkeys(moments, weights)), path)
    return path


def test_features_in_common_are_compared(tmp_path):
    a = write(tmp_path / "a.npz", pixels=[1.0, 2.0], inception=[4.0])
    b = write(tmp_path / "b.npz", pixels=[1.0, 5.0])
    line = "pixels: Fréchet distance 9, largest difference of mu 1.5e+00, of sigma 0.0e+00"
    assert compare_references(a, b) == line
    assert compare_references(a, a).count("Fréchet distance 0,") == 2
    other = write(tmp_path / "c.npz", weights="1" * 64, pixels=[1.0, 5.0])
    assert compare_references(a, other).startswith(line + "\npixels: extracted with different weights")


def test_nothing_in_common_is_named(tmp_path):
    a, b = write(tmp_path / "a.npz", pixels=[1.0]), write(tmp_path / "b.npz", inception=[1.0])
    with pytest.raises(ValueError, match=r"a\.npz has features \['pixels'\] and .*b\.npz has \['inception'\]: none in"):
        compare_references(a, b)
