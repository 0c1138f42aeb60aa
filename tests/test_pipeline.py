"""A trained model as one object."""

import pytest
import torch

from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import Normalization, identity
from meanflow.pipeline import Pipeline
from meanflow.samplers import (
    ClassifierFreeGuidance,
    FlowEuler,
    FlowMapCTM,
    FlowMapEuler,
    FlowMapRestart,
    NetworkGuidance,
)
from tests import tiny
from tests.gaussian import GaussianFlowMapNetwork


def test_config_builds_an_equal_pipeline():
    pipeline = tiny.dmf_pipeline()
    built = Pipeline.from_config(pipeline.config)
    assert built.config == pipeline.config
    built.network.load_state_dict(pipeline.network.state_dict())
    assert torch.equal(built.sample([0, 1], seed=4), pipeline.sample([0, 1], seed=4))


def test_an_image_depends_on_seed_index_and_label_only():
    pipeline = tiny.flow_pipeline()
    whole = pipeline.sample([0, 1, 2, 0, 1], seed=2)
    assert torch.equal(whole, pipeline.sample([0, 1, 2, 0, 1], seed=2, batch_size=2))
    assert torch.equal(whole[:2], pipeline.sample([0, 1], seed=2))
    assert not torch.equal(whole, pipeline.sample([0, 1, 2, 0, 1], seed=3))
    assert not torch.equal(whole[0], pipeline.sample([1], seed=2)[0])


def test_steps_and_sampler_can_be_replaced():
    pipeline = tiny.flow_pipeline()
    steps = pipeline.sample([0], num_steps=5)
    assert torch.equal(steps, pipeline.sample([0], sampler=FlowEuler(5)))
    assert not torch.equal(steps, pipeline.sample([0], num_steps=1))


def test_scale_and_interval_can_be_replaced():
    pipeline = tiny.flow_pipeline()
    guided = pipeline.sample([0], omega=3.0, interval=(0.0, 0.6))
    sampler = FlowEuler(2, guidance=ClassifierFreeGuidance(3.0, (0.0, 0.6)))
    assert torch.equal(guided, pipeline.sample([0], sampler=sampler))
    assert not torch.equal(guided, pipeline.sample([0]))
    pipeline = tiny.imf_pipeline()
    sampler = FlowMapEuler(1, guidance=NetworkGuidance(5.0, (0.2, 0.8)))
    assert torch.equal(pipeline.sample([0], omega=5.0), pipeline.sample([0], sampler=sampler))


@pytest.mark.parametrize("cls", [FlowMapRestart, FlowMapCTM])
def test_every_flow_map_sampler_samples_an_imf_network(cls):
    images = tiny.imf_pipeline().sample([0, 1], sampler=cls(3, guidance=NetworkGuidance(2.0)))
    assert images.shape == (2, 1, 4, 4)


def test_start_noise_can_be_given():
    pipeline = tiny.flow_pipeline()
    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images = pipeline.sample([0, 1, 0], noise=noise, batch_size=2)
    assert torch.equal(images, pipeline.sample([0, 1, 0], noise=noise, seed=5))
    assert torch.equal(images[1:2], pipeline.sample([1], noise=noise[1:2]))
    assert not torch.equal(images, pipeline.sample([0, 1, 0]))
    with pytest.raises(ValueError, match=r"noise must have shape \(2, 1, 4, 4\), got \(3, 1, 4, 4\)"):
        pipeline.sample([0, 1], noise=noise)


def test_bad_values_are_named():
    pipeline = tiny.flow_pipeline()
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 3 for sample 1"):
        pipeline.sample([0, 3])
    with pytest.raises(ValueError, match="FlowMapEuler needs a network that returns 'u'"):
        pipeline.sample([0], sampler=FlowMapEuler(1))
    with pytest.raises(ValueError, match="omega must be a number, at least 0"):
        pipeline.sample([0], omega=-1.0)
    with pytest.raises(ValueError, match=r"SiT does not take guidance as an input"):
        pipeline.sample([0], sampler=FlowEuler(1, guidance=NetworkGuidance()))
    with pytest.raises(ValueError, match="in_channels of the network must be the 4 channels"):
        Pipeline(pipeline.network, IdentityCodec(1), identity(4), FlowEuler(1))
    with pytest.raises(ValueError, match=r"lacks \['sampler'\]"):
        Pipeline.from_config({key: value for key, value in pipeline.config.items() if key != "sampler"})


@pytest.mark.parametrize("make", [tiny.flow_pipeline, tiny.dmf_pipeline, tiny.imf_pipeline])
def test_accelerated_sampling_draws_the_same_images_to_its_precision(make):
    labels = [0, 1, 2, 0, 1]
    exact = make().sample(labels, num_steps=2)
    pipeline = make().accelerate(torch.bfloat16, compile=False)
    fast = pipeline.sample(labels, num_steps=2)
    assert not torch.equal(exact, fast)
    assert (exact.int() - fast.int()).abs().max() <= 4  # of 255
    assert not torch.is_autocast_enabled("cpu")
    types = {parameter.dtype for module in pipeline.network.modules() for parameter in module.parameters(recurse=False)}
    assert types == {torch.bfloat16, torch.float32}  # products, and the rest


class GaussianNetwork(GaussianFlowMapNetwork):
    """The exact flow map of Gaussian data, in the form that a pipeline takes."""

    def parameters(self):
        return iter([torch.zeros(1)])


MEANS = (0.5, -0.5, 0.0)
LABELS = torch.tensor([0, 1, 1, 0, 1])


def gaussian_pipeline(means=MEANS) -> Pipeline:
    network = GaussianNetwork(torch.tensor(means).reshape(3, 1, 1, 1).expand(3, 1, 2, 2), std=0.2)
    return Pipeline(network, IdentityCodec(1), Normalization((0.0,), (2.0,)), FlowMapRestart(num_steps=3))


def images(labels=LABELS, seed=0, pipeline=None, **arguments) -> torch.Tensor:
    return torch.cat(list((pipeline or gaussian_pipeline()).generate(labels, seed, **arguments)))


def test_images_follow_their_labels_through_normalization_and_decoder():
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
        pipeline = gaussian_pipeline()
        images(pipeline=pipeline, sampler=sampler)
        starts.append(pipeline.network.calls[0][0])
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_seeds_and_samples_differ():
    assert not torch.equal(images(seed=0), images(seed=1))
    same_label = images(labels=torch.zeros(2, dtype=torch.int64))
    assert not torch.equal(same_label[0], same_label[1])


def test_images_are_rounded_as_asked():
    assert torch.equal(images(quantize=lambda x: torch.zeros_like(x, dtype=torch.uint8)), torch.zeros_like(images()))


def test_no_labels_no_images():
    assert list(gaussian_pipeline().generate(LABELS[:0], 0)) == []


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
        ({"sampler": FlowEuler(1)}, "FlowEuler needs a network that returns 'v'"),
    ],
)
def test_bad_arguments_are_refused_before_the_first_image(arguments, message):
    labels = arguments.pop("labels", LABELS)
    with pytest.raises(ValueError, match=message):
        gaussian_pipeline().generate(labels, **{"seed": 0} | arguments)


def test_non_finite_latents_name_the_sample():
    broken = gaussian_pipeline((0.0, float("nan"), 0.0))
    with pytest.raises(ValueError, match="latents must be finite, those of sample 2 are not"):
        images(labels=torch.tensor([0, 0, 1, 0]), pipeline=broken, batch_size=2)
