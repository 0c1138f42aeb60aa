"""A trained model as one object."""

import pytest
import torch

from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowEuler, FlowMapEuler
from tests import tiny


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


def test_bad_values_are_named():
    pipeline = tiny.flow_pipeline()
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 3 for sample 1"):
        pipeline.sample([0, 3])
    with pytest.raises(ValueError, match="FlowMapEuler needs a network that returns 'u'"):
        pipeline.sample([0], sampler=FlowMapEuler(1))
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
