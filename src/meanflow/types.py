"""The notation of the project and the tuples that its parts exchange.

One convention holds everywhere (code, configuration, documentation):

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

MeanFlow identity: ``u = v - (t - r) du_dt``.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from meanflow.dual import Dual


class Condition(NamedTuple):
    """What a sample is conditioned on.

    Attributes:
        y: Class labels, int64 ``(B,)``, in ``[0, num_classes]``; ``num_classes`` is the null label.
        omega: Guidance scale ``(B,)``, for networks that take it as an input (iMF).
        t_min: Lower end of the guidance interval ``(B,)``, likewise.
        t_max: Upper end of the guidance interval ``(B,)``, likewise.
    """

    y: Tensor
    omega: Tensor | None = None
    t_min: Tensor | None = None
    t_max: Tensor | None = None


class FlowOutput(NamedTuple):
    """Output of a flow network.

    Attributes:
        v: Velocity ``(B, C, H, W)``.
        features: Projected hidden features ``(B, tokens, dim)``, one per alignment target; empty without alignment.
    """

    v: Tensor | Dual
    features: tuple[Tensor, ...] = ()


class FlowMapOutput(NamedTuple):
    """Output of a flow map network.

    Attributes:
        u: Average velocity over ``[r, t]``, ``(B, C, H, W)``; a ``Dual`` if the network was called on duals.
        logvar: Learned log-variance of the error of ``u``, ``(B,)``; zero for a network without that head.
    """

    u: Tensor | Dual
    logvar: Tensor


class IMFOutput(NamedTuple):
    """Output of an improved MeanFlow network.

    Attributes:
        u: Average velocity over ``[r, t]``, ``(B, C, H, W)``; a ``Dual`` if called on duals; ``None`` if
            that head was not asked for.
        v: Velocity at ``t``, the output of the auxiliary head, never a dual; ``None`` if that head was not asked for.
    """

    u: Tensor | Dual | None
    v: Tensor | None


class LatentBatch(NamedTuple):
    """A batch of a latent store, normalised, before the posterior is sampled.

    Attributes:
        mean: Mean of the codec's posterior ``(B, C, H, W)``, or the latents themselves.
        std: Standard deviation of the posterior, same shape; ``None`` for plain latents.
        y: Class labels, int64 ``(B,)``.
        image: Source images, uint8 ``(B, 3, H, W)``, when asked for (representation alignment).
    """

    mean: Tensor
    std: Tensor | None
    y: Tensor
    image: Tensor | None = None

    def sample(self, generator: torch.Generator) -> Tensor:
        """Return latents ``x = mean + std n`` with normal draws ``n`` from a CPU generator."""
        if self.std is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.std * noise.to(self.mean, non_blocking=True)


class AtTimes(NamedTuple):
    """A quantity of single samples and the times that it was measured at, detached.

    Attributes:
        t: Times ``(N,)``.
        value: The quantity ``(N,)``, float32 or better.
    """

    t: Tensor
    value: Tensor


class LossOutput(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: Losses, float32 or better; their mean over all entries is minimised. ``(B,)``, one per sample, unless a
            weighting says otherwise.
        diagnostics: Named, detached tensors for the log.
        by_t: Those diagnostics that are means over samples, before the mean, under the same names. Every batch has the
            same names; where it has no sample of that kind, ``N`` is 0.
    """

    loss: Tensor
    diagnostics: dict[str, Tensor]
    by_t: dict[str, AtTimes]


Output = FlowOutput | FlowMapOutput | IMFOutput


class Network(Protocol):
    """A network of this library: callable as ``(z_t, t, r, cond)``.

    Attributes:
        num_classes: Number of classes.
        null_label: The label that stands for "no class".
        in_channels: Channels of the latent.
        input_size: Height and width of the latent.
    """

    num_classes: int
    null_label: int
    in_channels: int
    input_size: int

    def __call__(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition) -> Output:
        """Return the output for the state ``z_t (B, C, H, W)`` at times ``t`` and ``r (B,)``."""
        ...
