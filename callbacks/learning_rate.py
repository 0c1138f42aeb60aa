"""Logs the learning rate."""

from lightning.pytorch.callbacks import LearningRateMonitor


class LearningRate(LearningRateMonitor):
    """Lightning's ``LearningRateMonitor``, which logs once per logged step."""

    def __init__(self) -> None:
        super().__init__(logging_interval="step")
