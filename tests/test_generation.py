import pytest
import torch

from meanflow.generation import generate
from meanflow.samplers import FlowMapEuler, FlowMapRestart
from tests.gaussian import GaussianFlowMapNetwork

NETWORK = GaussianFlowMapNetwork(torch.tensor([0.5, -0.5, 0.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2), std=0.2)
LABELS = torch.tensor([0, 1, 1, 0, 1])


class IdentityCodec:
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class Halved:
    def denormalize(self, z: torch.Tensor) -> torch.Tensor:
        return z / 2


def quantize(images: torch.Tensor) -> torch.Tensor:
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def images(sampler=None, labels=LABELS, network=NETWORK, seed=0, **arguments) -> torch.Tensor:
    batches = generate(
        network,
        IdentityCodec(),
        sampler or FlowMapRestart(num_steps=3),
        labels,
        seed,
        normalization=Halved(),
        quantize=quantize,
        **arguments,
    )
    return torch.cat(list(batches))


def test_images_follow_their_labels_through_normalisation_and_decoder():
    x = images()
    assert x.shape == (5, 1, 2, 2)
    assert x.dtype == torch.uint8
    means = x.float().mean(dim=(1, 2, 3)) / 127.5 - 1
    torch.testing.assert_close(means, torch.tensor([0.25, -0.25, -0.25, 0.25, -0.25]), rtol=0, atol=0.15)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_images_do_not_depend_on_the_batch_size(batch_size):
    assert torch.equal(images(batch_size=batch_size), images())


def test_ranks_divide_the_samples():
    parts = [images(indices=range(rank, 5, 2), batch_size=2) for rank in range(2)]
    whole = images()
    assert torch.equal(parts[0], whole[0::2])
    assert torch.equal(parts[1], whole[1::2])


def test_start_noise_is_the_same_for_every_sampler_and_number_of_steps():
    starts = []
    for sampler in (FlowMapEuler(1), FlowMapEuler(4), FlowMapRestart(1), FlowMapRestart(3)):
        NETWORK.calls.clear()
        images(sampler)
        starts.append(NETWORK.calls[0][0])
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_seeds_and_samples_differ():
    assert not torch.equal(images(seed=0), images(seed=1))
    same_label = images(labels=torch.zeros(2, dtype=torch.int64))
    assert not torch.equal(same_label[0], same_label[1])


def test_no_labels_no_images():
    batches = generate(
        NETWORK,
        IdentityCodec(),
        FlowMapEuler(1),
        LABELS[:0],
        0,
        normalization=Halved(),
        quantize=quantize,
    )
    assert list(batches) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"labels": torch.tensor([0, 2, -1])},
            r"labels must be in \[0, 2\), got 2 for sample 1 \(2 of 3 are outside\)",
        ),
        ({"labels": torch.tensor([0.0])}, "labels must be int64"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"indices": range(3, 6)}, r"indices must be in \[0, 5\), got 3 to 5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        images(**arguments)


def test_non_finite_latents_name_the_sample():
    broken = GaussianFlowMapNetwork(torch.tensor([0.0, float("nan"), 0.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2), 0.2)
    with pytest.raises(ValueError, match="latents must be finite, those of sample 2 are not"):
        images(network=broken, labels=torch.tensor([0, 0, 1, 0]), batch_size=2)
