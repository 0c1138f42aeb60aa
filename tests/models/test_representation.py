"""Patch tokens of a small vision transformer with random weights."""

import pytest
import timm
import torch
from torch.nn import functional

from meanflow.models.representation import PatchTokenEncoder

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def encoder() -> PatchTokenEncoder:
    torch.manual_seed(0)
    encoder = PatchTokenEncoder(NAME, grid_size=3, pretrained=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    encoder.load()
    return encoder


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_there_is_one_token_per_patch_of_the_flow_network(encoder, images):
    tokens = encoder(images)
    assert tokens.shape == (2, 9, 192)
    assert tokens.dtype == torch.float32
    assert not tokens.requires_grad


def test_tokens_are_those_after_the_last_norm_without_the_class_token(encoder, images):
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    pixels = (images.float() / 255 - mean[:, None, None]) / std[:, None, None]
    pixels = functional.interpolate(pixels, size=(48, 48), mode="bicubic")
    everything = encoder.model.forward_features(pixels)
    assert everything.shape == (2, 10, 192)
    torch.testing.assert_close(encoder(images), everything[:, 1:], rtol=0, atol=1e-5)
    # After a norm that still has its initial scale and shift, every token has mean 0 and variance 1.
    torch.testing.assert_close(encoder(images).mean(-1), torch.zeros(2, 9), rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder(images).var(-1, correction=0), torch.ones(2, 9), rtol=0, atol=1e-3)


def test_the_encoder_is_frozen(encoder, images):
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.model.modules())
    assert torch.equal(encoder(images), encoder(images))


def test_the_model_is_built_at_the_first_call_only(images):
    encoder = PatchTokenEncoder("no such model", pretrained=False)
    assert encoder.model is None
    with pytest.raises(RuntimeError, match=r"no such model|Unknown model"):
        encoder(images)
    encoder = PatchTokenEncoder(NAME, grid_size=2, pretrained=False)
    model = encoder.load()
    assert encoder.load() is model


def test_the_position_embedding_is_resampled_to_the_grid(encoder, images):
    """The same as a model that is built for this size, with the embedding resampled once."""
    native = encoder.load()
    weights = native.state_dict()
    weights["pos_embed"] = timm.layers.resample_abs_pos_embed(weights["pos_embed"], [3, 3], num_prefix_tokens=1)
    encoder_of_this_size = PatchTokenEncoder(
        NAME, grid_size=3, pretrained=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )
    encoder_of_this_size.model = timm.create_model(NAME, pretrained=False, num_classes=0, img_size=48).eval()
    encoder_of_this_size.model.load_state_dict(weights)
    torch.testing.assert_close(encoder(images), encoder_of_this_size(images), atol=1e-5, rtol=1e-5)
