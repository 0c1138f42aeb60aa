"""Every published protocol from a reference file in its own format to values, with networks of random weights."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from meanflow.evaluation.reference import compare_with_file, protocol_reference
from meanflow.evaluation.run import evaluate_samplers
from meanflow.evaluation.scorer import Scorer
from meanflow.metrics.features import DINOv2Features, InceptionFeatures
from meanflow.metrics.reference import ReferenceBuilder
from meanflow.samplers import FlowEuler
from tests import tiny
from tests.evaluation.test_protocol import PUBLISHED, protocol
from tests.metrics.random_inception import write_random_inception

MODEL = "vit_small_patch14_dinov2.lvd142m"
NUM_REAL = 12

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:s?f.*d.* from .* images .* biased upwards")]


@pytest.fixture(scope="module")
def extractors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model(MODEL, num_classes=0).state_dict(), folder / "dinov2.pth")
    inception = InceptionFeatures(write_random_inception(folder / "inception.pth"))
    return {"inception": inception, "dinov2": DINOv2Features(folder / "dinov2.pth", model=MODEL)}


@pytest.fixture(scope="module")
def real():
    return torch.randint(0, 256, (NUM_REAL, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files(extractors, real, tmp_path_factory):
    """A file per protocol, as its authors write it."""
    builder = ReferenceBuilder(extractors.values())
    builder.update(real, range(NUM_REAL))
    reference = builder.compute()
    (mu, sigma), (mu_s, sigma_s), (mu_d, sigma_d) = (
        (gaussian.mu.numpy(), gaussian.sigma.numpy())
        for gaussian in (reference.pooled["inception"], reference.spatial["inception"], reference.pooled["dinov2"])
    )
    folder = tmp_path_factory.mktemp("references")
    paths = {name: folder / f"{name}.npz" for name in ("adm", "jit", "imf")} | {"edm2": folder / "edm2.pkl"}
    images = real.permute(0, 2, 3, 1).numpy()
    np.savez(paths["adm"], mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s, arr_0=images)
    np.savez(paths["jit"], mu=mu, sigma=sigma)
    np.savez(paths["imf"], ref_mu=mu, ref_sigma=sigma)
    moments = {"fid": {"mu": mu, "sigma": sigma}, "fd_dinov2": {"mu": mu_d, "sigma": sigma_d}}
    paths["edm2"].write_bytes(pickle.dumps({"num_images": NUM_REAL} | moments))
    return paths


@pytest.mark.parametrize("name", PUBLISHED)
def test_from_the_file_to_values(name, files, extractors):
    used = replace(protocol(name), reference=str(files[name]), num_samples=10)
    scorer = Scorer(used.metrics, extractors)
    compare_with_file(scorer, protocol_reference(used), "cpu", batch_size=5)
    evaluation = evaluate_samplers(tiny.flow_pipeline(), [FlowEuler(1)], scorer, used)
    values = evaluation.best.metrics
    assert (
        set(values)
        == {
            "adm": {"fid", "sfid", "is_mean", "is_std", "precision", "recall"},
            "edm2": {"fid", "fd_dinov2"},
            "jit": {"fid", "is_mean", "is_std"},
            "imf": {"fid", "is_mean", "is_std"},
        }[name]
    )
    assert evaluation.headline == "fid"
    assert all(np.isfinite(value) for value in values.values())
    assert all(values[name] > 0 for name in values if name in ("fid", "sfid", "fd_dinov2"))


@pytest.mark.parametrize("name", ["jit", "edm2"])
def test_moments_alone_do_not_do_for_precision(name, files, extractors):
    used = replace(protocol(name), reference=str(files[name]), metrics=["fid", "precision_recall"])
    scorer = Scorer(used.metrics, extractors)
    with pytest.raises(ValueError, match=rf"{name}.* lacks kept features of 'inception', it has none; .*task=stats"):
        compare_with_file(scorer, protocol_reference(used), "cpu")


def test_a_file_without_what_a_protocol_measures(files, extractors):
    used = replace(protocol("edm2"), reference=str(files["jit"]))
    with pytest.raises(ValueError, match=r"jit\.npz lacks moments of pooled features of 'dinov2'"):
        compare_with_file(Scorer(used.metrics, extractors), protocol_reference(used), "cpu")
