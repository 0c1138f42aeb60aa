"""Inception-v3 as TensorFlow published it in 2015: the features of FID, sFID, inception score and KID.

The network is torch-fidelity's ``inception-v3-compat``. It resizes, pools and divides as the TensorFlow graph does.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from meanflow.files.remote import local_file
from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.features.pretrained import PretrainedFeatures

NUM_SPATIAL_CHANNELS = 7


class InceptionFeatures(PretrainedFeatures):
    """Pooled features (2,048), class logits without bias (1,008) and spatial features (2,023).

    ADM's sFID uses the same spatial features (``evaluations/evaluator.py`` of openai/guided-diffusion, after Nash et
    al., 2021, arXiv:2103.03841): the first 7 channels of the tensor ``mixed_6/conv`` on its 17 x 17 grid, in the order
    height, width, channel. PyTorch's name for the tensor is the rectified 1 x 1 branch of the block ``Mixed_6d``.

    Args:
        weights: Path or address of the weights under torch-fidelity's names. ``None`` takes torch-fidelity's release.
    """

    name: ClassVar[str] = "inception"

    def published_weights(self) -> Path:
        """Return the local copy of torch-fidelity's file. A missing copy is downloaded from GitHub.

        Raises:
            FileNotFoundError: If there is no copy and the download fails.
            ValueError: If the sha256 of the file is wrong.
        """
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        return local_file(URL_INCEPTION_V3)  # the name of the file contains the start of its sha256

    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return torch-fidelity's network with these weights.

        Raises:
            RuntimeError: If the weights are of another architecture.
        """
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # The constructor unpickles a file. It gets a file that is written here, from tensors only.
        file = io.BytesIO()
        torch.save(dict(weights), file)
        file.seek(0)
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights before it reads them
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=file
            )

    def extract(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images, uint8 ``(B, 3, H, W)``."""
        maps: list[Tensor] = []
        branch = self.network.get_submodule("Mixed_6d.branch1x1")
        with branch.register_forward_hook(lambda module, inputs, output: maps.append(output)):
            pooled, logits = self.network(images)
        spatial = maps[0][:, :NUM_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return ImageFeatures(pooled, spatial, logits)
