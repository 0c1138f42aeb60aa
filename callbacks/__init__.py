"""Lightning callbacks."""

from callbacks.best_checkpoint import BestCheckpoint
from callbacks.checkpoint import AtomicCheckpointIO, LastCheckpoint
from callbacks.codec_folder import CodecFolder
from callbacks.ema import EMA
from callbacks.finite_loss import StopOnNonFiniteLoss
from callbacks.progress import StepProgressBar
from callbacks.sample_grid import SampleGrid
from callbacks.score import PeriodicScore
from callbacks.throughput import Throughput
from callbacks.time_bins import TimeBins

__all__ = [
    "EMA",
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "CodecFolder",
    "LastCheckpoint",
    "PeriodicScore",
    "SampleGrid",
    "StepProgressBar",
    "StopOnNonFiniteLoss",
    "Throughput",
    "TimeBins",
]
