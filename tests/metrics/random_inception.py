"""Inception with random weights, as a file."""

import io
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def write_random_inception(path: Path, logit_scale: float = 1.0) -> Path:
    """Write weights that keep the scale of what passes: no feature is all zeros, and images have different features.

    Args:
        path: File to write.
        logit_scale: Factor of the class logits; the larger, the further an inception score is from 1.
    """
    blank = io.BytesIO()
    torch.save({}, blank)
    blank.seek(0)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state_dict: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=blank)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        network.fc.weight.mul_(logit_scale)
    torch.save(network.state_dict(), path)
    return path
