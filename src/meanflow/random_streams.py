"""Random numbers that depend on (seed, step, rank) and on nothing else.

Generators are on the CPU. A run thus draws the same numbers on every device, and the host knows the drawn times and
dropped labels without waiting for the device.
"""

from __future__ import annotations

import numpy as np
import torch

# Purposes of streams of random numbers. Two purposes at the same (seed, step, rank) never share numbers.
TRAINING, SAMPLING, DATA_ORDER, DATA_FLIP, INITIALIZATION, SPLIT, CHOICE, LABELS = range(8)


def generator(seed: int, *counters: int, purpose: int = TRAINING) -> torch.Generator:
    """Return a CPU generator whose state is a function of the arguments.

    Args:
        seed: Seed of the run, at least 0.
        counters: Numbers that select a stream, each at least 0. In training they are ``(step, rank)``, with ``step`` in
            micro-batches since the start of the run. In sampling they are the index of the sample.
        purpose: One of the purposes of this module, such as ``TRAINING``.

    Raises:
        ValueError: If ``seed`` is below 0.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    state = np.random.SeedSequence((seed, purpose, *counters)).generate_state(1, np.uint64)
    # torch.Generator takes seeds in [-2^63, 2^64). Numbers below 2^63 can be represented everywhere.
    return torch.Generator().manual_seed(int(state[0]) >> 1)
