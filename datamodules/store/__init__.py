"""Latent stores: a folder of memory-mapped shards and a manifest, read, written, checked and described."""

from datamodules.store.reader import ConcatenatedStores, Latents, LatentStore, open_store
from datamodules.store.writer import LatentStoreWriter

__all__ = ["ConcatenatedStores", "LatentStore", "LatentStoreWriter", "Latents", "open_store"]
