import torch

from meanflow.random_streams import generator
from meanflow.types import LatentBatch

Y = torch.tensor([0, 1])


def test_plain_latents_are_their_own_sample():
    mean = torch.randn(2, 4, 2, 2)
    assert LatentBatch(mean, None, Y).sample(generator(0)) is mean


def test_a_posterior_is_sampled_with_the_numbers_of_the_generator():
    mean, std = torch.randn(2, 4, 2, 2), torch.rand(2, 4, 2, 2)
    noise = torch.randn(2, 4, 2, 2, generator=generator(5))
    assert torch.equal(LatentBatch(mean, std, Y).sample(generator(5)), mean + std * noise)
    assert not torch.equal(LatentBatch(mean, std, Y).sample(generator(6)), mean + std * noise)


def test_samples_have_the_type_of_the_mean():
    mean = torch.zeros(2, 4, 2, 2, dtype=torch.float64)
    x = LatentBatch(mean, torch.ones_like(mean), Y).sample(generator(0))
    assert x.dtype == torch.float64
