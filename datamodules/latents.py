"""The Lightning data module of a latent store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from datamodules.loading.batch_sampler import EpochBatchSampler
from datamodules.loading.dataset import LatentDataset
from datamodules.loading.loader import ResumableDataLoader
from datamodules.store.reader import Latents, open_store
from meanflow.codecs.normalization import require_equal
from meanflow.pipeline import Pipeline

# What the order of the batches depends on: must be the same in a run and in its continuation.
ORDER = ("num_samples", "batch_size", "seed", "horizontal_flip")

# Stores up to this size are read and checked whole when they are opened, which takes less than a second; larger ones by
# prepare.py task=verify.
VERIFIED_BYTES = 2**28


class LatentDataModule(LightningDataModule):
    """Training batches from a latent store.

    The n-th batch of a run is a function of (seed, n): see ``EpochBatchSampler`` for the order and
    ``ResumableDataLoader`` for how a resumed run finds it. Wants ``Trainer(use_distributed_sampler=False)``: ranks are
    dealt with here.

    Args:
        path: Folder of the store, or several, whose samples are taken together.
        batch_size: Samples in the batch of all devices together.
        num_workers: Processes per device that read ahead; 0 reads in the training process.
        horizontal_flip: Flip each sample with probability one half.
        seed: Seed of the run.
        images: Also return the source images (representation alignment).
        image_root: Folder, zip file or store of the source images, in place of the one that the manifest names.

    Raises:
        ValueError: If ``batch_size`` or ``num_workers`` is out of range.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        batch_size: int,
        num_workers: int = 0,
        horizontal_flip: bool = False,
        seed: int = 0,
        images: bool = False,
        image_root: str | Path | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        self.path = path
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.horizontal_flip = horizontal_flip
        self.seed = seed
        self.images = images
        self.image_root = image_root
        self._store: Latents | None = None
        self._resumed_order: dict[str, Any] | None = None

    @property
    def store(self) -> Latents:
        """The store, opened (and made, where that is possible without a download) when first asked for.

        Raises:
            FileNotFoundError: If it does not exist.
            ValueError: If it is damaged.
        """
        if self._store is None:
            self.prepare_data()
            store = open_store(self.path)
            if store.num_bytes <= VERIFIED_BYTES:
                store.verify()
            self._store = store
        return self._store

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.store.configuration.num_classes

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.store)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches that each rank trains on in an epoch; the incomplete one is left out."""
        return self.num_samples // self.batch_size

    @property
    def labels(self) -> Tensor:
        """Labels of all samples, int64 ``(num_samples,)``."""
        return self.store.labels

    def latents(self, indices: Sequence[int]) -> Tensor:
        """Return normalised latents ``(len(indices), C, H, W)``; of a posterior, the mean."""
        return LatentDataset(self.store).__getitems__(list(indices)).mean

    def require_pipeline(self, pipeline: Pipeline) -> None:
        """Check that a model is made for the latents of this store.

        Raises:
            ValueError: If the latents' channels or size, the number of classes, the normalisation or the kind of codec
                differ.
        """
        configuration, name = self.store.configuration, self.store.name
        expected = {
            "in_channels": configuration.latent_shape[0],
            "input_size": configuration.latent_shape[1],
            "num_classes": configuration.num_classes,
        }
        for key, value in expected.items():
            if getattr(pipeline.network, key) != value:
                given = getattr(pipeline.network, key)
                raise ValueError(f"network.{key} must be {value} for the store {name}, got {given}")
        require_equal(configuration.normalization, pipeline.normalization, name)
        own = pipeline.codec.config
        if configuration.codec["name"] != own["name"]:
            raise ValueError(f"{name} was encoded with the codec {configuration.codec}, the model decodes with {own}")
        if configuration.codec != own:  # the same autoencoder may lie at different paths, so this is no error
            rank_zero_warn(f"{name} was encoded with the codec {configuration.codec}, the model decodes with {own}")

    def prepare_data(self) -> None:
        """Make the store, where that is possible without a download; here, it must be there already."""

    def setup(self, stage: str | None = None) -> None:
        """Open the store, so that whatever is wrong with it shows before training starts."""
        _ = self.store

    def train_dataloader(self) -> ResumableDataLoader:
        """Return the loader of this rank.

        Raises:
            ValueError: If ``batch_size`` is no multiple of the number of devices, or the run continues one whose
                batches came in another order.
        """
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if self.batch_size % world_size:
            raise ValueError(f"batch_size must be a multiple of the {world_size} devices, got {self.batch_size}")
        if (overfit := getattr(self.trainer, "overfit_batches", 0)) > 0:  # the Trainer does not declare it
            raise ValueError(f"overfit_batches must be 0, got {overfit}: use a store of few samples instead")
        self._require_order_of_checkpoint()
        sampler = EpochBatchSampler(
            self.num_samples, self.batch_size // world_size, self.seed, self.horizontal_flip, rank, world_size
        )
        dataset = LatentDataset(self.store, self.images, self.image_root)
        num_trained = self._num_trained if self.trainer else None
        return ResumableDataLoader(dataset, sampler, num_trained, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of the batches depends on."""
        return {key: getattr(self, key) for key in ORDER}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the order of the checkpoint; it matters only if training continues."""
        self._resumed_order = state_dict

    def _require_order_of_checkpoint(self) -> None:
        for key, value in (self._resumed_order or {}).items():
            if getattr(self, key) != value:
                raise ValueError(
                    f"{key} must stay {value!r} to resume this checkpoint, got {getattr(self, key)!r}; "
                    "to change it, start a new run from the checkpoint's weights"
                )

    def _num_trained(self) -> int:
        # Counts every batch that a training step has processed, once, and is part of each checkpoint. Lightning's epoch
        # number is not used: after resuming a checkpoint from the last batch of an epoch it can be one too small.
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
