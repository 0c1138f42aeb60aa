import pytest
import torch

from meanflow.metrics.features import ImageFeatures, PixelFeatures
from meanflow.metrics.reference import ReferenceBuilder


class Features(PixelFeatures):
    """Pixels, and their first column as spatial features."""

    def __call__(self, images):
        return ImageFeatures(super().__call__(images).pooled, images[..., 0].flatten(1).float())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (9, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def build(images: torch.Tensor, numbers: range) -> ReferenceBuilder:
    builder = ReferenceBuilder([Features()], kept={1, 4, 8})
    for number in numbers:
        builder.update(images[number : number + 1], [number])
    return builder


def test_merging_is_streaming_in_another_order(images):
    whole = build(images, range(9)).compute()
    builder = build(images, range(5, 9))
    builder.merge(build(images, range(5)).state())
    merged = builder.compute()
    for first, second in ((merged.pooled, whole.pooled), (merged.spatial, whole.spatial)):
        torch.testing.assert_close(first["pixels"], second["pixels"], rtol=0, atol=1e-10)
        assert first["pixels"].num_samples == 9
    assert torch.equal(merged.features["pixels"], whole.features["pixels"])
    assert torch.equal(whole.features["pixels"], Features()(images[[1, 4, 8]]).pooled)


def test_a_builder_goes_on_exactly_from_its_state(images):
    whole = build(images, range(9))
    builder = ReferenceBuilder([Features()], kept={1, 4, 8})
    assert builder.num_images == 0
    builder.merge(build(images, range(6)).state())
    for number in range(6, 9):
        builder.update(images[number : number + 1], [number])
    assert builder.num_images == 9
    assert all(torch.equal(value, builder.state()[key]) for key, value in whole.state().items())
    assert builder.state().keys() == whole.state().keys()


def test_merging_nothing_changes_nothing(images):
    builder = build(images, range(4))
    before = builder.state()
    builder.merge(ReferenceBuilder([Features()]).state())
    assert all(torch.equal(value, before[key]) for key, value in builder.state().items())
