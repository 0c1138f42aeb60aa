"""Flow matching, optionally with representation alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from meanflow.dual import Dual, primal
from meanflow.interpolant import Interpolant
from meanflow.objectives.label_drop import IndependentLabelDrop, drop_labels
from meanflow.objectives.precision import at_least_float32, match_data
from meanflow.objectives.times import TimeDistribution
from meanflow.types import AtTimes, Condition, FlowOutput, LossOutput, Network, Objective


class FlowMatchingDraws(NamedTuple):
    """Random numbers of one step.

    Attributes:
        dropped: Whether the label of a sample is dropped, bool ``(B,)``.
        t: Times ``(B,)``.
        e: Noise ``(B, C, H, W)``.
    """

    dropped: Tensor
    t: Tensor
    e: Tensor


class FlowMatchingPlan(NamedTuple):
    """Everything that a step needs besides the data, on the device of the data.

    Attributes:
        draws: Random numbers, floating-point ones in the data type of the step.
    """

    draws: FlowMatchingDraws

    def variable(self) -> tuple[Tensor, ...]:
        """Return the tensors whose length varies from step to step: none."""
        return ()


class FlowMatching(Objective[Network[FlowOutput], FlowMatchingDraws, FlowMatchingPlan]):
    """Mean squared error of the velocity: ``|v(z_t, t, y) - dz_t/dt|^2`` (Lipman et al., 2022; SiT).

    Args:
        interpolant: Path between data and noise.
        times: Distribution of ``t``.
        label_drop: Decides which labels are dropped; each with probability 0.1 by default.
        alignment_weight: Weight of the term that aligns features of the network with a representation (REPA).
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

    @override
    def draw(self, shape: Sequence[int], generator: torch.Generator) -> FlowMatchingDraws:
        dropped = self.label_drop.sample(shape[0], generator)
        return FlowMatchingDraws(
            dropped, self.times.sample(shape[0], generator), torch.randn(*shape, generator=generator)
        )

    @override
    def plan(self, draws: FlowMatchingDraws, x: Tensor) -> FlowMatchingPlan:
        return match_data(FlowMatchingPlan(draws), x)

    @override
    def __call__(
        self,
        model: Network[FlowOutput],
        x: Tensor,
        y: Tensor,
        draws: FlowMatchingDraws,
        features: Sequence[Tensor] = (),
    ) -> LossOutput:
        """Return losses ``(B,)``.

        Args:
            model: Flow network.
            x: Data ``(B, C, H, W)``.
            y: Labels ``(B,)``.
            draws: Random numbers of the step, on the CPU.
            features: Representations ``(B, tokens, dim)`` with which the features of the network are aligned.
        """
        return self.loss(model, x, y, self.plan(draws, x), features)

    @override
    def loss(
        self,
        model: Network[FlowOutput],
        x: Tensor,
        y: Tensor,
        plan: FlowMatchingPlan,
        features: Sequence[Tensor] = (),
    ) -> LossOutput:
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


def mean_squared_error(prediction: Tensor | Dual, target: Tensor) -> Tensor:
    """Return the mean squared error of each sample ``(B,)``, in the data type of the target.

    Args:
        prediction: Prediction ``(B, C, H, W)`` in any precision. The tangent of a dual is not used.
        target: Target ``(B, C, H, W)``, float32 or better.
    """
    return (primal(prediction).to(target.dtype) - target).square().flatten(1).mean(1)


def alignment_loss(projected: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Return minus the cosine similarity, averaged over samples, tokens and representations (REPA, equation 8).

    Args:
        projected: Projected features of the network, one ``(B, tokens, dim)`` per representation.
        features: The representations, each ``(B, tokens, dim)``.

    Raises:
        ValueError: If the numbers of projected features and representations differ.
    """
    if len(projected) != len(features):
        raise ValueError(
            f"the network has {len(projected)} projectors, but there are {len(features)} representations; "
            "network.alignment_dims must have one entry for each representation"
        )
    pairs = zip(projected, features, strict=True)
    return torch.stack([-functional.cosine_similarity(a.to(b.dtype), b, dim=-1).mean() for a, b in pairs]).mean()
