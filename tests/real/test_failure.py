"""The I/O loop ends for a reason that nobody foresaw: everyone who waits, and who comes later, is told why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqrel
from tests.real.net import LIMIT_S, Got
from zmqrel import Peer, PeerClosed
from zmqrel.runtime import loop
from zmqrel.store.memory import MemoryStore

WHY = "the clock fell off the wall"


class Clock:
    """A wall clock that can be held and broken: it is read in every turn."""

    def __init__(self) -> None:
        self.broken = False
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self) -> float:
        if not self.go_on.is_set():
            self.held.set()
            self.go_on.wait(LIMIT_S)
        if self.broken:
            raise RuntimeError(WHY)
        return time.time()


class Fragile:
    """A peer whose loop can be made to fail."""

    def __init__(self, store: Path | str, **options: Any) -> None:
        self.clock = Clock()
        self.peer = Peer("shop", store, peers={"bank": None}, wall_clock=self.clock, **options)

    def fail(self) -> None:
        """Break the clock, and have the loop read it."""
        self.clock.broken = True
        with pytest.raises(PeerClosed, match=WHY):
            self.peer.send("bank", 0)


@pytest.fixture
def shop() -> Iterator[Fragile]:
    fragile = Fragile(zmqrel.MEMORY)
    fragile.peer.start()
    yield fragile
    with pytest.raises(PeerClosed, match=WHY):
        fragile.peer.close()
    assert not left_behind()


def left_behind() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("zmqrel-")]


class Asking(threading.Thread):
    """A call in a thread of its own, and what it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.raised: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Call."""
        try:
            self._call()
        except BaseException as error:
            self.raised = error

    def check(self) -> None:
        """It was told what happened."""
        self.join(LIMIT_S)
        assert not self.is_alive(), "it waits for ever"
        assert isinstance(self.raised, PeerClosed)
        assert WHY in str(self.raised)
        assert isinstance(self.raised.__cause__, RuntimeError)


def test_who_waits_is_told(shop: Fragile) -> None:
    peer = shop.peer
    receipt = peer.send("bank", 1, id="one")
    waiting = [
        Asking(lambda: peer.receive("a")),
        Asking(lambda: peer.receive("a", timeout=LIMIT_S)),
        Asking(lambda: next(peer.messages("b"))),
        Asking(receipt.wait),
        Asking(receipt.wait_received),
        Asking(peer.receipt("one").wait),
        Asking(lambda: peer.recall(peer.send("bank", 2)).wait()),
    ]
    shop.fail()
    for each in waiting[:-1]:
        each.check()


CALLS: dict[str, Callable[[Peer], Any]] = {
    "send": lambda peer: peer.send("bank", 1),
    "send_nowait": lambda peer: peer.send_nowait("bank", 1),
    "send_many": lambda peer: peer.send_many("bank", [1, 2]),
    "send_many_nowait": lambda peer: peer.send_many_nowait("bank", [1, 2]),
    "recall": lambda peer: peer.recall("one"),
    "recall_where": lambda peer: peer.recall_where(all=True),
    "receipt": lambda peer: peer.receipt("one"),
    "receive": lambda peer: peer.receive(),
    "receive from a queue received from before": lambda peer: peer.receive("before", timeout=0),
    "messages": lambda peer: next(peer.messages()),
    "connect": lambda peer: peer.connect("other", "tcp://127.0.0.1:7"),
    "disconnect": lambda peer: peer.disconnect("bank"),
    "handler": lambda peer: peer.handler("new")(print),
    "stats": lambda peer: peer.stats(),
    "endpoints": lambda peer: peer.endpoints,
    "close": lambda peer: peer.close(drain=True),
}


@pytest.mark.parametrize("call", CALLS)
def test_who_comes_later_is_told(shop: Fragile, call: str) -> None:
    shop.peer.receive("before", timeout=0)
    shop.fail()
    for _ in range(2):
        with pytest.raises(PeerClosed, match=WHY) as told:
            CALLS[call](shop.peer)
        assert isinstance(told.value.__cause__, RuntimeError)


def test_queued_sends_are_told(shop: Fragile) -> None:
    clock = shop.clock
    clock.go_on.clear()
    asking = Asking(shop.peer.stats)
    assert clock.held.wait(LIMIT_S)
    receipt = shop.peer.send_nowait("bank", 1)
    clock.broken = True
    clock.go_on.set()
    with pytest.raises(PeerClosed, match=WHY):
        receipt.wait(LIMIT_S)
    with pytest.raises(PeerClosed, match=WHY):
        shop.peer.flush(LIMIT_S)
    asking.join(LIMIT_S)
    assert asking.raised is None, "its answer was ready before the loop failed"


def test_workers_and_the_outcome_thread_end(tmp_path: Path) -> None:
    fragile = Fragile(tmp_path)
    peer = fragile.peer
    peer.handler("work", workers=3)(Got())
    peer.on_outcome()(print)
    peer.start()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("zmqrel-shop")]
    assert len(threads) == 6
    fragile.fail()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), f"{thread.name} waits for ever"
    with pytest.raises(PeerClosed, match=WHY):
        peer.close()


def test_a_message_in_hand_cannot_be_settled_any_more_and_comes_again(tmp_path: Path) -> None:
    bank = Peer("bank", tmp_path / "bank", bind="tcp://127.0.0.1:*", peers={"shop": None})
    with bank:
        clock = Clock()
        shop = Peer("shop", tmp_path / "shop", peers={"bank": bank.endpoints[0]}, wall_clock=clock).start()
        bank.connect("shop", None)
        bank.send("shop", "parcel")
        message = shop.receive(timeout=LIMIT_S)
        assert message is not None
        clock.broken = True
        with pytest.raises(PeerClosed, match=WHY):
            shop.send("bank", 0)
        with pytest.raises(PeerClosed, match=WHY):
            message.ack()
        with pytest.raises(PeerClosed, match=WHY):
            shop.close()
        with Peer("shop", tmp_path / "shop", peers={"bank": bank.endpoints[0]}) as again:
            message = again.receive(timeout=LIMIT_S)
            assert message is not None
            assert (message.body, message.redelivered) == ("parcel", True)
            message.ack()


def test_what_was_committed_is_there_in_the_next_life(tmp_path: Path) -> None:
    fragile = Fragile(tmp_path)
    fragile.peer.start()
    fragile.peer.send("bank", 1, id="kept")
    fragile.fail()
    with pytest.raises(PeerClosed, match=WHY):
        fragile.peer.close()
    with Peer("shop", tmp_path, peers={"bank": None}) as again:
        assert again.receipt("kept").state is zmqrel.State.STORED
        assert again.stats()["outbox_messages"] == 1


def test_the_error_that_came_first_is_not_hidden_by_the_close_of_with() -> None:
    fragile = Fragile(zmqrel.MEMORY)

    def work() -> None:
        with fragile.peer:
            fragile.fail()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_with_raises_if_nobody_noticed_before() -> None:
    fragile = Fragile(zmqrel.MEMORY)
    with pytest.raises(PeerClosed, match=WHY), fragile.peer:
        fragile.fail()


def test_run_ends_with_the_reason() -> None:
    with Peer("bank", zmqrel.MEMORY, bind="tcp://127.0.0.1:*", peers={"shop": None}) as bank:
        clock = Clock()
        shop = Peer("shop", zmqrel.MEMORY, peers={"bank": bank.endpoints[0]}, wall_clock=clock)

        @shop.handler()
        def break_the_clock(_message: zmqrel.Message) -> None:
            clock.broken = True

        bank.send("shop", 1)
        with pytest.raises(PeerClosed, match=WHY):
            shop.run()


ODD = b"something odd, and too long to be a random number"


class OddStore(MemoryStore):
    """A store that fails in a way that no store should."""

    def commit(self) -> bool:
        """Commit, until something odd was written."""
        if any(ODD in (self._values.get(key) or b"") for key, _ in self._undo):
            raise RuntimeError(WHY)
        return super().commit()


def test_a_store_that_fails_as_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MemoryStore", OddStore)
    peer = Peer("shop", zmqrel.MEMORY, peers={"bank": None}).start()
    good = peer.send("bank", "good")
    waiting = [Asking(lambda: peer.receive("a")), Asking(good.wait)]
    with pytest.raises(PeerClosed, match=WHY):
        peer.send("bank", ODD)
    for each in waiting:
        each.check()
    with pytest.raises(PeerClosed, match=WHY):
        peer.close()
    assert not left_behind()


def test_a_receipt_that_was_looked_up_does_not_wait_beyond_close() -> None:
    peer = Peer("shop", zmqrel.MEMORY, peers={"bank": None}).start()
    peer.send("bank", 1, id="one")
    receipt = peer.receipt("one")
    waiting = Asking(receipt.wait)
    peer.close()
    waiting.join(LIMIT_S)
    assert isinstance(waiting.raised, PeerClosed)
