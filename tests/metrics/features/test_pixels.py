import pytest
import torch

from meanflow.metrics.features import PixelFeatures, build


def test_values():
    images = torch.tensor([[[[0, 255]]], [[[51, 204]]]], dtype=torch.uint8)
    features = PixelFeatures()(images).pooled
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, torch.tensor([[-1.0, 1.0], [-0.6, 0.6]]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 4, 4), r"images must be uint8 in \[0, 255\], got torch.float32"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"images must have shape \(B, C, H, W\), got \(1, 4, 4\)"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        PixelFeatures()(images)


def test_build_lists_the_names():
    assert isinstance(build("pixels"), PixelFeatures)
    with pytest.raises(
        ValueError,
        match=r"features must be one of \['dinov2', 'efficientnet_lite0', 'inception', 'pixels'\], got 'pixel'",
    ):
        build("pixel")
