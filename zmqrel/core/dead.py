"""Dead letters: messages that ended badly, kept with their bodies in the store of the peer that judged them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgpack

from zmqrel.core import tables
from zmqrel.core.entries import CHECK_BYTES, Meta, decode_head, encode_messages, encode_meta
from zmqrel.core.shared import Shared

if TYPE_CHECKING:
    from zmqrel.core.buffer import Row
    from zmqrel.core.lane import OutLane


class DeadLetter(NamedTuple):
    """One dead letter as it is stored."""

    cause: str
    """expired, rejected, exhausted, crash, deadline or transport."""
    reason: str
    at_us: int
    sender: str
    to: str
    queue: str
    id: str
    attempts: int
    record: bytes


class DeadLetters:
    """The table DEAD, oldest first; bounded in bytes and time."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def add(self, row: Row, cause: str, reason: str) -> None:
        """A received message that ended here."""
        message_id = row.head.meta.id or f"{row.lane.id:016x}-{row.seq}"
        sender, to = row.lane.peer, self._shared.name
        self._put(sender, to, row.queue, message_id, cause, reason, row.attempts, row.record)

    def add_sent(self, lane: OutLane, seq: int, record: bytes, cause: str, reason: str) -> None:
        """A message of the own outbox that ended here."""
        message_id = decode_head(record).meta.id or f"{lane.id:016x}-{seq}"
        self._put(self._shared.name, lane.peer, lane.queue, message_id, cause, reason, 0, record)

    def _put(
        self, sender: str, to: str, queue: str, message_id: str, cause: str, reason: str, attempts: int, record: bytes
    ) -> None:
        shared, ledger = self._shared, self._shared.ledger
        letter = DeadLetter(cause, reason, shared.now.store_us, sender, to, queue, message_id, attempts, record)
        data = cast(bytes, msgpack.packb(tuple(letter)))
        shared.journal.put(tables.numbered(tables.DEAD, ledger.next_dead), data)
        ledger.next_dead += 1
        ledger.dead_messages += 1
        ledger.dead_bytes += len(data)
        shared.counters["dead"] += 1
        while ledger.dead_bytes > shared.options.dead_max_bytes and self._drop_oldest():
            shared.counters["dead_dropped"] += 1
        at_us = shared.now.store_us + int(shared.options.dead_retention_s * 1e6)
        shared.clock_timers.set_earlier("dead", at_us)

    def _drop_oldest(self) -> bool:
        rows = self._shared.journal.pop(*tables.table_bounds(tables.DEAD), 1)
        for _, data in rows:
            self._shared.ledger.dead_messages -= 1
            self._shared.ledger.dead_bytes -= len(data)
        return bool(rows)

    def expire(self) -> None:
        """Drop what was kept for `dead_retention_s`."""
        shared = self._shared
        retention_us = int(shared.options.dead_retention_s * 1e6)
        for _ in range(1000):
            found = shared.journal.scan(*tables.table_bounds(tables.DEAD), 1)
            if not found:
                return
            at_us = decode_dead(found[0][1]).at_us
            if at_us + retention_us > shared.now.store_us:
                shared.clock_timers.set_earlier("dead", at_us + retention_us)
                return
            self._drop_oldest()
        shared.clock_timers.set_earlier("dead", shared.now.store_us)

    def as_local(self, record: bytes, origin_id: str, cause: str) -> bytes:
        """The record of a new local message with the same key, headers and body."""
        head = decode_head(record)
        meta = Meta(key=head.meta.key, headers=head.meta.headers, origin_id=origin_id, cause=cause)
        body = record[head.body_at : -CHECK_BYTES]
        return encode_messages([body], self._shared.now.store_us, 0, encode_meta(meta))[0]


def decode_dead(data: bytes) -> DeadLetter:
    """The dead letter of a row."""
    fields: list[Any] = msgpack.unpackb(data)
    return DeadLetter(*fields)
