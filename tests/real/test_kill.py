"""Processes killed with SIGKILL, at random and at every boundary of a commit."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from queue import Empty, Queue
from typing import Any

import pytest

from tests.real.keyed import Keyring
from tests.real.net import LIMIT_S, Net
from tests.real.processes import Child, Nursery

MESSAGES = 20_000
KILLS = 20
"""Of each side."""
CHUNK = 50
AHEAD = 1_000
"""Messages accepted and not handled, at most: so that both sides are at work at the same time."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


# ------------------------------------------------------------------------------------------------ kills at random


class Stream:
    """A source and a sink, each killed and started again when its count says so."""

    def __init__(
        self,
        nursery: Nursery,
        net: Net,
        rng: random.Random,
        messages: int,
        kills: int,
        keys: Mapping[str, dict[str, str]],
        **sink: Any,
    ) -> None:
        self._nursery = nursery
        self._messages = messages
        self._events: Queue[tuple[str, Child, dict[str, Any]]] = Queue()
        self._children: dict[str, Child] = {}
        self._kill_at = {
            side: sorted(rng.sample(range(CHUNK, messages - CHUNK), kills), reverse=True)
            for side in ("shop", "billing")
        }
        self.killed = {"shop": 0, "billing": 0}
        self.database = str(net.folder / "deliveries.db")
        self._roles: dict[str, dict[str, Any]] = {
            "shop": {"role": "stream_source", "options": _options(
                net, "shop", {"billing": net.endpoint("billing")}, **keys["shop"]
            )},
            "billing": {
                "role": "stream_sink", "options": _options(net, "billing", {"shop": None}, **keys["billing"]),
                "database": self.database, **sink,
            },
        }  # fmt: skip
        self._accepted = 0
        self._handled: set[int] = set()
        self._sending = False

    def run(self) -> None:
        """Until everything was handled, in spite of all kills."""
        for side in self._roles:
            self._start(side)
        while len(self._handled) < self._messages:
            try:
                side, child, said = self._events.get(timeout=LIMIT_S)
            except Empty:
                raise AssertionError(f"nothing happens any more: {self._state()}") from None
            assert "critical" not in said, said
            if child is not self._children[side]:
                if "handled" in said:
                    self._handled.add(said["handled"])
                continue
            self._take(side, said)

    def _take(self, side: str, said: dict[str, Any]) -> None:
        assert "ended" not in said, f"{side} ended by itself"
        if "handled" in said:
            self._handled.add(said["handled"])
        elif "send" in said:
            self._accepted = said["send"]
            self._sending = False
        elif side == "shop":
            self._sending = False  # it has started
        if not self._sending and self._accepted < min(self._messages, len(self._handled) + AHEAD):
            self._sending = True
            last = min(self._accepted + CHUNK, self._messages)
            self._children["shop"].say(do="send", first=self._accepted + 1, last=last)
        for side, reached in (("shop", self._accepted), ("billing", len(self._handled))):
            if self._kill_at[side] and self._kill_at[side][-1] <= reached:
                self._kill_at[side].pop()
                self._children[side].kill()
                self.killed[side] += 1
                self._start(side)

    def _start(self, side: str) -> None:
        if side == "shop":
            self._sending = True  # not before it is ready
        self._children[side] = self._nursery.start(
            told=lambda child, said: self._events.put((side, child, said)), **self._roles[side]
        )

    def _state(self) -> dict[str, Any]:
        missing = set(range(1, self._accepted + 1)) - self._handled
        stats = {side: self.answer(side, "stats") for side in self._children}
        return {"accepted": self._accepted, "missing": sorted(missing)[:20], "sending": self._sending, **stats}

    def answer(self, side: str, word: str, **fields: Any) -> Any:
        """Ask one of them, now that all is quiet."""
        self._children[side].say(do=word, **fields)
        while True:
            of, _, said = self._events.get(timeout=LIMIT_S)
            assert "critical" not in said, said
            if of == side and word in said:
                return said[word]


def _options(net: Net, name: str, peers: dict[str, str | None], **options: Any) -> dict[str, Any]:
    return {
        "store": net.store(name), "bind": net.endpoint(name), "peers": peers, "durability": net.durability, **options,
    }  # fmt: skip


def _check_deliveries(database: str, messages: int) -> int:
    """Every message was delivered, and every repeat said so. Returns how many repeats there were."""
    with closing(sqlite3.connect(database)) as records:
        rows = records.execute("SELECT id, attempt, redelivered FROM delivery ORDER BY n").fetchall()
    attempts: dict[str, int] = {}
    for name, attempt, redelivered in rows:
        if name in attempts:
            assert redelivered, f"{name} was repeated and it was not said"
            assert attempt > attempts[name], f"{name}: attempt {attempt} after {attempts[name]}"
        attempts[name] = attempt
    assert set(attempts) == {f"m{number}" for number in range(1, messages + 1)}
    return len(rows) - messages


@pytest.mark.long
@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_twenty_thousand_messages_through_forty_kills(nursery: Nursery, durability: str) -> None:
    _run_stream(nursery, durability, "tcp", MESSAGES, KILLS, workers=1)


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_messages_through_a_few_kills(nursery: Nursery, durability: str) -> None:
    _run_stream(nursery, durability, "ipc", 1_000, 2, workers=4)


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_messages_through_a_few_kills_with_keys(nursery: Nursery, durability: str) -> None:
    _run_stream(nursery, durability, "tcp", 1_000, 2, workers=4, keyed=True)


