"""Inception with random weights against torch-fidelity's own extractor."""

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from meanflow.files.remote import HASH_IN_NAME
from meanflow.metrics.features import InceptionFeatures, inception
from tests.metrics.random_inception import write_random_inception

NAMES = ["192", "2048", "logits_unbiased"]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    return write_random_inception(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def extractor(weights_file):
    extractor = InceptionFeatures(weights_file)
    state = torch.get_rng_state()
    extractor.prepare()
    assert torch.equal(torch.get_rng_state(), state)
    return extractor


@pytest.fixture(scope="module")
def official(weights_file):
    return FeatureExtractorInceptionV3("official", NAMES, feature_extractor_weights_path=str(weights_file))


def test_features_are_those_of_torch_fidelity(extractor, official, images):
    features = extractor(images)
    _, pooled, logits = official(images)
    assert features.pooled.shape == (2, 2048)
    assert features.logits.shape == (2, 1008)
    assert torch.equal(features.pooled, pooled)
    assert torch.equal(features.logits, logits)
    assert pooled.std(dim=0).mean() > 1e-3  # the images are different


def test_spatial_features_are_the_rectified_1x1_branch_of_mixed_6d(extractor, official, images):
    """Pixel by pixel: channel c at row h and column w is number (17 h + w) 7 + c."""
    seen = []
    official.Mixed_6c.register_forward_hook(lambda module, inputs, output: seen.append(output))
    official(images)
    branch = official.Mixed_6d.branch1x1
    maps = torch.relu(branch.bn(branch.conv(seen[0])))
    spatial = extractor(images).spatial
    assert spatial.shape == (2, 17 * 17 * 7) == (2, 2023)
    for h, w, c in ((0, 0, 0), (0, 0, 6), (0, 1, 0), (3, 11, 4), (16, 16, 6)):
        torch.testing.assert_close(spatial[:, (17 * h + w) * 7 + c], maps[:, c, h, w])
    assert spatial.min() >= 0
    assert spatial.max() > 0.1


def test_grey_images_are_repeated_and_autocast_changes_nothing(extractor, images):
    gray = images[:1, :1]
    expected = extractor(gray.repeat(1, 3, 1, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extractor(gray)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_frozen_and_in_evaluation_mode(extractor):
    assert not any(module.training for module in extractor.network.modules())
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())


def test_code_in_a_weights_file_is_refused_and_does_not_run(malicious_weights):
    path, marker = malicious_weights
    with pytest.raises(ValueError, match=r"malicious\.pth is refused: it holds (posix|nt)\.system"):
        InceptionFeatures(path).prepare()
    assert not marker.exists()


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other\.pth does not hold the weights of features 'inception': .*Missing key"
    ):
        InceptionFeatures(tmp_path / "other.pth").prepare()


def test_published_weights_are_asked_for_with_their_hash(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(inception, "local_file", lambda *arguments: asked.append(arguments) or tmp_path)
    assert InceptionFeatures().weights_file == tmp_path
    assert asked == [(URL_INCEPTION_V3,)]
    assert HASH_IN_NAME.search(URL_INCEPTION_V3)


def test_large_batches_are_divided_without_a_trace(extractor, images):
    many = torch.cat([images, images.flip(-1), images.flip(-2)])[:5]
    features = extractor(many)
    for name, rows in features._asdict().items():
        alone = torch.cat([getattr(extractor(image[None]), name) for image in many])
        torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
    assert extractor(images[:0]).pooled.shape == (0, 2048)
