"""A turn whose commit fails: who is told to the core that takes its place."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from random import Random
from typing import Any
from unittest.mock import MagicMock

from zmqrel.core import commands as c
from zmqrel.core import tables
from zmqrel.core.buffer import HANDLED, LEFT, RETURNED, Buffer
from zmqrel.core.engine import Engine
from zmqrel.core.entries import encode_messages
from zmqrel.core.lane import DATA, InLane
from zmqrel.core.row import Place, Row
from zmqrel.core.rows import Policy
from zmqrel.core.times import Now
from zmqrel.errors import StoreFull
from zmqrel.options import Options
from zmqrel.retry import Retry
from zmqrel.runtime.turn import Turns, Work
from zmqrel.store import MemoryInHand, MemoryStore


def test_only_rows_that_somebody_has_are_bound_to_the_new_core() -> None:
    lane = InLane(1, "a", 1, DATA, 1, "work")
    in_hand = MemoryInHand()
    buffer = Buffer("work", 4, in_hand, nullcontext(), lambda _count: None)
    rows = [Row(lane, seq, 0, b"") for seq in (1, 2, 3)]
    for row in rows:
        row.place = Place.CLAIMED
    buffer.offer(list(rows))
    settled, running, withdrawn = (_taken(buffer, ask) for ask in (False, False, True))
    buffer.finish(settled, HANDLED)
    buffer.returned(running)
    buffer.withdraw(withdrawn)
    buffer.refuse(withdrawn)
    engines: list[Any] = [MagicMock(intake_bytes=0) for _ in range(2)]
    engines[0].finish.side_effect = StoreFull("full")
    turns = Turns(MemoryStore(), in_hand, lambda _now: engines.pop(0), MagicMock())
    turns.engine = turns._make_engine(Now(0, 0))
    turns.engine.flush_due_us.return_value = engines[0].flush_due_us.return_value = None
    turns.serve("work", buffer, Policy(Retry.fixed(1)))
    running.suspect = True
    results = [*buffer._done, (running, RETURNED)]
    assert (withdrawn, LEFT) in results
    buffer._done.append((running, RETURNED))
    [following] = engines
    turns.run(Now(0, 0), 0, Work())
    assert turns.engine is following
    [(_, bound)] = [call.args for call in following.replace.call_args_list]
    assert sorted(row.seq for row in bound) == [settled.seq, running.seq]
    following.finished.assert_called_once_with(results)
    assert withdrawn.place is Place.GONE


def _taken(buffer: Buffer, ask: bool) -> Row:
    row = buffer.ask(0) if ask else buffer.take(0)
    assert row is not None
    return row


class Deaf:
    """A World in which nothing comes of anything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 1 if name == "dial" else None


def test_a_peer_met_in_a_turn_that_found_the_store_full_is_written() -> None:
    """Also if an answer waits for a flush: one after the core was loaded anew would forget what that has written."""
    store, ids = MemoryStore(durability="relaxed", capacity=100_000), itertools.count(1)
    options = Options(durability="relaxed")

    def opened() -> Turns:
        turns = Turns(
            store, MemoryInHand(), lambda now: Engine("a", options, Random(1), lambda: next(ids), store, now), Deaf()
        )
        turns.open(Now(0, 0), 0)
        return turns

    def send(to: str, size: int) -> c.Send:
        return c.Send(to, "q", False, encode_messages([bytes(size)], 0, 0, b""))

    turns = opened()
    turns.run(Now(60_000, 60_000), 0, Work([c.Connect("b", None), send("b", 10)]))
    turns.run(Now(61_000, 61_000), 0, Work([c.Find("0-1")]))
    assert store.unflushed
    turns.run(Now(62_000, 62_000), 0, Work([c.Connect("new", None), send("b", 99_000)]))
    assert len(store.keys(*tables.table_bounds(tables.PEER), 9)) == 2
    turns.run(Now(1_000_000, 1_000_000), 0, Work([send("new", 10)]))
    store.close(clean=False)
    assert set(opened().engine.channels) == {"b", "new"}
