"""Lightning data modules, and the latent stores that they read."""

from datamodules.digits import DigitsDataModule
from datamodules.fashion_mnist import FashionMNISTDataModule
from datamodules.latents import LatentDataModule
from datamodules.store.reader import ConcatenatedStores, LatentStore, open_store
from datamodules.store.writer import LatentStoreWriter

__all__ = [
    "ConcatenatedStores",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "LatentDataModule",
    "LatentStore",
    "LatentStoreWriter",
    "open_store",
]
