"""Sampling with a network that takes guidance as an input."""

import pytest
import torch

from meanflow.samplers import (
    ClassifierFreeGuidance,
    FlowEuler,
    FlowMapCTM,
    FlowMapCTMVP,
    FlowMapEuler,
    FlowMapRestart,
    NetworkGuidance,
)
from meanflow.types import Condition
from tests.duals import assert_equal_to_rounding, normal
from tests.networks import Recorded, dmf, imf, sit

Y = torch.tensor([0, 4, 5])
GUIDANCE = NetworkGuidance(7.5, (0.4, 0.65))
SAMPLERS = [
    FlowMapEuler(4, guidance=GUIDANCE),
    FlowMapRestart(4, guidance=GUIDANCE),
    FlowMapRestart(4, "cosine", guidance=GUIDANCE),
    FlowMapCTM(4, guidance=GUIDANCE),
    FlowMapCTMVP(4, guidance=GUIDANCE),
]


def injected(sampler, e: torch.Tensor) -> torch.Tensor | None:
    """Noise for the sampler."""
    return normal(sampler.num_noises, *e.shape, seed=9).to(e) if sampler.num_noises else None


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_guidance_is_passed_to_the_network_at_one_evaluation_per_step(sampler, dtype):
    network = Recorded(imf())
    network.network.to(dtype)
    e = normal(3, 3, 4, 4).to(dtype)
    # The interval is not compared with the time of a step, and the sampler's guidance replaces that of the condition.
    sampler(network, e, Condition(Y, omega=torch.full((3,), 2.0)), injected(sampler, e))
    assert sampler.nfe == 4
    assert [call[3:] for call in network.calls] == [(Y.tolist(), [t] * 3) for t in (1.0, 0.75, 0.5, 0.25)]
    for cond, more in network.more:
        assert more == {"heads": "u"}
        for given, value in zip(cond[1:], (7.5, 0.4, 0.65), strict=True):
            assert torch.equal(given, torch.full((3,), value, dtype=dtype))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_only_the_u_head_is_evaluated(sampler):
    network = imf()
    evaluation = imf(v_heads=False)
    evaluation.load_state_dict({k: a for k, a in network.state_dict().items() if not k.startswith("v_heads.")})
    ran = []
    for name, module in network.named_modules():
        if name in ("u_heads.0", "u_final_layer", "v_heads.0", "v_final_layer"):
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    e, cond = normal(3, 3, 4, 4), Condition(Y)
    x = sampler(network, e, cond, injected(sampler, e))
    assert torch.equal(x, sampler(evaluation, e, cond, injected(sampler, e)))
    assert ran == ["u_heads.0", "u_final_layer"] * 4


@pytest.mark.parametrize("cls", [FlowMapCTM, FlowMapCTMVP])
def test_ctm_without_fresh_noise_is_euler(cls):
    network, e, cond = imf(), normal(3, 3, 4, 4), Condition(Y)
    ctm = cls(3, gamma=0.0, guidance=GUIDANCE)
    euler = FlowMapEuler(3, guidance=GUIDANCE)
    assert torch.equal(ctm(network, e, cond, injected(ctm, e)), euler(network, e, cond))


def test_samples_are_those_of_jumps_written_out():
    network, z = imf(), normal(3, 3, 4, 4)
    actual = FlowMapEuler(2, guidance=NetworkGuidance(4.0, (0.2, 0.9)))(network, z, Condition(Y))
    cond = Condition(Y, *(torch.full((3,), value, dtype=torch.float64) for value in (4.0, 0.2, 0.9)))
    with torch.no_grad():
        for t, r in ((1.0, 0.5), (0.5, 0.0)):
            times = (torch.full((3,), time, dtype=torch.float64) for time in (t, r))
            z = z - (t - r) * network(z, *times, cond).u
    assert_equal_to_rounding(actual, z, relative=1e-13)


@pytest.mark.parametrize(
    ("sampler", "network", "message"),
    [
        (FlowMapEuler(1), imf, "IMFTransformer takes guidance as an input: FlowMapEuler needs NetworkGuidance, got Cl"),
        (FlowMapRestart(1, guidance=ClassifierFreeGuidance(2.0)), imf, r"got ClassifierFreeGuidance\(omega=2.0"),
        (FlowEuler(1, guidance=GUIDANCE), imf, "FlowEuler needs a network that returns 'v', got IMFTransformer, which"),
        (FlowMapEuler(1, guidance=GUIDANCE), dmf, "DMFTransformer does not take guidance as an input: FlowMapEuler ne"),
        (FlowEuler(1, guidance=GUIDANCE), sit, "SiT does not take guidance as an input: FlowEuler needs ClassifierFre"),
    ],
)
def test_the_wrong_kind_of_network_is_refused(sampler, network, message):
    with pytest.raises(ValueError, match=message):
        sampler(network(), normal(3, 3, 4, 4), Condition(Y))


def test_a_scale_whose_inverse_is_infinite_is_refused():
    with pytest.raises(ValueError, match="omega must be above 0 for a network that takes guidance as an input"):
        NetworkGuidance(0.0)
