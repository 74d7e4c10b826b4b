"""What a store holds beside the past, once every message has ended: nothing, if all is well."""

from __future__ import annotations

from collections.abc import Mapping

from zmqrel.core import tables
from zmqrel.testing.disk import SimulatedDisk

_MUST_BE_EMPTY = {
    "OUTBOX": tables.OUTBOX,
    "WITHDRAWN": tables.WITHDRAWN,
    "OUT_DEADLINE": tables.OUT_DEADLINE,
    "INBOX": tables.INBOX,
    "ROW_STATE": tables.ROW_STATE,
    "WAITING": tables.WAITING,
    "KEYED": tables.KEYED,
    "IN_DEADLINE": tables.IN_DEADLINE,
    "TOMBSTONE": tables.TOMBSTONE,
    "SUSPECT": tables.SUSPECT,
}
_MUST_BE_ZERO = ("outbox_messages", "outbox_bytes", "inbox_messages", "inbox_bytes")


def leftovers(disk: SimulatedDisk, stats: Mapping[str, int] | None) -> dict[str, int]:
    """Tables that are not empty and how many rows they have, and counters of `stats()` that are not 0.

    The outbox is that of the control lanes too: whatever they had to say was said and acknowledged.
    """
    keys = {name: disk.keys(*tables.table_bounds(table), 2**31) for name, table in _MUST_BE_EMPTY.items()}
    found = {name: len(left) for name, left in keys.items() if left}
    if stats is not None:
        found |= {counter: stats[counter] for counter in _MUST_BE_ZERO if stats[counter]}
    return found
