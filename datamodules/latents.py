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
from datamodules.store.reader import Store, open_store
from meanflow.codecs.normalization import require_equal
from meanflow.pipeline import Pipeline

# The order of the batches depends on these arguments. A resumed run must keep them.
ORDER_KEYS = ("num_samples", "batch_size", "seed", "horizontal_flip")

# Stores up to this size are read and checked whole when they are opened, which takes less than a second.
# prepare.py task=verify checks larger ones.
VERIFIED_BYTES = 2**28


class LatentDataModule(LightningDataModule):
    """Training batches from a latent store.

    The n-th batch of a run is a function of the seed and n. ``EpochBatchSampler`` defines the order of the batches;
    ``ResumableDataLoader`` finds the next batch of a resumed run. The module divides the batches among the ranks, and
    therefore needs ``Trainer(use_distributed_sampler=False)``.

    Args:
        path: Folder of the store, or several folders whose samples form one data set.
        batch_size: Samples in the global batch of all devices.
        num_workers: Processes per device that read ahead; 0 reads in the training process.
        horizontal_flip: Flip each sample with probability one half.
        seed: Seed of the run.
        images: Also return the source images, for representation alignment.
        image_root: Folder, zip file or store of the source images; by default the one in the manifest.

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
        self._store: Store | None = None
        self._resumed_order: dict[str, Any] | None = None

    @property
    def store(self) -> Store:
        """The store. The first access opens it, and makes it first if the module can make it (``prepare_data``).

        Raises:
            FileNotFoundError: If the store does not exist.
            ValueError: If the store is damaged.
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
        """Number of global batches in an epoch; the last, incomplete batch is left out."""
        return self.num_samples // self.batch_size

    @property
    def labels(self) -> Tensor:
        """Labels of all samples, int64 ``(num_samples,)``."""
        return self.store.labels

    def latents(self, indices: Sequence[int]) -> Tensor:
        """Return normalized latents ``(len(indices), C, H, W)``, or the means of normalized posteriors."""
        return LatentDataset(self.store).__getitems__(list(indices)).mean

    def require_pipeline(self, pipeline: Pipeline) -> None:
        """Check that a model fits the latents of this store.

        A codec of the same kind at another path is only a warning: both may be the same autoencoder.

        Raises:
            ValueError: If the latents are not square, or the model and the store differ in the channels or size of the
                latents, the number of classes, the normalization, or the kind of codec.
        """
        configuration, name = self.store.configuration, self.store.name
        channels, height, width = configuration.latent_shape
        if height != width:
            raise ValueError(f"{name}: latents must be square to train on them, these are {height} x {width}")
        expected = {
            "in_channels": channels,
            "input_size": height,
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
        if configuration.codec != own:
            rank_zero_warn(f"{name} was encoded with the codec {configuration.codec}, the model decodes with {own}")

    def prepare_data(self) -> None:
        """Do nothing: the store must exist. Subclasses write their store here."""

    def setup(self, stage: str | None = None) -> None:
        """Open the store, so that an error in it shows before training starts."""
        _ = self.store

    def train_dataloader(self) -> ResumableDataLoader:
        """Return the loader of this rank.

        Raises:
            ValueError: If ``batch_size`` is no multiple of the number of devices, or the order of the batches differs
                from that of the resumed checkpoint.
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
        """Return the arguments that the order of the batches depends on."""
        return {key: getattr(self, key) for key in ORDER_KEYS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the order of the checkpoint, which ``train_dataloader`` checks."""
        self._resumed_order = state_dict

    def _require_order_of_checkpoint(self) -> None:
        for key, value in (self._resumed_order or {}).items():
            if getattr(self, key) != value:
                raise ValueError(
                    f"{key} must stay {value!r} to resume this checkpoint, got {getattr(self, key)!r}; "
                    "to change it, start a new run from the checkpoint's weights"
                )

    def _num_trained(self) -> int:
        # This counter counts every batch that a training step has processed, and every checkpoint holds it. The epoch
        # number will not do: after resuming at the last batch of an epoch, it can be one too small.
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
