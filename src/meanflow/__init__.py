"""Flow pretraining, Decoupled MeanFlow and few-step sampling."""

__version__ = "0.1.0"
