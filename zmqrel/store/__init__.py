"""Where a peer keeps what must outlive a turn of its loop: on disk or in memory."""

from zmqrel.store.in_hand import InHandFile, MemoryInHand
from zmqrel.store.lmdb import LmdbStore
from zmqrel.store.memory import MemoryStore

__all__ = ["InHandFile", "LmdbStore", "MemoryInHand", "MemoryStore"]
