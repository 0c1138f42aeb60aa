"""Latent stores, folders of memory-mapped shards with a manifest: reading, writing, checking and describing them."""

from datamodules.store.reader import ConcatenatedStores, LatentStore, Store, open_store
from datamodules.store.writer import LatentStoreWriter

__all__ = ["ConcatenatedStores", "LatentStore", "LatentStoreWriter", "Store", "open_store"]
