"""Golden cases: numbers of the official code, and how this project computes them.

A case is a folder with ``case.json``, ``tensors.safetensors`` and weights. Its ``kind`` says what it holds; everything
else (sizes, hyper-parameters, times, draws) is read from it, so further cases of a known kind need no change here.
Official spellings end in this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from callbacks.ema import EMA
from datamodules.images.crop import center_crop
from meanflow import models, samplers
from meanflow.codecs.normalization import SCALE_0_18215
from meanflow.codecs.quantize import round_half_up_to_uint8, round_to_uint8, truncate_to_uint8
from meanflow.interpolant import CosinePath, Interpolant, LinearPath
from meanflow.layers import position_table, sinusoidal_embedding
from meanflow.metrics import FeatureStatistics, Gaussian, frechet_distance, inception_score
from meanflow.objectives import DecoupledMeanFlow, DMFDraws, FlowMatching, FlowMatchingDraws, mean_squared_error
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.guidance import Distillation, Guidance, ModelGuidance, NoGuidance, Query
from meanflow.objectives.label_drop import IndependentLabelDrop
from meanflow.objectives.times import LogitNormal, OfficialArctanNormal, OrderedPair, TimeDistribution
from meanflow.objectives.weighting import AllPairsLogVariance
from meanflow.types import Condition
from tests.golden import imf_cases, imf_network_cases
from tests.golden.format_cases import FORMATS, Piece, exact_tensors

Results = dict[str, Tensor]

# Official names of constructor arguments.
ARGUMENTS = {"repa_depth": "alignment_depth", "z_dims": "alignment_dims", "use_logvar": "logvar"}
PATHS: dict[str, type[Interpolant]] = {"linear": LinearPath, "cosine": CosinePath}
TIMES: dict[str, type[TimeDistribution]] = {"linear": LogitNormal, "cosine": OfficialArctanNormal}


@dataclass
class Case:
    """One golden case.

    Attributes:
        path: Its folder.
        spec: The content of ``case.json``.
        compiled: Whether networks to be trained are compiled.
    """

    path: Path
    spec: dict[str, Any]
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.kind in FORMATS:
            self.spec["tensors"] = exact_tensors(self.path)

    @property
    def name(self) -> str:
        return self.spec["name"]

    @property
    def kind(self) -> str:
        return self.spec["kind"]

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """Tensors as stored."""
        return load_file(self.path / "tensors.safetensors")

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors, floating-point ones in float64."""
        return {key: value.double() if value.is_floating_point() else value for key, value in self.stored.items()}

    def results(self) -> list[str]:
        """Names of the tensors to be reproduced: all that have a tolerance."""
        return [key for key, tensor in self.spec["tensors"].items() if "tolerance" in tensor]

    def network(self, arch: str = "arch", weights: str | None = "weights", **more: Any) -> Any:
        """Build a network in float64 from official arguments and weights."""
        arguments = {ARGUMENTS.get(key, key): value for key, value in self.spec[arch].items()} | more
        if "dmf_depth" in arguments:
            cls = models.DMFTransformer
        elif "alignment_depth" in arguments:
            cls = models.AlignedSiT
        else:
            cls = models.SiT
        network = cls(**arguments).double()
        if weights is not None:
            network.load_state_dict(load_file(self.path / f"{weights}.safetensors"))
        return network

    def trained(self, network: Any) -> Any:
        """Return a network in the form in which its losses and gradients are to be computed."""
        if self.compiled:
            network.compile()
        return network

    def excess(self, key: str, actual: Tensor) -> float:
        """Return the largest error over the tolerance of float64; at most 1 is right."""
        expected, tolerance = self.stored[key], self.spec["tensors"][key]["tolerance"]
        if actual.shape != expected.shape:
            raise ValueError(f"{self.name}: {key} has shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
        if tolerance.get("exact"):
            return 0.0 if torch.equal(actual.to(expected.dtype), expected) else float("inf")
        if actual.dtype != torch.float64:
            raise ValueError(f"{self.name}: {key} was computed in {actual.dtype}, not in float64")
        error = (actual.detach() - expected.double()).abs().max().item()
        return float("inf") if error != error else error / tolerance["atol_float64"]


@dataclass
class Part:
    """A piece of a case that is computed, and passes or fails, on its own.

    Attributes:
        case: The case.
        name: What distinguishes it from other parts of the case.
        keys: Stored tensors that it must reproduce.
        compute: Computes them.
    """

    case: Case
    name: str = ""
    keys: list[str] = field(default_factory=list)
    compute: Callable[[], Results] = dict

    @property
    def id(self) -> str:
        """Name of the test."""
        return f"{self.case.path.name}-{self.name}" if self.name else self.case.path.name


def discover(folder: Path) -> list[Case]:
    """Return all cases below a folder.

    Raises:
        FileNotFoundError: If there are none.
    """
    files = sorted(folder.rglob("case.json"))
    if not files:
        raise FileNotFoundError(f"no golden cases (folders with a case.json) below {folder}")
    return [Case(file.parent, json.loads(file.read_text())) for file in files]


def parts(case: Case) -> list[Part]:
    """Return the parts of a case; that of an unknown kind fails when it is computed."""
    if case.kind in KINDS:
        return list(KINDS[case.kind](case))

    def fail() -> Results:
        raise ValueError(f"{case.name}: unknown kind {case.kind!r}; known are {sorted(KINDS)}")

    return [Part(case, compute=fail)]


def superseded(case: Case) -> set[str]:
    """Results that the project does not reproduce on purpose: slips of the official code that have a repaired twin."""
    return {run["out"] for run in case.spec.get("runs", []) if "out_intended" in run}


def whole(compute: Callable[[Case], Results]) -> Callable[[Case], Iterator[Part]]:
    """A kind whose cases are one part."""

    def split(case: Case) -> Iterator[Part]:
        yield Part(case, keys=case.results(), compute=lambda: compute(case))

    return split


def column(a: Tensor) -> Tensor:
    """Give ``(B,)`` the official shape ``(B, 1, 1, 1)``."""
    return a[:, None, None, None]


def sum_of_squares(prediction: Tensor, target: Tensor) -> Tensor:
    """The error that the official code reports: a sum over channels and pixels where ours is a mean."""
    return mean_squared_error(prediction, target) * target[0].numel()


def gradients(network: nn.Module) -> Results:
    """Gradients of all parameters, zero where a parameter has no part in the loss."""
    return {f"grad.{name}": torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}


# --- Networks ---------------------------------------------------------------------------------------------------------


def sit_forward(case: Case) -> Results:
    """Velocity of a SiT, and its projected features."""
    x, t, y = (case.tensors[key] for key in ("x", "t", "y"))
    output = case.network()(x, t, t, Condition(y))
    return {"v": output.v, **{f"feat.{i}": feature for i, feature in enumerate(output.features)}}


def dmft_forward(case: Case) -> Results:
    """Average velocity and log-variance of a DMFT."""
    x, t, r, y = (case.tensors[key] for key in ("x", "t", "r", "y"))
    output = case.network()(x, t, r, Condition(y))
    return {"u": output.u, "logvar": column(output.logvar)}


def dmft_jvp(case: Case) -> Results:
    """Average velocity and its derivative along (v, 1, 0)."""
    x, t, r, y, v = (case.tensors[key] for key in ("x", "t", "r", "y", "v"))
    output, du_dt = value_and_derivative(case.network(), x, t, r, Condition(y), v)
    return {"u": output.u, "du_dt": du_dt}


def embeddings(case: Case) -> Results:
    """Position tables and time embeddings."""
    t = case.tensors["t"]
    tables = {
        f"pos_embed.dim{s['embed_dim']}_grid{s['grid_size']}": position_table(s["embed_dim"], s["grid_size"])
        for s in case.spec["sizes"]
    }
    return tables | {f"temb.dim{dim}": sinusoidal_embedding(t, dim) for dim in case.spec["dims"]}


def convert(case: Case) -> Results:
    """A DMFT started from a SiT: what it reports, and what it then computes."""
    x, t, r, y = (case.tensors[key] for key in ("x", "t", "r", "y"))
    state_dict = load_file(case.path / "weights.safetensors")
    flow = case.network("sit_arch")
    flow_map = case.network("dmft_arch", weights=None)
    normed = case.network("dmft_arch", weights=None, qk_norm=True)
    for network, message in ((flow_map, "load_message"), (normed, "load_message_qk_norm")):
        conversion = models.load_flow_weights(network, state_dict)
        reported = {"missing_keys": conversion.new, "unexpected_keys": conversion.dropped}
        if reported != case.spec[message]:
            raise ValueError(f"{case.name}: conversion reported {reported}, not {case.spec[message]}")
    at_t, at_r = flow_map(x, t, t, Condition(y)), flow_map(x, t, r, Condition(y))
    return {
        "v_sit": flow(x, t, t, Condition(y)).v,
        "u_dmft_rt": at_t.u,
        "u_dmft_r": at_r.u,
        "logvar": column(at_r.logvar),
        "u_dmft_qknorm_rt": normed(x, t, t, Condition(y)).u,
    }


# --- Objectives -------------------------------------------------------------------------------------------------------


def guidance_of(kind: str, method: dict[str, Any], teacher: Callable[[], nn.Module]) -> Guidance:
    """Build a guidance from its official name."""
    if kind == "default":
        return NoGuidance()
    omega, interval = method["omega"], (method["g_min"], method["g_max"])
    if kind == "mg":
        return ModelGuidance(omega, interval)
    if kind == "distill":
        return Distillation(teacher(), omega, interval)
    raise ValueError(f"unknown g_type {kind!r}")


def decoupled_mean_flow(case: Case) -> DecoupledMeanFlow:
    """Build the objective of a case; its distributions play no part, for draws are given."""
    method = case.spec["method"]
    times = TIMES[method["path_type"]]
    return DecoupledMeanFlow(
        PATHS[method["path_type"]](),
        times(method["P_mean"], method["P_std"]),
        OrderedPair(times(method["P_mean_t"], method["P_std_t"]), times(method["P_mean_r"], method["P_std_r"])),
        guidance_of(method["g_type"], method, lambda: case.network("teacher_arch", "teacher_weights")),
        AllPairsLogVariance(),
        IndependentLabelDrop(method["cfg_prob"]),
    )


def fm_loss(case: Case) -> Results:
    """Flow-matching loss with its parts and gradients."""
    a, method = case.tensors, case.spec["method"]
    network = case.trained(case.network())
    path = PATHS[method["path_type"]]()
    objective = FlowMatching(
        path,
        TIMES[method["path_type"]](method["P_mean"], method["P_std"]),
        IndependentLabelDrop(method["cfg_prob"]),
        alignment_weight=method["proj_coeff"],
    )
    features = [a[f"zs.{i}"] for i in range(sum(key.startswith("zs.") for key in a))]
    dropped = a["draw.drop_u"] < torch.tensor(method["cfg_prob"])
    if not torch.equal(dropped, a["drop_mask"].bool()):
        raise ValueError(f"{case.name}: the dropped labels do not follow from the draws")
    draws = FlowMatchingDraws(dropped, a["t"].flatten(), a["draw.eps"])
    output = objective(network, a["x"], a["y"], draws, features)
    output.loss.mean().backward()

    x_t, v_t = path.state(a["x"], draws.e, draws.t), path.velocity(a["x"], draws.e, draws.t)
    v_pred = case.network()(x_t, draws.t, draws.t, Condition(a["y_used"])).v
    results = {
        "x_t": x_t,
        "v_t": v_t,
        "v_pred": v_pred,
        "loss": output.loss,
        "loss_mean": output.loss.mean(),
        "loss_dict.fm_loss": sum_of_squares(v_pred, v_t),
    }
    if features:
        results["loss_dict.proj_loss"] = output.diagnostics["alignment_loss"]
    return results | gradients(network)


def dmf_loss(case: Case) -> Results:
    """Decoupled MeanFlow loss with its parts and gradients."""
    a = case.tensors
    trained, objective = case.trained(case.network()), decoupled_mean_flow(case)
    draws = dmf_draws(case, a)
    output = objective(trained, a["x"], a["y"], draws)
    output.loss.mean().backward()

    # The parts, to find where a mismatch begins.
    network = case.network()
    path, weighting, y = objective.interpolant, objective.weighting, a["y_used"]
    x_t_fm, v_t_fm = path.state(a["x"], draws.e_fm, draws.t_fm), path.velocity(a["x"], draws.e_fm, draws.t_fm)
    x_t_mf, v_t_mf = path.state(a["x"], draws.e, draws.t), path.velocity(a["x"], draws.e, draws.t)
    flow = network(x_t_fm, draws.t_fm, draws.t_fm, Condition(y))
    halves = ((x_t_fm, x_t_mf), (draws.t_fm, draws.t), (v_t_fm, v_t_mf), (y, y))
    query = Query(*map(torch.cat, halves), v_cond=flow.u.detach()[:0])
    plan = objective.guidance.plan(query.t, draws.dropped.repeat(2))
    v_tgt_fm, v_tgt_mf = objective.guidance.targets(network, query, plan).chunk(2)
    flow_map, du_dt = value_and_derivative(network, x_t_mf, draws.t, draws.r, Condition(y), v_tgt_mf)
    u_tgt = v_tgt_mf + column(draws.r - draws.t) * du_dt
    fm_table = weighting(mean_squared_error(flow.u, v_tgt_fm), flow.logvar)
    mf_table = weighting(mean_squared_error(flow_map.u, u_tgt), flow_map.logvar)
    return {
        "x_t_fm": x_t_fm,
        "v_t_fm": v_t_fm,
        "v_fm": flow.u,
        "lv_fm": column(flow.logvar),
        "v_tgt_fm": v_tgt_fm,
        "x_t_mf": x_t_mf,
        "v_t_mf": v_t_mf,
        "v_tgt_mf": v_tgt_mf,
        "u": flow_map.u,
        "lv_mf": column(flow_map.logvar),
        "du_dt": du_dt,
        "u_tgt": u_tgt,
        "loss": output.loss[:, None, None],
        "loss_mean": output.loss.mean(),
        "loss_dict.fm_loss": sum_of_squares(flow.u, v_tgt_fm),
        "loss_dict.mf_loss": sum_of_squares(flow_map.u, u_tgt),
        "loss_dict.fm_p_loss": fm_table[:, None, None],
        "loss_dict.mf_p_loss": mf_table[:, None, None],
    } | gradients(trained)


def dmf_draws(case: Case, a: Results) -> DMFDraws:
    """Recorded draws of a step; the dropped labels are derived from the uniform numbers and compared."""
    dropped = a["draw.drop_u"] < torch.tensor(case.spec["method"]["cfg_prob"])
    labels = torch.where(dropped, case.spec["arch"]["num_classes"], a["y"])
    if not torch.equal(labels, a["y_used"]):
        raise ValueError(f"{case.name}: the dropped labels do not follow from the draws")
    times = (a[key].flatten() for key in ("t_fm", "t_mf", "r_mf"))
    return DMFDraws(dropped, *times, a["draw.eps_fm"], a["draw.eps_mf"])


def guidance_targets(case: Case) -> Results:
    """Guided velocities of all kinds."""
    a, network = case.tensors, case.network()
    query = Query(a["x_t"], a["t"].flatten(), a["v_t"], a["y"], v_cond=a["v_t"][:0])
    results = {}
    for kind in (key.removeprefix("v_tgt.") for key in case.results()):
        guidance = guidance_of(kind, case.spec["method"], lambda: case.network("teacher_arch", "teacher_weights"))
        # The official distillation does not look at the mask of dropped labels.
        dropped = a["drop_mask"].bool() & (kind != "distill")
        results[f"v_tgt.{kind}"] = guidance.targets(network, query, guidance.plan(query.t, dropped))
    return results


def log_lv_loss(case: Case) -> Results:
    """Errors of all samples under the log-variances of all samples."""
    prediction, logvar = (case.tensors[key].clone().requires_grad_() for key in ("x", "lv"))
    target = case.tensors["y"]
    loss = AllPairsLogVariance(case.spec["method"]["eps"])(mean_squared_error(prediction, target), logvar.flatten())
    grad_x, grad_lv = torch.autograd.grad(loss.mean(), (prediction, logvar))
    return {
        "mse_loss": sum_of_squares(prediction, target),
        "log_loss": loss[:, None, None],
        "grad.x": grad_x,
        "grad.lv": grad_lv,
    }


class Trained(LightningModule):
    """What the averaging callback takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def train_steps(case: Case) -> Results:
    """Whole training steps: posterior, loss, clipping, AdamW, averaging."""
    a, settings = case.tensors, case.spec["optimizer"]
    network, objective = case.network(), decoupled_mean_flow(case)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    module, ema = Trained(network), EMA(settings["ema_decay"])
    ema.on_train_start(SimpleNamespace(global_step=0), module)
    results = {}
    for step in range(sum(key.endswith(".moments") for key in a)):
        given = {key.removeprefix(f"step{step}."): value for key, value in a.items() if key.startswith(f"step{step}.")}
        mean, std = given["moments"].chunk(2, dim=1)
        # The latents of a store are normalized before the posterior is sampled.
        x = SCALE_0_18215.normalize(mean) + SCALE_0_18215.normalize_std(std) * given["draw.posterior"]
        loss = objective(network, x, given["y"], dmf_draws(case, given)).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings["max_grad_norm"])
        optimizer.step()
        ema.on_train_batch_end(SimpleNamespace(global_step=step + 1), module, None, None, step)
        results |= {f"step{step}.x": x, f"step{step}.loss_mean": loss, f"step{step}.grad_norm": norm}
    average = {name.removeprefix("network."): value for name, value in ema.average.items()}
    for name, parameter in network.named_parameters():
        results[f"param_delta.{name}"] = parameter - start[name]
        results[f"ema_delta.{name}"] = average[name] - start[name]
    return results


# --- Samplers ---------------------------------------------------------------------------------------------------------

SAMPLER_ARGUMENTS = {
    "num_steps": "num_steps",
    "shift": "shift",
    "path_type": "interpolant",
    "coeff_type": "coefficient",
    "gamma": "gamma",
}
SAMPLERS: dict[tuple[str, bool], type[samplers.Sampler]] = {
    ("euler_sampler", False): samplers.FlowMapEuler,
    ("restart_sampler", False): samplers.FlowMapRestart,
    ("ctm_sampler", False): samplers.FlowMapCTM,
    ("fm_euler_sampler", False): samplers.FlowEuler,
    ("fm_euler_sampler", True): samplers.FlowHeun,
    ("fm_sde_sampler", False): samplers.FlowSDE,
}


def sampler_runs(case: Case) -> Iterator[Part]:
    """One part per run."""
    network = cache(case.network)
    for run in case.spec["runs"]:
        key = run.get("out_intended", run["out"])

        def compute(run: dict[str, Any] = run, key: str = key) -> Results:
            a, kwargs = case.tensors, dict(run["kwargs"])
            cls = SAMPLERS[run["function"], kwargs.pop("heun", False)]
            interval = (kwargs.pop("g_min", 0.0), kwargs.pop("g_max", 1.0))
            guidance = samplers.ClassifierFreeGuidance(kwargs.pop("cfg_scale", 1.0), interval)
            arguments = {SAMPLER_ARGUMENTS[k]: value for k, value in kwargs.items()} | {"guidance": guidance}
            default = cls(num_steps=1)
            # The official functions accept arguments that they do not use.
            sampler = default.replace(**{k: value for k, value in arguments.items() if k in default.config})
            # The official diffusion draws for the last step too, and adds nothing.
            noise = a[run["noise"]][: sampler.num_noises] if run["noise"] else None
            return {key: sampler(network(), a["latents"], Condition(a["y"]), noise)}

        yield Part(case, f"{run['id']}-{run['function']}", [key], compute)


# --- Metrics and images -----------------------------------------------------------------------------------------------


def frechet(case: Case) -> Iterator[Part]:
    """Fréchet distances, accumulated statistics and the inception score."""

    def distances() -> Results:
        a = case.tensors

        def gaussian(pair: str, number: int) -> Gaussian:
            return Gaussian(a[f"{pair}.mu{number}"], a[f"{pair}.sigma{number}"])

        return {
            f"{pair}.value": torch.tensor([frechet_distance(gaussian(pair, 1), gaussian(pair, 2))], dtype=torch.float64)
            for pair in case.spec["values"]
        }

    def statistics() -> Results:
        metric = FeatureStatistics()
        for batch in case.stored["features"].chunk(3):
            metric.update(batch)
        moments = metric.compute()
        return {"features.mu": moments.mu, "features.sigma": moments.sigma}

    def keys(suffix: str = "", prefix: str = "") -> list[str]:
        return [key for key in case.results() if key.startswith(prefix) and key.endswith(suffix)]

    def score() -> Results:
        description = case.spec["tensors"]["is.mean"]["description"]
        num_splits = re.search(r"(\d+) splits", description)
        if num_splits is None:
            raise ValueError(f"{case.name}: is.mean does not say how many splits: {description!r}")
        mean, std = inception_score(case.stored["is.logits"], int(num_splits[1]))
        return {"is.mean": mean[None], "is.std": std[None]}

    yield Part(case, "distances", keys(suffix=".value"), distances)
    yield Part(case, "statistics", keys(prefix="features."), statistics)
    yield Part(case, "inception_score", keys(prefix="is."), score)


def image_postprocess(case: Case) -> Iterator[Part]:
    """Rounding conventions."""
    conventions = {"dmf": truncate_to_uint8, "imf_jax": round_half_up_to_uint8, "imf_torch": round_to_uint8}
    for key in case.results():
        yield Part(case, key, [key], lambda key=key: {key: conventions[key](case.stored["x"])})


def center_crops(case: Case) -> Results:
    """Center crops of images of several sizes."""
    results = {}
    for key in case.results():
        image = Image.fromarray(case.stored[key.replace("out.", "in.")].numpy())
        cropped = center_crop(image, case.spec["resolution"])
        results[key] = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8).reshape(*cropped.size, 3)
    return results


def pieces(split: Callable[[Case], Iterator[Piece]]) -> Callable[[Case], Iterator[Part]]:
    """A kind whose parts are described by tuples."""
    return lambda case: (Part(case, *piece) for piece in split(case))


KINDS: dict[str, Callable[[Case], Iterator[Part]]] = {
    "dmf.sit_forward": whole(sit_forward),
    "dmf.dmft_forward": whole(dmft_forward),
    "dmf.dmft_jvp": whole(dmft_jvp),
    "dmf.embeddings": whole(embeddings),
    "dmf.convert_sit_to_dmft": whole(convert),
    "dmf.fm_loss": whole(fm_loss),
    "dmf.dmf_loss": whole(dmf_loss),
    "dmf.guidance_targets": whole(guidance_targets),
    "dmf.log_lv_loss": whole(log_lv_loss),
    "dmf.train_steps": whole(train_steps),
    "dmf.sampler": sampler_runs,
    "metrics.frechet": frechet,
    "image_postprocess": image_postprocess,
    "dmf.center_crop_dhariwal": whole(center_crops),
    "imf.distributions": whole(imf_cases.distributions),
    "imf.schedules_ema": whole(imf_cases.schedules_and_average),
    "imf.latent_scaling": whole(imf_cases.latent_scaling),
    "imf.forward": whole(imf_network_cases.forward),
    "imf.guidance": whole(imf_network_cases.guidance),
    "imf.loss": whole(imf_network_cases.loss),
    "imf.generate": pieces(imf_network_cases.generate),
    "imf.train_steps": whole(imf_network_cases.train_steps),
    **{kind: pieces(split) for kind, split in FORMATS.items()},
}
