import pytest
import torch
from diffusers import AutoencoderKL

from meanflow.objectives import Reconstruction
from tests.images import write_autoencoder


def test_the_loss_is_the_definition(tmp_path):
    network = AutoencoderKL.from_pretrained(write_autoencoder(tmp_path / "vae"), low_cpu_mem_usage=False)
    objective = Reconstruction(kl_weight=0.25)
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    noise = objective.draw((3, 4, 4, 4), torch.Generator().manual_seed(0))
    loss, diagnostics, by_t = objective(network, x, noise)
    assert not by_t  # an autoencoder knows no time
    mean, logvar = network.encode(x).latent_dist.parameters.chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, torch.exp(logvar / 2))
    decoded = network.decode(mean + torch.exp(logvar / 2) * noise).sample
    l1 = (decoded - x).abs().mean(dim=(1, 2, 3))
    normal = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    kl = torch.distributions.kl_divergence(posterior, normal).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, l1 + 0.25 * kl)
    torch.testing.assert_close(diagnostics["kl"], kl.mean())
    torch.testing.assert_close(diagnostics["l1"], l1.mean())


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="kl_weight must be at least 0, got -1"):
        Reconstruction(-1)