def _run_stream(
    nursery: Nursery, durability: str, transport: Any, messages: int, kills: int, workers: int, *, keyed: bool = False
) -> None:
    with Net(transport, durability) as net:
        names = ("shop", "billing")
        keyring = Keyring(net.folder)
        keyring.introduce(*names)
        keys = {name: {"keys": str(keyring.of(name))} if keyed else {} for name in names}
        stream = Stream(nursery, net, random.Random(20), messages, kills, keys, workers=workers)
        stream.run()
        assert stream.killed == {"shop": kills, "billing": kills}
        assert stream.answer("shop", "finish", last=messages) == {"HANDLED": messages}
        for side in ("shop", "billing"):
            stats = stream.answer(side, "stats")
            assert (stats["outbox_messages"], stats["inbox_messages"], stats["dead_messages"]) == (0, 0, 0)
            assert stream.answer(side, "close") == [0, 0, 0]
        repeats = _check_deliveries(stream.database, messages)
        print(f"{durability}: {messages} messages, {2 * kills} kills, {repeats} repeats, each of them marked")


# ------------------------------------------------------------------------------------ a kill at each boundary


class SmallRun:
    """A few messages between two processes, of which one dies at its n-th boundary and is started again."""

    def __init__(self, nursery: Nursery, durability: str, side: str, boundary: int) -> None:
        self._nursery = nursery
        self._durability = durability
        self._boundary = {"shop": 0, "billing": 0, side: boundary}
        self.died = False
        self._deliveries: list[tuple[str, int, bool]] = []

    def run(self) -> None:
        """All is handled and both stores are empty, whatever died."""
        with Net("ipc", self._durability) as net:
            # Both dial, so that nobody waits for a refused connection to be tried again.
            self._roles = {
                "shop": ("small_source", _options(net, "shop", {"billing": net.endpoint("billing")})),
                "billing": ("small_sink", _options(net, "billing", {"shop": net.endpoint("shop")})),
            }
            self._events: Queue[tuple[str, Child, dict[str, Any]]] = Queue()
            self._children: dict[str, Child] = {}
            for side in ("billing", "shop"):
                self._start(side)
            assert set(self._until("shop", "outcomes")) == {"HANDLED"}
            for side in ("shop", "billing"):
                assert self._ask(side, "close") == [0, 0, 0]
                self._children[side].join()
            while not self._events.empty():
                self._note(*self._events.get())
            self._check()

    def _start(self, side: str) -> None:
        role, options = self._roles[side]
        self._children[side] = self._nursery.start(
            role,
            lambda child, said: self._events.put((side, child, said)),
            options=options,
            boundary=self._boundary[side],
        )

    def _until(self, side: str, word: str, asked: dict[str, Any] | None = None) -> Any:
        """Wait for a word; a process that dies meanwhile is started again, and asked again."""
        while True:
            of, child, said = self._events.get(timeout=LIMIT_S)
            self._note(of, child, said)
            if of == side and word in said:
                return said[word]
            if "ended" in said and child is self._children[of] and not child.ended:
                assert child.join() == -9, f"{of} ended by itself"
                assert not self.died
                self.died = True
                self._boundary[of] = 0
                self._start(of)
                if of == side and asked is not None:
                    self._children[of].say(**asked)

    def _ask(self, side: str, word: str) -> Any:
        asked = {"do": word}
        self._children[side].say(**asked)
        return self._until(side, word, asked)

    def _note(self, side: str, child: Child, said: dict[str, Any]) -> None:
        assert "critical" not in said, said
        if "delivery" in said:
            name, attempt, redelivered = said["delivery"]
            self._deliveries.append((name, attempt, redelivered))

    def _check(self) -> None:
        attempts: dict[str, int] = {}
        for name, attempt, redelivered in self._deliveries:
            asked_for = name == "first" and attempts.get(name) == 1
            assert name not in attempts or redelivered or asked_for, self._deliveries
            assert attempt > attempts.get(name, 0), self._deliveries
            attempts[name] = attempt
        assert set(attempts) == {"plain", "first", "second", "delayed", "other"}
        order = [name for name, _, _ in self._deliveries if name in ("first", "second")]
        assert order == sorted(order), f"the key's order: {self._deliveries}"


@pytest.mark.long
@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
@pytest.mark.parametrize("side", ["shop", "billing"])
def test_a_kill_at_every_boundary(nursery: Nursery, side: str, durability: str) -> None:
    """How many boundaries there are depends on how work falls into turns: until three runs in a row reach no more."""

    def run(boundary: int) -> bool:
        small = SmallRun(nursery, durability, side, boundary)
        try:
            small.run()
        except BaseException as error:
            raise AssertionError(f"{durability}: {side} killed at boundary {boundary}: {error!r}") from error
        return small.died

    boundaries = 0
    with ThreadPoolExecutor(4) as pool:
        for first in count(1, 8):
            died = list(pool.map(run, range(first, first + 8)))
            boundaries += sum(died)
            if not any(died[-3:]):
                break
    print(f"{durability}: {side} killed once at each of {boundaries} boundaries")
    assert boundaries >= 10
