"""The parts of a method fit together, or the message names both keys."""

import pytest
import torch

from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity
from meanflow.interpolant import LinearPath
from meanflow.models import AlignedSiT, DMFTransformer
from meanflow.modules import CodecModule, FlowModule
from meanflow.objectives import (
    DecoupledMeanFlow,
    Distillation,
    LogitNormal,
    NoGuidance,
    OrderedPair,
    PerSampleLogVariance,
    Reconstruction,
    Unweighted,
)
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowEuler, FlowMapEuler, FlowMapRestart, NetworkGuidance
from tests import tiny


def pipeline(network, sampler) -> Pipeline:
    return Pipeline(network, IdentityCodec(1), identity(1), sampler)


def dmf(weighting) -> DecoupledMeanFlow:
    times = LogitNormal()
    return DecoupledMeanFlow(LinearPath(), times, OrderedPair(times, times), NoGuidance(), weighting)


@pytest.mark.parametrize(
    ("make", "network", "message"),
    [
        (tiny.dmf_module, tiny.flow_pipeline, r"objective=dmf needs a flow map network .* network is a flow network"),
        (tiny.flow_module, tiny.dmf_pipeline, "objective=flow_matching needs a flow network .* is a flow map network"),
        (tiny.flow_module, tiny.imf_pipeline, "is an improved MeanFlow network .*: method=flow or method=imf"),
        (tiny.imf_module, tiny.dmf_pipeline, r"objective=imf needs an improved MeanFlow network \(network=imf_\*"),
    ],
)
def test_objective_and_network(make, network, message):
    with pytest.raises(ValueError, match=message):
        make(pipeline=network())


def test_an_objective_of_another_kind_is_named():
    with pytest.raises(ValueError, match=r"objective \(Reconstruction\) does not belong to a flow or a flow map"):
        tiny.flow_module(objective=Reconstruction())
    with pytest.raises(
        ValueError, match="module=codec needs network=autoencoder_kl_small and objective=reconstruction"
    ):
        CodecModule(network=tiny.flow_pipeline().network, objective=Reconstruction(), optimizer=torch.optim.AdamW)


@pytest.mark.parametrize(
    ("weighting", "logvar", "message"),
    [
        (Unweighted(), True, r"objective\.weighting \(Unweighted\) does not use .*: set network\.logvar=false"),
        (
            PerSampleLogVariance(),
            False,
            r"objective\.weighting \(PerSampleLogVariance\) needs .*logvar=true, or choose",
        ),
    ],
)
def test_weighting_and_log_variance(weighting, logvar, message):
    """Parameters without a gradient would stop a run in several processes."""
    network = DMFTransformer(**tiny.NETWORK, dmf_depth=1, logvar=logvar)
    with pytest.raises(ValueError, match=message):
        tiny.dmf_module(objective=dmf(weighting), pipeline=pipeline(network, FlowMapEuler(1)))
    fitting = DMFTransformer(**tiny.NETWORK, dmf_depth=1, logvar=not logvar)
    tiny.dmf_module(objective=dmf(weighting), pipeline=pipeline(fitting, FlowMapEuler(1)))


@pytest.mark.parametrize(
    ("make", "sampler", "message"),
    [
        (tiny.dmf_module, FlowEuler(2), "method=dmf chooses network and sampler together"),
        (tiny.flow_module, FlowMapRestart(2), "method=flow chooses network and sampler together"),
        (tiny.imf_module, FlowEuler(2), "method=imf chooses network and sampler together"),
        (tiny.imf_module, FlowMapRestart(2), "takes guidance as an input: choose sampler/guidance=network"),
        (tiny.dmf_module, FlowMapEuler(2, guidance=NetworkGuidance()), "choose sampler/guidance=classifier_free"),
    ],
)
def test_sampler_and_network(make, sampler, message):
    network = make().network
    with pytest.raises(ValueError, match=message):
        make(pipeline=pipeline(network, sampler))


def test_a_network_in_evaluation_form_is_refused():
    with pytest.raises(ValueError, match=r"network\.v_heads must be true, got false"):
        tiny.imf_module(pipeline=tiny.imf_pipeline(v_heads=False))


def test_projectors_and_representation():
    network = AlignedSiT(**tiny.NETWORK, alignment_depth=1, alignment_dims=[7], projector_dim=8)
    arguments = {"objective": tiny.flow_module().objective, "optimizer": torch.optim.AdamW}
    with pytest.raises(ValueError, match="go together; got AlignedSiT without a representation"):
        FlowModule(pipeline=pipeline(network, FlowEuler(2)), **arguments)
    with pytest.raises(ValueError, match="go together; got SiT with a representation"):
        FlowModule(representation=torch.nn.Identity(), pipeline=tiny.flow_pipeline(), **arguments)


def test_the_teacher_must_be_a_flow():
    with pytest.raises(ValueError, match=r"guidance\.teacher must be a flow network, got .* FlowMapOutput"):
        Distillation(tiny.dmf_pipeline().network, omega=1.5)
