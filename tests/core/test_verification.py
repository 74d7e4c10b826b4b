"""What is wrong with a store is found, whatever it is, and nothing is found in one that is whole."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest

from tests.core.pump import QUEUE, RETRY, START_US, Host, Pump, Time
from zmqrel.core import tables, verification
from zmqrel.core.buffer import HANDLED, Failed, Rejected
from zmqrel.core.commands import Recall
from zmqrel.core.journal import Journal
from zmqrel.core.lane import decode_lane
from zmqrel.core.rows import Policy
from zmqrel.core.verification import Fault, Totals, compare, examine
from zmqrel.retry import Retry
from zmqrel.store import MemoryStore


def faults_of(store: MemoryStore) -> list[Fault]:
    """All that is wrong, page by page."""
    faults: list[Fault] = []
    totals = Totals()
    last: bytes | None = b"\x01"
    page = None
    while last is not None:
        page = examine(Journal(store), last)
        faults += page.faults
        totals, last = totals.plus(page.totals), page.last
    assert page is not None
    return faults + compare(totals, page.ledger)


def in_use() -> tuple[Host, Host]:
    """Two peers in the middle of everything: between them each table but QUARANTINE has rows."""
    time = Time()
    a, b = Host("a", time), Host("b", time)
    pump = Pump(a, b)
    pump.connect()
    b.serve("none", Policy(Retry.fixed(1.0, max_attempts=1)))
    b.serve("again", Policy(RETRY))
    deadline_us = START_US + 60_000_000
    a.send("b", b"1", b"2", key="k", deadline_us=deadline_us)
    a.send("b", b"named", id="mine")
    a.send("b", b"later", not_before_us=START_US + 10_000_000)
    a.send("b", b"no", queue="none")
    a.send("b", b"fails", queue="again", key="f")
    a.send("b", b"one", b"two", b"three", queue="part")
    b.serve("part")
    pump.run()
    b.finish(b.take("part"), HANDLED)
    b.finish(b.take("none"), Rejected("no"))
    b.finish(b.take("again"), Failed("once"))
    pump.run()
    withdrawn = a.send("b", b"recalled", queue="lost")
    a.out.clear()
    a.turn([], Recall([(withdrawn.lane.no, withdrawn.first)]))
    a.out.clear()
    a.send("b", b"waits", id="waits")
    b.serve()
    b.turn()
    b.take()
    b.reopen()
    b.turn()
    return a, b


def rows_in(store: MemoryStore, table: int) -> list[bytes]:
    return store.keys(*tables.table_bounds(table), 1000)


def test_nothing_is_found_in_stores_that_are_whole() -> None:
    a, b = in_use()
    assert faults_of(a.store) == []
    assert faults_of(b.store) == []
    kept = {key[0] for store in (a.store, b.store) for key in rows_in(store, 0) or store.keys(b"\x01", b"\xff", 1000)}
    every = {value for name, value in vars(tables).items() if name.isupper() and isinstance(value, int)}
    assert every - kept == {tables.QUARANTINE, tables.TOMBSTONE}


def flip(table: int) -> Callable[[MemoryStore], None]:
    """Damage the last byte of the first row of a table."""

    def change(store: MemoryStore) -> None:
        store.damage(rows_in(store, table)[0], -1)

    return change


def cut(table: int) -> Callable[[MemoryStore], None]:
    """Leave the first row of a table without its value."""
    return lambda store: store.put(rows_in(store, table)[0], b"")


def drop(table: int) -> Callable[[MemoryStore], None]:
    """Remove all rows of a table."""

    def change(store: MemoryStore) -> None:
        for key in rows_in(store, table):
            store.delete(key)

    return change


def put(key: bytes, value: bytes) -> Callable[[MemoryStore], None]:
    return lambda store: store.put(key, value)


def lane_with(**fields: int) -> Callable[[MemoryStore], None]:
    """Change the first lane that has messages."""

    def change(store: MemoryStore) -> None:
        for key in rows_in(store, tables.LANE):
            lane = decode_lane(int.from_bytes(key[1:], "big"), store.get(key) or b"")
            if lane.queue and all(hasattr(lane, name) for name in fields):
                for name, value in fields.items():
                    setattr(lane, name, value)
                store.put(key, lane.encode())
                return

    return change


SENDERS = {
    "a record of the outbox": (flip(tables.OUTBOX), "OUTBOX", "checksum"),
    "a peer": (cut(tables.PEER), "PEER", "cannot be read"),
    "a peer's number": (lambda s: s.put(rows_in(s, tables.PEER)[0], msgpack.packb([None])), "PEER", "no number"),
    "no peer": (drop(tables.PEER), "LANE", "its peer b is not known"),
    "no lanes": (drop(tables.LANE), "OUTBOX", "there is no lane"),
    "a lane": (cut(tables.LANE), "LANE", "cannot be read"),
    "more was sent than there is": (lane_with(sent_upto=1000), "LANE", "more was sent"),
    "a number that was not given out": (lane_with(next_seq=1, sent_upto=0), "OUTBOX", "not given out"),
    "a withdrawal of nothing": (put(tables.lane_seq(tables.WITHDRAWN, 1, 99), b"\1"), "WITHDRAWN", "has ended"),
    "a withdrawal for no cause": (cut(tables.WITHDRAWN), "WITHDRAWN", "cannot be read"),
    "an instance": (put(tables.numbered(tables.INSTANCE, 7), b"x"), "INSTANCE", "no number"),
    "an id": (cut(tables.ID), "ID", "cannot be read"),
    "an outcome": (cut(tables.OUTCOME), "OUTCOME", "cannot be read"),
    "no outcomes": (drop(tables.OUTCOME), "OUTCOME_OF", "no outcome"),
    "nothing leads to outcomes": (drop(tables.OUTCOME_OF), "OUTCOME", "do not lead to it"),
    "an empty range": (
        put(tables.numbered(tables.OUTCOME, 77), msgpack.packb([1, 5, 4, 1, None, 0, 0, 0, []])),
        "OUTCOME",
        "its range is empty",
    ),
    "a deadline that is none": (
        put(tables.out_deadline_key(tables.OUT_DEADLINE, 1, 999, 1)[:-1], b""),
        "OUT_DEADLINE",
        "it is no deadline",
    ),
    "an unknown table": (put(b"\x7fx", b""), "table 0x7f", "no such table"),
    "a key that is cut": (put(bytes((tables.OUTBOX,)) + b"x", b""), "OUTBOX", "no lane 120"),
    "the ledger": (put(tables.META, b"\xc1"), "META", "cannot be read"),
    "a message that is missing": (
        lambda s: [s.delete(k) for k in rows_in(s, tables.OUTBOX)] and None,
        "META",
        "the tables hold 0",
    ),
}
RECEIVERS = {
    "a record of the inbox": (flip(tables.INBOX), "INBOX", "checksum"),
    "no queue": (drop(tables.QUEUE), "INBOX", "those of its key"),
    "a queue": (cut(tables.QUEUE), "QUEUE", "no number"),
    "no keys": (drop(tables.KEYED), "INBOX", "those of its key"),
    "no deadlines": (drop(tables.IN_DEADLINE), "INBOX", "its deadline is not noted"),
    "above the floor": (lane_with(floor=0), "INBOX", "above what was received"),
    "less than nothing": (lane_with(count=-1), "LANE", "less than nothing"),
    "an empty inbox with states": (drop(tables.INBOX), "ROW_STATE", "not in the inbox"),
    "an empty inbox with waiting ones": (drop(tables.INBOX), "WAITING", "not in the inbox"),
    "an empty inbox with keys": (drop(tables.INBOX), "KEYED", "not in the inbox"),
    "an empty inbox with deadlines": (drop(tables.INBOX), "IN_DEADLINE", "not in the inbox"),
    "an empty inbox with suspects": (drop(tables.INBOX), "SUSPECT", "not in the inbox"),
    "a state": (cut(tables.ROW_STATE), "ROW_STATE", "cannot be read"),
    "a dead letter": (cut(tables.DEAD), "DEAD", "cannot be read"),
    "a tombstone of what was received": (put(tables.lane_seq(tables.TOMBSTONE, 2, 1), b"\1"), "TOMBSTONE", ""),
    "a row of an own lane in the inbox": (
        put(tables.lane_seq(tables.INBOX, 999, 1) + bytes(21), b""),
        "INBOX",
        "no lane 999",
    ),
}


@pytest.mark.parametrize(
    ("whose", "case"), [("a", case) for case in SENDERS] + [("b", case) for case in RECEIVERS], ids=lambda x: str(x)
)
def test_damage_is_found_and_named(whose: str, case: str) -> None:
    a, b = in_use()
    store = a.store if whose == "a" else b.store
    change, table, words = SENDERS[case] if whose == "a" else RECEIVERS[case]
    change(store)
    assert any(fault.table == table and words in fault.what for fault in faults_of(store)), faults_of(store)


def test_a_dead_letter_with_a_damaged_record() -> None:
    _, b = in_use()
    key = rows_in(b.store, tables.DEAD)[0]
    fields = msgpack.unpackb(b.store.get(key) or b"")
    fields[-1] = fields[-1][:-1] + b"?"
    b.store.put(key, msgpack.packb(fields))
    assert [(fault.table, fault.what) for fault in faults_of(b.store)] == [("DEAD", "its checksum does not match")]


def test_a_place_is_told_as_a_person_knows_it() -> None:
    a, b = in_use()
    flip(tables.OUTBOX)(a.store)
    flip(tables.INBOX)(b.store)
    lane = next(lane for lane in b.engine.shared.in_lanes.values() if lane.queue == QUEUE)
    assert f"lane {lane.id:016x} from a, queue work, number 2" in [fault.where for fault in faults_of(b.store)]
    assert any("to b, queue" in fault.where for fault in faults_of(a.store))


def test_a_page_is_bounded_in_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = in_use()
    whole = examine(Journal(a.store))
    assert whole.last is None
    monkeypatch.setattr(verification, "MOST_ROWS", 2)
    first = examine(Journal(a.store))
    assert first.rows == 2
    assert first.last is not None
    assert faults_of(a.store) == []
    monkeypatch.setattr(verification, "MOST_ROWS", 1000)
    monkeypatch.setattr(verification, "MOST_BYTES", 1)
    assert examine(Journal(a.store)).rows == 1
    assert faults_of(a.store) == []


def test_what_was_set_aside_before_is_counted_and_is_no_fault() -> None:
    _, b = in_use()
    time = b.time
    flip(tables.INBOX)(b.store)
    assert faults_of(b.store)
    b.serve()
    b.reopen()
    time.pass_s(5)
    b.turn()
    while faults_of(b.store):
        b.finish(b.take(), Rejected("on"))
    assert examine(Journal(b.store)).quarantined == 1
