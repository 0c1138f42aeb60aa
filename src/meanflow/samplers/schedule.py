"""The times at which a sampler evaluates its network."""

from __future__ import annotations

import torch
from torch import Tensor


def time_grid(num_steps: int, shift: float = 1.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Return ``num_steps + 1`` times from ``t_start`` (1, noise) to ``t_end`` (0, data), decreasing, float64.

    Uniform times are mapped by ``t -> shift t / (1 + (shift - 1) t)``. The map keeps 0 and 1 and, for ``shift > 1``,
    moves the other times towards the noise (Esser et al., 2024, arXiv:2403.03206, eq. 23). ``t_start`` and ``t_end``
    are times before the map. Uniform times from 1 to 0 are correctly rounded (3 / 10 is 0.3): a guidance interval that
    is written with such numbers ends exactly on the grid.

    Raises:
        ValueError: If ``num_steps`` is no whole number above 0, ``shift`` is not above 0, or the ends are not in order.
    """
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be a whole number, at least 1, got {num_steps!r}")
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift must be above 0 and finite, got {shift}")
    if not 0 <= t_end < t_start <= 1:
        raise ValueError(f"times must satisfy 0 <= t_end < t_start <= 1, got t_start={t_start}, t_end={t_end}")
    steps_left = torch.arange(num_steps, -1, -1, dtype=torch.float64, device="cpu")  # not the default device
    t = (t_start * steps_left + t_end * (num_steps - steps_left)) / num_steps
    # 1 + (shift - 1) t in a form that gives exactly 1 at t = 1.
    return shift * t / (shift * t + (1 - t))
