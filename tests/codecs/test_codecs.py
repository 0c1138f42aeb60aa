import pytest
import torch
from diffusers import AutoencoderKL

from meanflow import codecs
from meanflow.codecs import AutoencoderKLCodec, IdentityCodec


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A folder with the weights of a very small AutoencoderKL."""
    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
    )
    folder = tmp_path_factory.mktemp("vae")
    network.save_pretrained(folder)
    return folder, network.eval()


def test_identity_changes_nothing():
    codec = codecs.build({"name": "identity", "channels": 3})
    images = torch.rand(2, 3, 4, 4) * 2 - 1
    mean, std = codec.encode(images)
    assert std is None
    assert torch.equal(codec.decode(mean), images)
    with pytest.raises(ValueError, match=r"images must have the shape \(B, 3, H, W\), got \(2, 1, 4, 4\)"):
        codec.encode(images[:, :1])


def test_autoencoder_returns_the_moments_of_diffusers(autoencoder):
    folder, network = autoencoder
    codec = AutoencoderKLCodec(str(folder))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = codec.encode(images)
    with torch.no_grad():
        parameters = network.quant_conv(network.encoder(images))
        decoded = network.decode(mean).sample
    torch.testing.assert_close(mean, parameters[:, :4])
    torch.testing.assert_close(std, torch.exp(parameters[:, 4:] / 2))
    torch.testing.assert_close(codec.decode(mean), decoded)
    assert mean.shape == (2, 4, 8, 8)
    assert not any(parameter.requires_grad for parameter in codec.network.parameters())


def test_construction_needs_no_weights_and_use_names_what_is_missing(tmp_path):
    codec = AutoencoderKLCodec(str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match=r"no usable weights at path=.*nowhere.*: give a folder with config.json"
    ):
        codec.encode(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("codec", [IdentityCodec(1), AutoencoderKLCodec("some/where")])
def test_a_codec_is_rebuilt_from_its_config(codec):
    rebuilt = codecs.build(codec.config)
    assert type(rebuilt) is type(codec)
    assert rebuilt.config == codec.config


def test_unknown_codecs_and_arguments_are_named():
    with pytest.raises(ValueError, match=r"codec.name must be one of \['autoencoder_kl', 'identity'\], got 'vqgan'"):
        codecs.build({"name": "vqgan"})
    with pytest.raises(ValueError, match=r"codec 'identity' does not take the arguments .*depth"):
        codecs.build({"name": "identity", "channels": 1, "depth": 2})


def test_an_accelerated_autoencoder_decodes_in_low_precision_and_encodes_as_before(autoencoder):
    folder, _ = autoencoder
    exact, fast = AutoencoderKLCodec(str(folder)), AutoencoderKLCodec(str(folder))
    fast.accelerate(torch.bfloat16, compile=False)
    images, latents = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(fast.encode(images), exact.encode(images))
    with torch.autocast("cpu", torch.bfloat16):  # whatever the context is
        decoded = fast.decode(latents)
    assert decoded.dtype == torch.float32
    assert not torch.equal(decoded, exact.decode(latents))
    torch.testing.assert_close(decoded, exact.decode(latents), rtol=0.1, atol=0.05)
    weight = fast.network.decoder.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_an_autoencoder_without_convolutions_on_its_latents(tmp_path):
    network = AutoencoderKL(
        block_out_channels=(4,), norm_num_groups=2, latent_channels=4, use_quant_conv=False, use_post_quant_conv=False
    )
    network.save_pretrained(tmp_path)
    codec = AutoencoderKLCodec(str(tmp_path))
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(latents), network.decode(latents).sample)
    decoded = codec.decode(latents)
    codec.accelerate(torch.bfloat16, compile=False)
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=0.1, atol=0.05)
