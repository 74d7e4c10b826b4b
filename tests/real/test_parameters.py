"""Every parameter of every public call: wrong types and values are a ConfigError that names it and what it takes.

The neighbours of each limit are given on both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import PurePath
from typing import Any, NamedTuple

import pytest

import zmqrel
from zmqrel import ConfigError, Message, Outcome, Peer, Receipt, Reject, Retry, RetryLater

CENTURY_S = 3_155_760_000
SOON = datetime.now(timezone.utc) + timedelta(hours=1)
NAMES = ["", "a b", "x" * 65, "ü", "a/b", b"a", 5, True, ["a"]]
LABELS = ["", "x" * 129, "ü" * 65, "\ud800", b"a", 5, True, ["a"]]
DURATIONS = [-1, -1e-9, math.nan, math.inf, CENTURY_S + 1, timedelta(-1), timedelta(days=40_000), "1", True, b"1", [1]]
INSTANTS = [datetime(2030, 1, 1), math.nan, math.inf, -1e12, 1e15, "2030-01-01", True, timedelta(1), [1]]
FLAGS = [None, 0, 1, "yes", []]
CALLABLES = [5, "f", True, [len]]


class Case(NamedTuple):
    """One parameter of one call. `call` is given the world and the value."""

    call: Callable[[World, Any], object]
    bad: list[Any]
    good: list[Any]


class World:
    """A peer that runs, with what can be had from it."""

    def __init__(self) -> None:
        self.peer = Peer("shop", zmqrel.MEMORY, peers={"billing": None}).start()
        self.new = Peer("new", zmqrel.MEMORY)
        self.receipt = self.peer.send("billing", 1)
        self.peer.recall(self.receipt)
        self.peer.send("billing", 1, queue="here", ttl=0.001, on_expiry="queue:here").wait(60)
        message = self.peer.receive("here", timeout=60)
        assert message is not None
        self.message: Message = message
        self.waiting: Receipt = self.peer.send("billing", 2, delay=3600)


def send(name: str) -> Callable[[World, Any], object]:
    return lambda world, value: world.peer.send(**{"to": "billing", "body": 1, name: value})


def options(name: str) -> Callable[[World, Any], object]:
    return lambda _world, value: Peer("a", zmqrel.MEMORY, **{name: value})


def peer(name: str) -> Callable[[World, Any], object]:
    return lambda _world, value: Peer(**{"name": "a", "store": zmqrel.MEMORY, name: value})


def handler(name: str) -> Callable[[World, Any], object]:
    return lambda world, value: world.new.handler(**{name: value})


def recall_where(name: str) -> Callable[[World, Any], object]:
    return lambda world, value: world.peer.recall_where(**{"to": "billing", "queue": "none", name: value})


def retry(kind: str, name: str, **given: Any) -> Callable[[World, Any], object]:
    return lambda _world, value: getattr(Retry, kind)(**{**given, name: value})


def unless_timeout(call: Callable[[], object]) -> None:
    with suppress(TimeoutError):
        call()


def counts(least: int, most: int | None = None) -> tuple[list[Any], list[Any]]:
    """Bad and good whole numbers."""
    above = [] if most is None else [most + 1]
    good = [least, least + 1] + ([] if most is None else [most - 1, most])
    return [least - 1, -1, 1.5, math.nan, "1", True, None, [1], *above], good


def option_counts(name: str, least: int, most: int) -> Case:
    return Case(options(name), *counts(least, most))


SOME = [0, 0.5, timedelta(0), timedelta(seconds=1)]
NO_BOUND = [None, *DURATIONS]
ABOVE_0 = [0, timedelta(0), *DURATIONS]
GIB = 1024**3

CASES: dict[str, Case] = {
    # ------------------------------------------------------------------------------------------------- Peer
    "Peer name": Case(peer("name"), [None, *NAMES], ["a", "x" * 64, "A-z_0.9"]),
    "Peer store": Case(peer("store"), [None, "", 5, b"dir", True], []),
    "Peer bind": Case(peer("bind"), [5, b"tcp://127.0.0.1:1", ["tcp://127.0.0.1:0"], "tcp://127.0.0.1:65536", "udp://x:1",
                                     "tcp://127.0.0.1", None, [5], {"a": "b"}, "ipc://"],
                      [(), [], "tcp://127.0.0.1:*", "tcp://127.0.0.1:65535", ["ipc://a", "tcp://[::1]:1"]]),
    "Peer peers": Case(peer("peers"), [5, "b", ["b"], {"b": 5}, {"b": "tcp://127.0.0.1:*"}, {"b c": None}, {5: None}],
                       [{}, {"b": None}, {"b": "tcp://127.0.0.1:1", "c": "ipc://c"}]),
    "Peer durability": Case(options("durability"), [None, "sync", "", True, 5, ["fsync"]], ["fsync", "relaxed"]),
    "Peer resend": Case(options("resend"), [None, 1, "fast", Retry.fixed(0), Retry.fixed(1, max_attempts=3),
                                            Retry.fixed(1, max_elapsed=3),
                                            Retry.fixed(1, max_interval=2, at_max_interval="stop")],
                        [Retry.fixed(1), Retry.linear(0.1, 1, max_interval=5), Retry.random(0.1, 2, jitter="equal")]),
    "Peer give_up_after_s": Case(options("give_up_after_s"), ABOVE_0, [None, 1e-9, CENTURY_S, timedelta(1)]),
    "Peer heartbeat_s": Case(options("heartbeat_s"), [None, *ABOVE_0], [0.1, timedelta(seconds=3.9)]),
    "Peer liveness_s": Case(options("liveness_s"), [None, 1, 0.5, *ABOVE_0], [1.1, timedelta(seconds=2)]),
    "Peer window_bytes": option_counts("window_bytes", 1, GIB),
    "Peer prefetch": option_counts("prefetch", 1, 1_000_000),
    "Peer max_body_bytes": option_counts("max_body_bytes", 1, GIB),
    "Peer outbox_max_messages": option_counts("outbox_max_messages", 1, 2**63 - 1),
    "Peer outbox_max_bytes": option_counts("outbox_max_bytes", 1, 2**63 - 1),
    "Peer inbox_max_messages": option_counts("inbox_max_messages", 1, 2**63 - 1),
    "Peer inbox_max_bytes": option_counts("inbox_max_bytes", 1, 2**63 - 1),
    "Peer outcome_retention_s": Case(options("outcome_retention_s"), NO_BOUND, [*SOME, CENTURY_S]),
    "Peer dead_retention_s": Case(options("dead_retention_s"), NO_BOUND, [*SOME, CENTURY_S]),
    "Peer dead_max_bytes": option_counts("dead_max_bytes", 0, 2**63 - 1),
    "Peer on_store_loss": Case(options("on_store_loss"), [None, "", "lose", True], ["resend", "uncertain"]),
    "Peer accept": Case(options("accept"), [None, "", "all", True], ["listed", "any"]),
    "Peer map_size_bytes": option_counts("map_size_bytes", 1024**2, 2**63 - 1),
    "Peer keys": Case(options("keys"), ["", 5, True, b"keys"], [None, "keys", PurePath("keys")]),
    "Peer insecure": Case(options("insecure"), FLAGS, [True, False]),
    "Peer wall_clock": Case(options("wall_clock"), [None, *CALLABLES], [lambda: 0.0]),
    "Peer seed": Case(options("seed"), ["1", 1.5, True, [1]], [None, 0, -1, 2**100]),
    # ------------------------------------------------------------------------------------------------- life
    "close timeout": Case(lambda w, v: w.new.close(timeout=v), NO_BOUND, []),
    "close drain": Case(lambda w, v: w.new.close(drain=v), FLAGS, []),
    "connect name": Case(lambda w, v: w.peer.connect(v, None), [None, *NAMES], []),
    "connect endpoint": Case(lambda w, v: w.peer.connect("x", v), ["", "nowhere", 5, "tcp://127.0.0.1:*"], []),
    "disconnect name": Case(lambda w, v: w.peer.disconnect(v), [None, *NAMES], []),
    "forget name": Case(lambda w, v: w.peer.forget(v), [None, *NAMES], []),
    # ---------------------------------------------------------------------------------------------- sending
    "send to": Case(send("to"), [None, *NAMES], ["billing"]),
    "send queue": Case(send("queue"), [None, *NAMES], ["q", "x" * 64]),
    "send key": Case(send("key"), LABELS, [None, "k", "x" * 128, "ü" * 64]),
    "send headers": Case(send("headers"), [5, "h", [("a", 1)], {1: "x"}, {"x": None}, {"x": [1]}, {"x": 2**64},
                                           {"x": -(2**63) - 1}, {"\ud800": 1}, {"x": "\ud800"}, {"x": object()}],
                         [None, {}, {"a": "s", "b": 2**64 - 1, "c": -(2**63), "d": 1.5, "e": True, "f": b"b", "": ""}]),
    "send id": Case(send("id"), LABELS, [None, "i", "x" * 128, "ü" * 64]),
    "send ttl": Case(send("ttl"), DURATIONS, [None, 1e-6, 60, timedelta(hours=1), CENTURY_S]),
    "send deadline": Case(send("deadline"), INSTANTS, [None, SOON, SOON.timestamp()]),
    "send delay": Case(send("delay"), DURATIONS, [None, 0, timedelta(hours=1), CENTURY_S]),
    "send not_before": Case(send("not_before"), INSTANTS, [None, SOON, SOON.timestamp(), 0]),
    "send on_expiry": Case(send("on_expiry"), [None, "", "burn", "queue:", "queue:a b", "queue:" + "x" * 65, 5, True],
                           ["dead", "drop", "queue:late", "queue:" + "x" * 64]),
    "send max_attempts": Case(send("max_attempts"), [x for x in counts(1, 2**31 - 1)[0] if x is not None],
                              [None, *counts(1, 2**31 - 1)[1]]),
    "send room_timeout": Case(send("room_timeout"), NO_BOUND, SOME),
    "send_many bodies": Case(lambda w, v: w.peer.send_many("billing", v), [None, 5, "text", b"bytes", {"a": 1}],
                             [[], [None], (1, 2), range(2), iter([1])]),
    "send_many id": Case(lambda w, v: w.peer.send_many("billing", [1], id=v), ["mine", 5], [None]),
    "send_many_nowait bodies": Case(lambda w, v: w.peer.send_many_nowait("billing", v), [None, 5, "text", {"a": 1}],
                                    [[], [None], (1, 2), range(2), iter([1])]),
    "send_many_nowait id": Case(lambda w, v: w.peer.send_many_nowait("billing", [1], id=v), ["mine", 5], [None]),
    "send_many room_timeout": Case(lambda w, v: w.peer.send_many("billing", [1], room_timeout=v), NO_BOUND, SOME),
    "flush timeout": Case(lambda w, v: w.peer.flush(v), DURATIONS, [None, *SOME, CENTURY_S]),
    "receipt id": Case(lambda w, v: w.peer.receipt(v), [None, *LABELS], []),
    "find id": Case(lambda w, v: w.peer.find(v), [None, *LABELS], ["nobody"]),
    # ----------------------------------------------------------------------------------------------- recall
    "recall receipt_or_id": Case(lambda w, v: w.peer.recall(v), [None, 5, b"id", True, ["id"]], []),
    "recall timeout": Case(lambda w, v: w.peer.recall(w.receipt, timeout=v), NO_BOUND, [*SOME, CENTURY_S]),
    "recall_where to": Case(recall_where("to"), NAMES, [None, "billing", "nobody"]),
    "recall_where queue": Case(recall_where("queue"), NAMES, ["none"]),
    "recall_where key": Case(recall_where("key"), LABELS, [None, "k"]),
    "recall_where headers": Case(recall_where("headers"), [5, "h", {1: 2}, {"x": None}], [None, {}, {"x": 1}]),
    "recall_where sent_after": Case(recall_where("sent_after"), INSTANTS, [None, SOON, 0]),
    "recall_where sent_before": Case(recall_where("sent_before"), INSTANTS, [None, SOON, 0]),
    "recall_where where": Case(recall_where("where"), CALLABLES, [None, lambda receipt: False]),
    "recall_where all": Case(recall_where("all"), FLAGS, [True, False]),
    "recall_where timeout": Case(recall_where("timeout"), NO_BOUND, [*SOME, CENTURY_S]),
    # -------------------------------------------------------------------------------------------- receiving
    "handler queue": Case(handler("queue"), [None, *NAMES], ["q"]),
    "handler workers": Case(handler("workers"), *counts(1, 1024)),
    "handler retry": Case(handler("retry"), [5, "fast", True, Retry], [None, Retry.fixed(0)]),
    "handler ack": Case(handler("ack"), [None, "", "never", True, 5], ["auto", "manual"]),
    "handler time_limit": Case(handler("time_limit"), ABOVE_0, [None, 1e-9, timedelta(1), CENTURY_S]),
    "handler admit": Case(handler("admit"), CALLABLES, [None, lambda message: True]),
    "handler handler": Case(lambda w, v: w.new.handler("never")(v), [None, *CALLABLES], []),
    "receive queue": Case(lambda w, v: w.peer.receive(v, 0), [None, *NAMES], ["q"]),
    "receive timeout": Case(lambda w, v: w.peer.receive("q", v), DURATIONS, [0, timedelta(0), 1e-9]),
    "messages queue": Case(lambda w, v: w.peer.messages(v), [None, *NAMES], ["q"]),
    "on_outcome outcomes": Case(lambda w, v: w.new.on_outcome(v), [None, "HANDLED", 1, [Outcome.HANDLED]], [*Outcome]),
    "on_outcome to": Case(lambda w, v: w.new.on_outcome(to=v), NAMES, [None, "billing"]),
    "on_outcome queue": Case(lambda w, v: w.new.on_outcome(queue=v), NAMES, [None, "q"]),
    "on_outcome on_outcome": Case(lambda w, v: w.new.on_outcome()(v), [None, *CALLABLES], []),
    "inbox queue": Case(lambda w, v: w.peer.inbox(v), NAMES, [None, "q"]),
    "purge before": Case(lambda w, v: w.peer.dead_letters().purge(before=v), INSTANTS, [None, SOON, 0]),
    # --------------------------------------------------------------------------------------------- receipts
    "wait timeout": Case(lambda w, v: unless_timeout(lambda: w.waiting.wait(v)), DURATIONS, [0, timedelta(0), 1e-9]),
    "ended wait timeout": Case(lambda w, v: w.receipt.wait(v), DURATIONS, [None, *SOME, CENTURY_S]),
    "result timeout": Case(lambda w, v: unless_timeout(lambda: w.waiting.result(v)), DURATIONS, [0, timedelta(0)]),
    "wait_stored timeout": Case(lambda w, v: w.receipt.wait_stored(v), DURATIONS, [None, *SOME, CENTURY_S]),
    "wait_received timeout": Case(lambda w, v: w.receipt.wait_received(v), DURATIONS, [None, *SOME, CENTURY_S]),
    "receipt.recall timeout": Case(lambda w, v: w.receipt.recall(v), NO_BOUND, [*SOME, CENTURY_S]),
    "recall.wait timeout": Case(lambda w, v: w.receipt.recall().wait(v), DURATIONS, [None, *SOME, CENTURY_S]),
    "callback function": Case(lambda w, v: w.receipt.add_done_callback(v), [None, *CALLABLES], [lambda receipt: None]),
    "wait_all receipts": Case(lambda w, v: zmqrel.wait_all(v), [None, 5, "x", [None], [5]], [[], ()]),
    "wait_all timeout": Case(lambda w, v: zmqrel.wait_all([], v), DURATIONS, [None, *SOME, CENTURY_S]),
    "as_completed receipts": Case(lambda w, v: zmqrel.as_completed(v), [None, 5, "x", [None], [5]], [[], ()]),
    "as_completed timeout": Case(lambda w, v: zmqrel.as_completed([], v), DURATIONS, [None, *SOME, CENTURY_S]),
    # --------------------------------------------------------------------------------------------- messages
    "message.retry delay": Case(lambda w, v: w.message.retry(v), DURATIONS, []),
    "message.retry reason": Case(lambda w, v: w.message.retry(reason=v), [5, b"r", True, ["r"]], []),
    "message.reject reason": Case(lambda w, v: w.message.reject(v), [None, 5, b"r", True, ["r"]], []),
    "message.move queue": Case(lambda w, v: w.message.move(v), [None, *NAMES], []),
    "Reject reason": Case(lambda _, v: Reject(v), [None, 5, b"r", True], ["", "no"]),
    "RetryLater delay": Case(lambda _, v: RetryLater(v), NO_BOUND, [*SOME, CENTURY_S]),
    # ------------------------------------------------------------------------------------------------ Retry
    "Retry.fixed delay": Case(retry("fixed", "delay"), NO_BOUND, [*SOME, CENTURY_S]),
    "Retry.linear base": Case(retry("linear", "base", step=1), NO_BOUND, [*SOME, CENTURY_S]),
    "Retry.linear step": Case(retry("linear", "step", base=1), NO_BOUND, [*SOME, CENTURY_S]),
    "Retry.exponential base": Case(retry("exponential", "base"), NO_BOUND, [*SOME, CENTURY_S]),
    "Retry.exponential factor": Case(retry("exponential", "factor", base=1),
                                     [None, 0.99, 0, -1, math.nan, math.inf, 1e9 + 1, "2", True, timedelta(2)],
                                     [1, 1.5, 2, 1e9]),
    "Retry.random base": Case(retry("random", "base", spread=1), NO_BOUND, [*SOME, CENTURY_S]),
    "Retry.random spread": Case(retry("random", "spread", base=1), NO_BOUND, [*SOME, CENTURY_S]),
    "Retry max_interval": Case(retry("fixed", "max_interval", delay=1), DURATIONS, [None, *SOME]),
    "Retry at_max_interval": Case(retry("fixed", "at_max_interval", delay=1), [None, "", "end", 5], ["cap", "stop"]),
    "Retry max_attempts": Case(retry("fixed", "max_attempts", delay=1), [0, -1, 1.5, "1", True], [None, 1, 2, 10**9]),
    "Retry max_elapsed": Case(retry("fixed", "max_elapsed", delay=1), DURATIONS, [None, *SOME]),
    "Retry jitter": Case(retry("fixed", "jitter", delay=1), [None, "", "some", True], ["none", "full", "equal"]),
    "Retry.delay attempt": Case(lambda _, v: Retry.fixed(1).delay(v, HALF), [0, -1, 1.5, "1", True, None], [1, 2]),
    "Retry.schedule k": Case(lambda _, v: Retry.fixed(1).schedule(v), [-1, 1.5, "1", True, None], [0, 1, 2]),
}  # fmt: skip


class Half:
    def random(self) -> float:
        return 0.5


HALF = Half()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    yield world
    world.message.ack()
    world.peer.close()


@pytest.mark.parametrize("name", CASES)
def test_wrong_values_are_refused_by_name(world: World, name: str) -> None:
    before = world.peer.stats()["accepted"]
    for value in CASES[name].bad:
        with pytest.raises(ConfigError) as caught:
            pytest.fail(f"{value!r} was taken: {CASES[name].call(world, value)!r}")
        said = str(caught.value)
        assert name.split()[-1] in said.split(" takes ")[0], said
        assert " takes " in said, said
    assert world.peer.stats()["accepted"] == before


@pytest.mark.parametrize("name", CASES)
def test_their_neighbours_are_taken(world: World, name: str) -> None:
    for value in CASES[name].good:
        CASES[name].call(world, value)
