"""Golden cases of the improved MeanFlow code that need no network: distributions, schedules, averaging, latents.

Every function computes the results of one case; ``tests/golden/cases.py`` names the kinds.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.ema import EMA
from meanflow.codecs.normalization import IMF
from meanflow.modules.schedules import Constant, LearningRateSchedule, OfficialCosine, RampFromZero
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.times import LogitNormal, PartlyEqualPair

if TYPE_CHECKING:
    from tests.golden.cases import Case, Results


def distributions(case: Case) -> Results:
    """Guidance scales, times and intervals from recorded draws."""
    a = case.tensors
    results = {f"omega.beta{beta}": PowerLawScale(beta).transform(a["u"]) for beta in case.spec["betas"]}
    for size, share in case.spec["bz_and_data_proportion"]:
        name = f"bz{size}_dp{share}"
        for P_mean, P_std in case.spec["P_mean_std"]:
            times = LogitNormal(P_mean, P_std)
            pair = PartlyEqualPair(times, times, prob_r_equals_t=share)
            draws = (times.transform(a[key][:size].flatten() * P_std + P_mean) for key in ("z_1", "z_2"))
            t, r = (column(time) for time in pair.order(*draws))
            full = pair.r_equals_t(size)
            key = f"tr.P{P_mean}_{P_std}.{name}"
            # Masks are recorded without a tolerance.
            if not torch.equal(full, a[f"{key}.fm_mask"].flatten().bool()):
                raise ValueError(f"{case.name}: the samples with r = t are not those of {key}.fm_mask")
            results |= {f"{key}.t": t, f"{key}.r": r}
        ends = UniformInterval.widen(a["t_min_draw"][:size].flatten(), a["t_max_draw"][:size].flatten(), full)
        results |= {f"interval.{name}.t_min": column(ends[0]), f"interval.{name}.t_max": column(ends[1])}
    return results


def column(a: Tensor) -> Tensor:
    """Give ``(B,)`` the official shape ``(B, 1, 1, 1)``."""
    return a[:, None, None, None]


def schedule_of(config: dict[str, Any]) -> LearningRateSchedule:
    """Build a schedule from its official name."""
    warmup: dict[str, Any] = {"warmup_epochs": config["warmup_epochs"], "ramp": RampFromZero()}
    if config["lr_schedule"] == "warmup_const":
        return Constant(**warmup)
    if config["lr_schedule"] == "warmup_cosine":
        return OfficialCosine(config.get("lr_min_factor", 0.0), **warmup)
    raise ValueError(f"unknown lr_schedule {config['lr_schedule']!r}")


class Averaged(LightningModule):
    """One tensor as what the averaging callback takes."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def schedules_and_average(case: Case) -> Results:
    """Learning rates at recorded steps; one update of the averaging callback."""
    a, results = case.tensors, {}
    for i, config in enumerate(case.spec["configs"]):
        schedule, per_epoch = schedule_of(config), config["steps_per_epoch"]
        total = config["num_epochs"] * per_epoch
        factors = [schedule.factor(step, total, per_epoch) for step in a[f"cfg{i}.step"].tolist()]
        results[f"cfg{i}.lr"] = config["learning_rate"] * torch.tensor(factors, dtype=torch.float64)
    for decay in case.spec["ema_alphas"]:
        module, ema = Averaged(a["ema"]), EMA(decay)
        ema.on_train_start(SimpleNamespace(global_step=0), module)
        module.weight.data.copy_(a["params"])
        ema.on_train_batch_end(SimpleNamespace(global_step=1), module, None, None, 0)
        results[f"ema.alpha{decay}"] = ema.average["weight"]
    return results


def latent_scaling(case: Case) -> Results:
    """Normalized latents of a posterior, and the way back."""
    mean, std = case.tensors["cached"].chunk(2, dim=1)
    latent = IMF.normalize(mean) + IMF.normalize_std(std) * case.tensors["draw.noise"]
    return {
        "latent": latent,
        "decoder_input": IMF.denormalize(latent),
        "mean": torch.tensor(IMF.shift, dtype=torch.float64),
        "std": 1 / torch.tensor(IMF.scale, dtype=torch.float64),
    }
