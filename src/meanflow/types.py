"""The notation of the project, the tuples that its parts exchange, and the protocols of networks and objectives.

The notation holds in code, configuration and documentation:

======================  ==============================================================================================
``x``, ``e``            data (latents) and Gaussian noise, ``(B, C, H, W)``
``t``, ``r``            times, float32 ``(B,)``: noise at t = 1, data at t = 0, ``0 <= r <= t <= 1``
``z_t``                 state ``alpha(t) x + sigma(t) e``; linear path: ``z_t = (1 - t) x + t e``
``v``                   velocity ``dz_t / dt``; linear path: ``v = e - x``
``u``                   average velocity over ``[r, t]``; one step is ``z_r = z_t - (t - r) u``
``du_dt``               total derivative of ``u`` along the flow: tangents ``dz = v, dt = 1, dr = 0``
``v_g``                 guided target velocity
``h``                   ``t - r``
``y``                   class labels, int64 ``(B,)``; the null label is ``network.null_label``
``omega``               guidance scale, applied where ``t`` lies in ``[t_min, t_max]``
``P_mean``, ``P_std``   mean and standard deviation of the normal whose logistic function is a time
======================  ==============================================================================================

MeanFlow identity: ``u = v - (t - r) du_dt``. Training replaces ``v`` in it: DMF by ``v_g``; iMF by the network's own
conditional velocity as the tangent, and by ``v_g`` as the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from typing_extensions import TypeVar

from meanflow.dual import Dual


class Condition(NamedTuple):
    """Condition of the samples of a batch.

    Attributes:
        y: Class labels, int64 ``(B,)``, in ``[0, num_classes]``; ``num_classes`` is the null label.
        omega: Guidance scales ``(B,)``, for networks that take guidance as an input (iMF).
        t_min: Lower ends of the guidance intervals ``(B,)``, for networks that take guidance as an input.
        t_max: Upper ends of the guidance intervals ``(B,)``, for networks that take guidance as an input.
    """

    y: Tensor
    omega: Tensor | None = None
    t_min: Tensor | None = None
    t_max: Tensor | None = None


class FlowOutput(NamedTuple):
    """Output of a flow network.

    Attributes:
        v: Velocity ``(B, C, H, W)``.
        features: Projected hidden features, one ``(B, tokens, dim)`` per alignment target; empty without alignment.
    """

    v: Tensor | Dual
    features: tuple[Tensor, ...] = ()


class FlowMapOutput(NamedTuple):
    """Output of a flow map network.

    Attributes:
        u: Average velocity over ``[r, t]``, ``(B, C, H, W)``; a ``Dual`` if the network was called on duals.
        logvar: Learned log-variance of the error of ``u``, ``(B,)``; 0 if the network learns none.
    """

    u: Tensor | Dual
    logvar: Tensor


class IMFOutput(NamedTuple):
    """Output of an improved MeanFlow network.

    Attributes:
        u: Average velocity over ``[r, t]``, ``(B, C, H, W)``; a ``Dual`` if the network was called on duals. ``None``
            if the call asked for the v head alone.
        v: Velocity at ``t``, ``(B, C, H, W)``, the output of the auxiliary head; never a ``Dual``. ``None`` if the call
            asked for the u head alone.
    """

    u: Tensor | Dual | None
    v: Tensor | None


class LatentBatch(NamedTuple):
    """A normalized batch of a latent store. The posterior of the codec has not been sampled yet.

    Attributes:
        mean: Mean of the posterior ``(B, C, H, W)``; the latents themselves in a store of plain latents.
        std: Standard deviation of the posterior ``(B, C, H, W)``; ``None`` in a store of plain latents.
        y: Class labels, int64 ``(B,)``.
        image: Source images, uint8 ``(B, 3, H, W)``, for representation alignment; ``None`` otherwise.
    """

    mean: Tensor
    std: Tensor | None
    y: Tensor
    image: Tensor | None = None

    def sample(self, generator: torch.Generator) -> Tensor:
        """Return latents ``x = mean + std n`` with normal numbers ``n`` from a CPU generator."""
        if self.std is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.std * noise.to(self.mean, non_blocking=True)


class AtTimes(NamedTuple):
    """One value per sample, with the time t it belongs to. Neither carries a gradient.

    Attributes:
        t: Times ``(N,)``.
        value: Values ``(N,)``, float32 or better.
    """

    t: Tensor
    value: Tensor


class LossOutput(NamedTuple):
    """Losses and diagnostics of one batch.

    Attributes:
        loss: Losses, float32 or better. Training minimizes their mean. Shape ``(B,)``, one loss per sample, unless the
            weighting states another shape.
        diagnostics: Named scalars for the log, without gradients.
        by_t: One value per sample, with its time, for each diagnostic that is a mean over samples, under the same name.
            Every batch has the same names. ``N`` is 0 where a batch has no sample with such a value.
    """

    loss: Tensor
    diagnostics: dict[str, Tensor]
    by_t: dict[str, AtTimes]


Output = FlowOutput | FlowMapOutput | IMFOutput


OutputT = TypeVar("OutputT", bound=Output, default=Output, covariant=True)


class Network(Protocol[OutputT]):
    """A network of this library, called ``(z_t, t, r, cond)``.

    Attributes:
        num_classes: Number of classes.
        null_label: The label that stands for "no class".
        in_channels: Channels of the latent.
        input_size: Height and width of the latent.
        output_field: Name of the output that samplers read: ``v`` of a flow, ``u`` of a flow map.
        takes_guidance: Whether guidance scale and interval are inputs of the network (iMF).
        sampling_arguments: Further arguments of a call that needs ``output_field`` and no other output.
    """

    num_classes: int
    null_label: int
    in_channels: int
    input_size: int
    output_field: str
    takes_guidance: bool
    sampling_arguments: Mapping[str, str]

    @property
    def output(self) -> type[OutputT]:
        """Type of the output."""
        ...

    def __call__(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition, **arguments: str) -> OutputT:
        """Evaluate the network.

        Args:
            z_t: State ``(B, C, H, W)``.
            t: Time of the state ``(B,)``.
            r: Time to go to ``(B,)``, ``r <= t``. A flow network does not use it.
            cond: Condition of the samples.
            arguments: Further arguments of the network, such as ``heads`` of an iMF network.
        """
        ...


class Plan(Protocol):
    """Everything that the loss of one step needs besides the data, on the device of the data."""

    @property
    def draws(self) -> tuple[Tensor, ...]:
        """Random numbers of the step."""
        ...

    def variable(self) -> tuple[Tensor, ...]:
        """Return the tensors whose length varies from step to step; a compiled step accepts any length of them."""
        ...


NetworkT = TypeVar("NetworkT", contravariant=True)
DrawsT = TypeVar("DrawsT", bound=tuple[Tensor, ...])
PlanT = TypeVar("PlanT", bound=Plan)


class Objective(Protocol[NetworkT, DrawsT, PlanT]):
    """A training objective: a pure function of network, data and random numbers.

    A step has three parts. ``draw`` makes all random numbers. ``plan`` decides on the CPU which network evaluations the
    step needs. ``loss`` is a function of tensors alone, which ``torch.compile`` turns into one graph. To add an
    objective, subclass ``Objective`` and define ``network_output`` and the three methods.

    Attributes:
        network_output: Type of the output of the networks that the objective trains.
    """

    network_output: ClassVar[type[Output]]

    @property
    def needs_logvar(self) -> bool:
        """Whether the network must learn the log-variance of its error; by default it need not."""
        return False

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> DrawsT:
        """Draw the random numbers of a step, on the CPU.

        Args:
            shape: Shape of the data ``(B, C, H, W)``.
            generator: CPU generator.
        """
        ...

    def plan(self, draws: DrawsT, x: Tensor) -> PlanT:
        """Plan a step and bring the plan to the device of the data. The host does not wait for the device.

        Args:
            draws: Random numbers of the step, on the CPU.
            x: Data ``(B, C, H, W)``.
        """
        ...

    def loss(self, model: NetworkT, x: Tensor, y: Tensor, plan: PlanT) -> LossOutput:
        """Return the losses of a planned step.

        Args:
            model: The network that is trained.
            x: Data ``(B, C, H, W)``.
            y: Labels, int64 ``(B,)``.
            plan: Plan of the step.
        """
        ...

    def __call__(self, model: NetworkT, x: Tensor, y: Tensor, draws: DrawsT) -> LossOutput:
        """Plan a step and return its losses.

        Args:
            model: The network that is trained.
            x: Data ``(B, C, H, W)``.
            y: Labels, int64 ``(B,)``.
            draws: Random numbers of the step, on the CPU.
        """
        return self.loss(model, x, y, self.plan(draws, x))
