"""Golden cases of the improved MeanFlow network: its forward, guidance, loss, sampler and training steps.

Every function computes the results of one case; ``tests/golden/cases.py`` names the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch import Tensor, nn

from callbacks.ema import EMA
from meanflow.checkpoints.imf_torch import official_names, our_names
from meanflow.codecs.normalization import IMF
from meanflow.models import IMFTransformer
from meanflow.models.imf import NUM_TOKENS as OFFICIAL_TOKENS
from meanflow.objectives import IMFDraws, ImprovedMeanFlow
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.imf import guided_velocity
from meanflow.objectives.label_drop import LeadingLabelDrop, drop_labels
from meanflow.objectives.times import LogitNormal, PartlyEqualPair
from meanflow.objectives.weighting import AdaptiveWeight
from meanflow.samplers import FlowMapEuler, NetworkGuidance
from meanflow.types import Condition
from tests.golden.imf_cases import column, schedule_of

if TYPE_CHECKING:
    from tests.golden.cases import Case, Results
    from tests.golden.format_cases import Piece


# Plans follow from the draws alone.
PLANNER = ImprovedMeanFlow(
    PartlyEqualPair(LogitNormal(), LogitNormal()),
    PowerLawScale(),
    UniformInterval(),
    LeadingLabelDrop(),
    AdaptiveWeight(),
)
# Official arguments with the number of tokens of our conditions.
NUM_TOKENS = {
    "num_class_tokens": ("class",),
    "num_cfg_tokens": ("omega",),
    "num_interval_tokens": ("t_min", "t_max"),
    "num_time_tokens": ("time",),
}


def arguments_of(arch: dict[str, Any]) -> dict[str, Any]:
    """Translate the official arguments of a network into ours."""
    given = {condition: arch[key] for key, conditions in NUM_TOKENS.items() if key in arch for condition in conditions}
    others = {key: value for key, value in arch.items() if key not in NUM_TOKENS}
    return others | ({"num_tokens": OFFICIAL_TOKENS | given} if given else {})


def network_of(case: Case) -> IMFTransformer:
    """Build the network in float64 from official weights; the weights of an evaluation checkpoint lack the v head."""
    weights = our_names(load_file(case.path / "weights.safetensors"))
    v_heads = any(name.startswith("v_heads.") for name in weights)
    network = IMFTransformer(**arguments_of(case.spec["arch"]), v_heads=v_heads).double()
    network.load_state_dict(weights)
    return network


def objective_of(case: Case) -> ImprovedMeanFlow:
    """Build the objective of a case from official arguments."""
    method = case.spec["method"]
    times = LogitNormal(method["P_mean"], method["P_std"])
    return ImprovedMeanFlow(
        PartlyEqualPair(times, times, method["data_proportion"]),
        PowerLawScale(method["cfg_beta"]),
        UniformInterval(),
        LeadingLabelDrop(method["class_dropout_prob"]),
        AdaptiveWeight(method["norm_p"], method["norm_eps"]),
    )


def draws_of(case: Case, objective: ImprovedMeanFlow, a: Results) -> IMFDraws:
    """Recorded draws of a step; who has r = t and whose label is dropped is derived, and compared."""
    r_equals_t = objective.times.r_equals_t(len(a["labels"]))
    dropped = objective.label_drop.order(a["draw.u_drop"] < torch.tensor(objective.label_drop.prob_drop_label))
    if not torch.equal(r_equals_t, a["fm_mask"].flatten().bool()):
        raise ValueError(f"{case.name}: the samples with r = t are not those of fm_mask")
    if not torch.equal(drop_labels(a["labels"], dropped, case.spec["arch"]["num_classes"]), a["labels_used"]):
        raise ValueError(f"{case.name}: the dropped labels do not follow from the draws")
    numbers = (a[key].flatten() for key in ("t", "r", "omega", "t_min", "t_max"))
    return IMFDraws(dropped, r_equals_t, *numbers, a["draw.e"])


def forward(case: Case) -> Results:
    """Outputs of both heads, with all blocks or in evaluation form."""
    network = network_of(case)
    if bool(network.config["v_heads"]) == case.spec["eval_mode"]:
        raise ValueError(f"{case.name}: the weights do not fit eval_mode")
    x, h, w, t_min, t_max, y = (case.tensors[key] for key in ("x", "h", "w", "t_min", "t_max", "y"))
    # The network sees h only: t and r need to have this difference.
    output = network(x, h, torch.zeros_like(h), Condition(y, w, t_min, t_max))
    return {"u": output.u, "v": output.v}


def guided(network: Any, z_t: Tensor, v_t: Tensor, y: Tensor, draws: IMFDraws) -> tuple[Tensor, Tensor]:
    """Guided and conditional velocity of all samples, in their order."""
    flow = draws.r_equals_t.nonzero().squeeze(1)
    cond = Condition(y[flow], draws.omega[flow], draws.t_min[flow], draws.t_max[flow])
    v_flow = network(z_t[flow], draws.t[flow], draws.t[flow], cond, heads="v").v
    return guided_velocity(network, z_t, v_t, y, PLANNER.plan(draws, z_t), v_flow)


def guidance(case: Case) -> Results:
    """Guided target and tangent; no label is dropped."""
    a = case.tensors
    w, t, r, t_min, t_max = (a[key].flatten() for key in ("w", "t", "r", "t_min", "t_max"))
    r_equals_t = a["fm_mask"].flatten().bool()
    # Our samples with r = t have the full interval. The official function gets another one, and ignores it there.
    t_min, t_max = UniformInterval.widen(t_min, t_max, r_equals_t)
    draws = IMFDraws(torch.zeros_like(r_equals_t), r_equals_t, t, r, w, t_min, t_max, torch.zeros_like(a["v_t"]))
    v_g, v_c = guided(network_of(case), a["z_t"], a["v_t"], a["y"], draws)
    return {"v_g": v_g, "v_c": v_c}


def loss(case: Case) -> Results:
    """Loss with its parts and gradients."""
    a = case.tensors
    trained, objective = case.trained(network_of(case)), objective_of(case)
    x, y = a["images"], a["labels"]
    draws = draws_of(case, objective, a)
    output = objective(trained, x, y, draws)
    output.loss.mean().backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.named_parameters()}

    # The parts, to find where a mismatch begins: all samples in one batch, as the official code has them.
    network = network_of(case)
    z_t, v_t = objective.interpolant.state(x, draws.e, draws.t), objective.interpolant.velocity(x, draws.e, draws.t)
    v_g, v_c = guided(network, z_t, v_t, y, draws)
    v_g_before_drop, _ = guided(network, z_t, v_t, y, draws._replace(dropped=torch.zeros_like(draws.dropped)))
    cond = Condition(a["labels_used"], draws.omega, draws.t_min, draws.t_max)
    parts, du_dt = value_and_derivative(network, z_t, draws.t, draws.r, cond, v_c)
    return {
        "z_t": z_t,
        "v_t": v_t,
        "v_c": v_c,
        "v_g_before_drop": v_g_before_drop,
        "v_g": v_g,
        "u": parts.u,
        "du_dt": du_dt,
        "v": parts.v,
        "V": parts.u + column(draws.t - draws.r) * du_dt,
        "loss": output.loss.mean(),
        "dict.loss_u": output.diagnostics["u_loss"],
        "dict.loss_v": output.diagnostics["v_loss"],
    } | prefixed("grad", gradients)


def prefixed(prefix: str, tensors: Results) -> Results:
    """Tensors of parameters under official names."""
    return {f"{prefix}.{name}": tensor for name, tensor in official_names(tensors).items()}


def generate(case: Case) -> Iterator[Piece]:
    """One part per run."""
    network = cache(lambda: network_of(case))
    for run in case.spec["runs"]:
        yield run["id"], [run["out"]], sampled(case, run, network)


def sampled(case: Case, run: dict[str, Any], network: Callable[[], nn.Module]) -> Callable[[], Results]:
    """The computation of a run."""
    guidance = NetworkGuidance(run["omega"], (run["t_min"], run["t_max"]))
    sampler = FlowMapEuler(run["num_steps"], guidance=guidance)
    return lambda: {run["out"]: sampler(network(), case.tensors["z"], Condition(case.tensors["y"]))}


class Trained(LightningModule):
    """What the averaging callback takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def train_steps(case: Case) -> Results:
    """Whole training steps: posterior, loss, AdamW without clipping, averaging."""
    settings = case.spec["optimizer"]
    network, objective, schedule = network_of(case), objective_of(case), schedule_of(settings)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings["learning_rate"],
        betas=(settings["b1"], settings["adam_b2"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    module, ema = Trained(network), EMA(settings["ema_val"])
    ema.on_train_start(SimpleNamespace(global_step=0), module)
    results = {}
    for step in range(case.spec["steps"]):
        prefix, per_epoch = f"step{step}.", settings["steps_per_epoch"]
        given = {key.removeprefix(prefix): a for key, a in case.tensors.items() if key.startswith(prefix)}
        mean, std = given["cached"].chunk(2, dim=1)
        x = IMF.normalize(mean) + IMF.normalize_std(std) * given["draw.posterior"]
        output = objective(network, x, given["labels"], draws_of(case, objective, given))
        lr = settings["learning_rate"] * schedule.factor(step, settings["num_epochs"] * per_epoch, per_epoch)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        output.loss.mean().backward()
        optimizer.step()
        ema.on_train_batch_end(SimpleNamespace(global_step=step + 1), module, None, None, step)
        computed = {
            "x": x,
            "loss": output.loss.mean(),
            "lr": torch.tensor(lr, dtype=torch.float64),
            "dict.loss_u": output.diagnostics["u_loss"],
            "dict.loss_v": output.diagnostics["v_loss"],
        }
        results |= {prefix + key: value for key, value in computed.items()}
    average = {name.removeprefix("network."): value for name, value in ema.average.items()}
    changes = {name: parameter - start[name] for name, parameter in network.named_parameters()}
    averaged = {name: average[name] - start[name] for name in start}
    return results | prefixed("param_delta", changes) | prefixed("ema_delta", averaged)
