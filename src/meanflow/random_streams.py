"""Random numbers that depend on (seed, step, rank) and on nothing else.

They are made on the CPU: a run draws the same numbers on every device, and the host knows the drawn times and dropped
labels without asking the device for them.
"""

from __future__ import annotations

import numpy as np
import torch

# What a stream of random numbers is for. Two purposes at the same (seed, step, rank) never share numbers.
TRAINING, SAMPLING, DATA_ORDER, DATA_FLIP, INITIALISATION, SPLIT, CHOICE, LABELS = range(8)


def generator(seed: int, *counters: int, purpose: int = TRAINING) -> torch.Generator:
    """Return a CPU generator that is a function of its arguments alone.

    Args:
        seed: The seed of the run, at least 0.
        counters: What the numbers are for, each at least 0: ``(step, rank)`` in training, with ``step`` in
            micro-batches since the start of the run; the index of the sample in sampling.
        purpose: One of the constants above.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    state = np.random.SeedSequence((seed, purpose, *counters)).generate_state(1, np.uint64)
    # torch.Generator takes seeds in [-2^63, 2^64); staying below 2^63 keeps the number representable everywhere.
    return torch.Generator().manual_seed(int(state[0]) >> 1)
