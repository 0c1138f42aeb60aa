"""Flow matching, optionally with representation alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from meanflow.dual import Dual, primal
from meanflow.interpolant import Interpolant
from meanflow.objectives.label_dropping import IndependentLabelDrop, drop_labels
from meanflow.objectives.times import TimeDistribution
from meanflow.types import AtTimes, Condition, FlowOutput, LossOutput


class FlowMatchingDraws(NamedTuple):
    """Random numbers of one step.

    Attributes:
        dropped: Which labels are dropped, bool ``(B,)``.
        t: Times ``(B,)``.
        e: Noise, like the data.
    """

    dropped: Tensor
    t: Tensor
    e: Tensor


class FlowMatchingPlan(NamedTuple):
    """What a step needs besides the data, on their device.

    Attributes:
        draws: Random numbers, in the type of the data.
    """

    draws: FlowMatchingDraws

    def variable(self) -> tuple[Tensor, ...]:
        """Return the tensors whose length varies from step to step: none."""
        return ()


class FlowMatching:
    """Mean squared error of the velocity: ``|v(z_t, t, y) - dz_t/dt|^2`` (Lipman et al., 2022; SiT).

    Args:
        interpolant: Path from data to noise.
        times: Distribution of ``t``.
        label_drop: Which labels are replaced by the null label; each with probability 0.1 by default.
        alignment_weight: Weight of the representation alignment term (REPA); used when features are given.
    """

    network_output = FlowOutput
    needs_logvar = False

    def __init__(
        self,
        interpolant: Interpolant,
        times: TimeDistribution,
        label_drop: IndependentLabelDrop | None = None,
        alignment_weight: float = 0.5,
    ) -> None:
        self.interpolant = interpolant
        self.times = times
        self.label_drop = label_drop or IndependentLabelDrop()
        self.alignment_weight = alignment_weight

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> FlowMatchingDraws:
        """Draw the random numbers for data of ``shape (B, C, H, W)``."""
        dropped = self.label_drop.sample(shape[0], generator)
        return FlowMatchingDraws(
            dropped, self.times.sample(shape[0], generator), torch.randn(*shape, generator=generator)
        )

    def plan(self, draws: FlowMatchingDraws, x: Tensor) -> FlowMatchingPlan:
        """Bring the draws to the device of ``x``; the host does not wait for it."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        dropped, t, e = (draw.to(x.device, non_blocking=True) for draw in draws)
        return FlowMatchingPlan(FlowMatchingDraws(dropped, t.to(dtype), e.to(dtype)))

    def __call__(
        self, model: Any, x: Tensor, y: Tensor, draws: FlowMatchingDraws, features: Sequence[Tensor] = ()
    ) -> LossOutput:
        """Return losses ``(B,)``.

        Args:
            model: Flow network.
            x: Data ``(B, C, H, W)``.
            y: Labels ``(B,)``.
            draws: Random numbers of the step.
            features: Representations ``(B, tokens, dim)`` to align the network's features with.
        """
        return self.loss(model, x, y, self.plan(draws, x), features)

    def loss(
        self, model: Any, x: Tensor, y: Tensor, plan: FlowMatchingPlan, features: Sequence[Tensor] = ()
    ) -> LossOutput:
        """Return what ``__call__`` returns, for draws on the device: one graph for ``torch.compile``."""
        x, (dropped, t, e) = at_least_float32(x), plan.draws
        y = drop_labels(y, dropped, model.null_label)
        output = model(self.interpolant.state(x, e, t), t, t, Condition(y))
        loss = mean_squared_error(output.v, self.interpolant.velocity(x, e, t))
        by_t = {"fm_loss": AtTimes(t, loss.detach())}
        diagnostics = {"fm_loss": loss.detach().mean()}
        if features:
            alignment = alignment_loss(output.features, features)
            loss = loss + self.alignment_weight * alignment
            diagnostics["alignment_loss"] = alignment.detach()
        return LossOutput(loss, diagnostics, by_t)


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision: times, states and targets are made in the type of the data."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_squared_error(prediction: Tensor | Dual, target: Tensor) -> Tensor:
    """Return the mean squared error of each sample, ``(B,)``, in float32 or better."""
    return (primal(prediction).to(target.dtype) - target).square().flatten(1).mean(1)


def alignment_loss(projected: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Return minus the cosine similarity, averaged over samples, tokens and representations (REPA, equation 8).

    Raises:
        ValueError: If the network has another number of projectors than there are representations.
    """
    if len(projected) != len(features):
        raise ValueError(
            f"{len(features)} representations to align with, but the network projects onto {len(projected)}; "
            "use AlignedSiT with one entry of alignment_dims for each"
        )
    pairs = zip(projected, features, strict=True)
    return torch.stack([-functional.cosine_similarity(a.to(b.dtype), b, dim=-1).mean() for a, b in pairs]).mean()
