"""Dead letters: messages that ended badly, kept with their bodies in the store of the peer that judged them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgpack

from zmqrel.core import history, tables
from zmqrel.core.commands import ListDead, PurgeDead, RetryDead
from zmqrel.core.entries import CHECK_BYTES, Meta, decode_head, encode_messages, encode_meta, pack
from zmqrel.core.history import Happened, History, decode_history
from zmqrel.core.shared import Shared
from zmqrel.errors import StoreFull

if TYPE_CHECKING:
    from zmqrel.core.lane import OutLane
    from zmqrel.core.row import Row

_MOST_LISTED = 256
_MOST_LISTED_BYTES = 1 << 20
_PURGED_AT_ONCE = 1000


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
    sent_us: int
    """By the own clock."""
    history: History
    record: bytes


class DeadLetters:
    """The table DEAD, oldest first; bounded in bytes and time."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.spared = False
        """The store has no room for letters: see `Engine.spare_dead_letters`."""

    def add(self, row: Row, cause: str, reason: str, sent_us: int, happened: History) -> None:
        """A received message that ended here."""
        message_id = row.head.meta.id or f"{row.lane.id:016x}-{row.seq}"
        now_us, name = self._shared.now.store_us, self._shared.name
        self._put(
            DeadLetter(
                cause, reason, now_us, row.lane.peer, name, row.queue, message_id, row.attempts, sent_us, happened,
                row.record,
            )
        )  # fmt: skip

    def add_sent(self, lane: OutLane, seq: int, record: bytes, cause: str, reason: str, outcome: str) -> None:
        """A message of the own outbox that ended here."""
        head = decode_head(record)
        message_id = head.meta.id or f"{lane.id:016x}-{seq}"
        now_us, name = self._shared.now.store_us, self._shared.name
        happened = (Happened(head.sent_at_us, history.STORED), history.settled(now_us, outcome, reason))
        self._put(
            DeadLetter(
                cause, reason, now_us, name, lane.peer, lane.queue, message_id, 0, head.sent_at_us, happened, record
            )
        )

    def _put(self, letter: DeadLetter) -> None:
        shared, ledger = self._shared, self._shared.ledger
        if self.spared:
            shared.counters["dead_dropped"] += 1 + self._pop(*_ALL, 1)
            return
        data = pack(tuple(letter))
        if shared.scarce and not self._make_room(len(data)):
            shared.counters["dead_dropped"] += 1
            return
        shared.journal.put(tables.numbered(tables.DEAD, ledger.next_dead), data)
        ledger.next_dead += 1
        ledger.dead_messages += 1
        ledger.dead_bytes += len(data)
        shared.counters["dead"] += 1
        self._drop_beyond(shared.options.dead_max_bytes)
        at_us = shared.now.store_us + int(shared.options.dead_retention_s * 1e6)
        shared.clock_timers.set_earlier("dead", at_us)

    def _make_room(self, size: int) -> bool:
        """Drop the oldest letters for a new one of `size` bytes. False if all together are smaller."""
        left = self._shared.ledger.dead_bytes - size
        if left < 0:
            return False
        self._drop_beyond(left)
        return True

    def _drop_beyond(self, most_bytes: int) -> None:
        """Drop the oldest until no more than so many bytes are left."""
        while self._shared.ledger.dead_bytes > most_bytes and self._pop(*_ALL, 1):
            self._shared.counters["dead_dropped"] += 1

    def _pop(self, first: bytes, end: bytes, limit: int) -> int:
        """Remove letters; returns how many."""
        rows = self._shared.journal.pop(first, end, limit)
        self._shared.ledger.dead_messages -= len(rows)
        self._shared.ledger.dead_bytes -= sum(len(data) for _, data in rows)
        return len(rows)

    def expire(self) -> None:
        """Drop what was kept for `dead_retention_s`, and what a limit that is lower than it was leaves no room for."""
        shared = self._shared
        self._drop_beyond(shared.options.dead_max_bytes)
        retention_us = int(shared.options.dead_retention_s * 1e6)
        for _ in range(_PURGED_AT_ONCE):
            found = shared.journal.scan(*_ALL, 1)
            if not found:
                return
            at_us = decode_dead(found[0][1]).at_us
            if at_us + retention_us > shared.now.store_us:
                shared.clock_timers.set_earlier("dead", at_us + retention_us)
                return
            shared.counters["dead_expired"] += self._pop(*_ALL, 1)
        shared.clock_timers.set_earlier("dead", shared.now.store_us)

    # ------------------------------------------------------------------------------------------- what users ask for

    def page(self, command: ListDead) -> tuple[list[tuple[int, DeadLetter]], bool]:
        """Letters behind a number, oldest first, and whether there are more."""
        journal = self._shared.journal
        first, end = tables.numbered(tables.DEAD, command.after + 1), tables.numbered(tables.DEAD, command.upto + 1)
        keys = journal.keys(first, end, _MOST_LISTED)
        letters: list[tuple[int, DeadLetter]] = []
        size = 0
        for key in keys:
            if size >= _MOST_LISTED_BYTES:
                return letters, True
            data = cast(bytes, journal.get(key))
            letters.append((int.from_bytes(key[1:], "big"), decode_dead(data)))
            size += len(data)
        return letters, len(keys) == _MOST_LISTED

    def retry(self, command: RetryDead, add_local: Callable[[str, bytes], str]) -> str | None:
        """Turn a letter into a new message of this peer's own, in one commit. Returns its id."""
        shared = self._shared
        if not shared.accepting:
            raise StoreFull("the store is full: a dead letter is retried when there is room")
        key = tables.numbered(tables.DEAD, command.number)
        data = shared.journal.get(key)
        if data is None:
            return None
        letter = decode_dead(data)
        self._pop(key, key + b"\0", 1)
        shared.counters["dead_retried"] += 1
        return add_local(command.queue or letter.queue, self.as_local(letter.record, letter.id, letter.cause))

    def purge(self, command: PurgeDead) -> tuple[int, bool]:
        """Delete letters, a part in each turn. Returns how many, and whether there may be more."""
        first, end = (tables.numbered(tables.DEAD, number) for number in (command.first, command.last + 1))
        if command.before_us is None:
            purged = self._pop(first, end, _PURGED_AT_ONCE)
            self._shared.counters["dead_purged"] += purged
            return purged, purged == _PURGED_AT_ONCE
        letters, more = self.page(ListDead(command.first - 1, command.last))
        numbers = [number for number, letter in letters if letter.at_us < command.before_us]
        # They lie in the order in which they died: the first that is too young ends it.
        purged = self._pop(first, tables.numbered(tables.DEAD, numbers[-1] + 1), len(numbers)) if numbers else 0
        self._shared.counters["dead_purged"] += purged
        return purged, more and purged == len(letters)

    def as_local(self, record: bytes, origin_id: str, cause: str) -> bytes:
        """The record of a new local message with the same key, headers, body and limit of attempts."""
        head = decode_head(record)
        meta = Meta(
            key=head.meta.key,
            headers=head.meta.headers,
            max_attempts=head.meta.max_attempts,
            origin_id=origin_id,
            cause=cause,
        )
        body = record[head.body_at : -CHECK_BYTES]
        return encode_messages([body], self._shared.now.store_us, 0, encode_meta(meta))[0]


def decode_dead(data: bytes) -> DeadLetter:
    """The dead letter of a row."""
    fields: list[Any] = msgpack.unpackb(data)
    letter = DeadLetter(*fields)
    return letter._replace(history=decode_history(fields[-2]))


_ALL = tables.table_bounds(tables.DEAD)
