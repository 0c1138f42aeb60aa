import pytest
import torch
from diffusers import AutoencoderKL

from meanflow.codecs import AutoencoderKLCodec
from meanflow.codecs.standardize import standardize
from tests.images import write_autoencoder


def test_latents_get_mean_0_and_std_1_and_reconstructions_stay(tmp_path):
    codec = AutoencoderKLCodec(str(write_autoencoder(tmp_path / "vae")))
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = codec.encode(images)
    decoded = codec.decode(mean)
    channel_mean = mean.mean(dim=(0, 2, 3))
    channel_std = ((mean**2 + std**2).mean(dim=(0, 2, 3)) - channel_mean**2).sqrt()
    standardize(codec.network, channel_mean, channel_std)
    new_mean, new_std = codec.encode(images)
    torch.testing.assert_close(new_mean.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close((new_mean**2 + new_std**2).mean(dim=(0, 2, 3)), torch.ones(4))
    torch.testing.assert_close(new_std, std / channel_std.reshape(-1, 1, 1))
    torch.testing.assert_close(codec.decode(new_mean), decoded, rtol=1e-4, atol=1e-5)
    assert codec.scaling_factor == 1


def test_a_network_without_the_convolutions_is_refused():
    network = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, use_quant_conv=False)
    with pytest.raises(ValueError, match="must have use_quant_conv and use_post_quant_conv"):
        standardize(network, torch.zeros(4), torch.ones(4))
