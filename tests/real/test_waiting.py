"""Waiting for many outcomes, and being called back."""

from __future__ import annotations

import gc
import threading
from queue import Queue
from typing import Any

import pytest

import zmqrel
from tests.real.net import LIMIT_S, Net, until
from zmqrel import ConfigError, Message, OutboxFull, Outcome, Peer, PeerClosed, Receipt, Reject


def judging(peer: Peer) -> Peer:
    """A handler that rejects odd numbers."""

    @peer.handler("default")
    def judge(message: Message) -> None:
        if message.body % 2:
            raise Reject("odd")

    return peer.start()


def test_wait_all_returns_outcomes_in_the_order_asked_for(swift: Net) -> None:
    judging(swift.receiver())
    shop = swift.sender()
    receipts = [*shop.send_many("billing", range(5)), shop.send("billing", 6)]
    wanted = [Outcome.HANDLED, Outcome.REJECTED, Outcome.HANDLED, Outcome.REJECTED, Outcome.HANDLED, Outcome.HANDLED]
    assert zmqrel.wait_all(receipts, LIMIT_S) == wanted
    assert zmqrel.wait_all(iter(receipts[::-1])) == wanted[::-1]
    assert zmqrel.wait_all([], 0) == []
    assert list(zmqrel.as_completed([], 0)) == []


def test_time_outs_say_how_many_are_left(swift: Net) -> None:
    shop = swift.sender()
    receipts = shop.send_many("billing", range(3))
    with pytest.raises(TimeoutError, match="3 of 3 messages have no outcome after 0.01 s"):
        zmqrel.wait_all(receipts, 0.01)
    receipts[1].recall()
    with pytest.raises(TimeoutError, match="2 of 3"):
        zmqrel.wait_all(receipts, 0)
    completed = zmqrel.as_completed(receipts, 0.01)
    assert next(completed) is receipts[1]
    with pytest.raises(TimeoutError, match="2 of 3"):
        next(completed)


def test_receipts_come_as_they_complete(swift: Net) -> None:
    shop, billing = swift.pair()
    receipts = shop.send_many("billing", range(3))
    completed = zmqrel.as_completed(receipts, LIMIT_S)
    messages = [billing.receive(timeout=LIMIT_S) for _ in receipts]
    for n in (2, 0, 1):
        message = messages[n]
        assert message is not None
        message.ack()
        assert next(completed) is receipts[n]
    assert next(completed, None) is None
    assert sorted(receipt.id for receipt in zmqrel.as_completed(receipts)) == sorted(r.id for r in receipts)


def test_of_several_peers(swift: Net) -> None:
    judging(swift.peer("billing", hears="shop other"))
    receipts = [swift.sender().send("billing", 1), swift.peer("other", "billing").start().send("billing", 2)]
    assert zmqrel.wait_all(receipts, LIMIT_S) == [Outcome.REJECTED, Outcome.HANDLED]
    assert set(zmqrel.as_completed(receipts, LIMIT_S)) == set(receipts)


@pytest.mark.parametrize("bad", [None, 1, "receipts", [None], [Outcome.HANDLED]])
def test_what_is_not_a_receipt_is_refused(bad: Any) -> None:
    for wait in (zmqrel.wait_all, zmqrel.as_completed):
        with pytest.raises(ConfigError, match="^receipts takes Receipts"):
            wait(bad)
        with pytest.raises(ConfigError, match="^timeout takes"):
            wait([], -1)


def test_a_closing_peer_ends_every_wait(swift: Net) -> None:
    shop = swift.sender()
    receipts = [*shop.send_many("billing", range(2)), shop.receipt(shop.send("billing", "by id", id="x").id)]
    errors: Queue[BaseException] = Queue()

    def end_of(wait: Any) -> None:
        try:
            wait()
        except PeerClosed as error:
            errors.put(error)

    waits = [lambda: zmqrel.wait_all(receipts), lambda: list(zmqrel.as_completed(receipts)), receipts[2].wait]
    threads = [threading.Thread(target=end_of, args=(wait,)) for wait in waits]
    for thread in threads:
        thread.start()
    until(lambda: len(receipts[0]._ticket._watchers) and receipts[2]._ticket._waiters)
    shop.close()
    for thread in threads:
        thread.join(LIMIT_S)
    assert errors.qsize() == 3


def test_a_refused_send_is_over(swift: Net) -> None:
    shop = swift.sender(outbox_max_messages=1)
    first = shop.send("billing", 1)
    refused = shop.send_nowait("billing", 2)
    called: Queue[Receipt] = Queue()
    refused.add_done_callback(called.put)
    assert called.get(timeout=LIMIT_S) is refused
    with pytest.raises(OutboxFull):
        zmqrel.wait_all([refused], LIMIT_S)
    assert list(zmqrel.as_completed([refused], LIMIT_S)) == [refused]
    with pytest.raises(OutboxFull):
        shop.flush(LIMIT_S)
    first.recall()


# --------------------------------------------------------------------------------------------------------- callbacks


def test_callbacks_are_called_in_a_thread_of_their_own_and_may_call_the_peer(swift: Net) -> None:
    judging(swift.receiver())
    shop = swift.sender()
    called: Queue[tuple[Receipt, str]] = Queue()

    def done(receipt: Receipt) -> None:
        called.put((receipt, threading.current_thread().name))
        if receipt.outcome is Outcome.REJECTED:
            shop.send("billing", 2).add_done_callback(done)

    for n in (1, 4):
        shop.send("billing", n).add_done_callback(done)
    gc.collect()
    told = [called.get(timeout=LIMIT_S) for _ in range(3)]
    assert sorted(receipt.outcome.name for receipt, _ in told if receipt.outcome) == ["HANDLED", "HANDLED", "REJECTED"]
    assert {thread for _, thread in told} == {"zmqrel-shop-callbacks"}


def test_a_callback_for_what_has_ended_is_called_at_once(swift: Net) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", 1)
    receipt.recall()
    assert receipt.wait(LIMIT_S) is Outcome.RECALLED
    called: list[str] = []
    receipt.add_done_callback(lambda _receipt: called.append(threading.current_thread().name))
    assert called == [threading.current_thread().name]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_what_a_callback_raises_is_logged_and_ends_nothing(swift: Net, error: type[BaseException]) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", 1)
    called: Queue[Receipt] = Queue()

    def fail(_receipt: Receipt) -> None:
        raise error("odd")

    receipt.add_done_callback(fail)
    receipt.add_done_callback(called.put)
    receipt.recall()
    assert called.get(timeout=LIMIT_S) is receipt
    swift.log.wait("a callback failed", receipt.id)
    receipt.add_done_callback(fail)


def test_each_message_of_one_call_calls_back_for_itself(swift: Net) -> None:
    judging(swift.receiver())
    shop = swift.sender()
    called: Queue[Receipt] = Queue()
    receipts = shop.send_many("billing", range(200))
    for receipt in receipts:
        receipt.add_done_callback(called.put)
    got = [called.get(timeout=LIMIT_S) for _ in receipts]
    assert {receipt.id for receipt in got} == {receipt.id for receipt in receipts}
    assert not shop._to_call_back


def test_callbacks_of_a_closed_peer_are_not_called(swift: Net) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", 1)
    called: list[Receipt] = []
    receipt.add_done_callback(called.append)
    shop.close()
    assert called == []
    with pytest.raises(PeerClosed):
        receipt.add_done_callback(called.append)
    with pytest.raises(ConfigError, match="^function takes"):
        receipt.add_done_callback(None)  # type: ignore[arg-type]


def test_close_lets_a_running_callback_end(swift: Net) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", 1)
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(_receipt: Receipt) -> None:
        began.set()
        go_on.wait(LIMIT_S)
        ended.set()

    receipt.add_done_callback(slow)
    receipt.recall()
    assert began.wait(LIMIT_S)
    threading.Timer(0.05, go_on.set).start()
    shop.close(LIMIT_S)
    assert ended.is_set()


def test_a_callback_may_close_its_peer(swift: Net) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", 1)
    closed = threading.Event()

    def close(_receipt: Receipt) -> None:
        shop.close(LIMIT_S)
        closed.set()

    receipt.add_done_callback(close)
    receipt.recall()
    assert closed.wait(LIMIT_S)


def test_the_receipts_of_a_stream_are_made_when_asked_for(swift: Net) -> None:
    judging(swift.receiver())
    receipts = swift.sender().send_many_nowait("billing", range(10))
    outcomes = zmqrel.wait_all(receipts, LIMIT_S)
    assert outcomes == [Outcome.HANDLED, Outcome.REJECTED] * 5
    assert [receipt.outcome for receipt in receipts] == outcomes
    assert [receipt.id for receipt in receipts[2:8:3]] == [receipts[2].id, receipts[-5].id]
    assert len({receipt.id for receipt in receipts}) == len(receipts) == 10
    assert {receipt.id for receipt in zmqrel.as_completed(receipts, LIMIT_S)} == {receipt.id for receipt in receipts}
    with pytest.raises(IndexError):
        receipts[10]


def test_a_time_out_of_a_stream_says_how_many_are_left(swift: Net) -> None:
    shop = swift.sender()
    receipts = shop.send_many_nowait("billing", range(4))
    with pytest.raises(TimeoutError, match="4 of 4 messages have no outcome after 0.01 s"):
        zmqrel.wait_all(receipts, 0.01)
    for recalled, left in ((2, 3), (0, 2), (3, 1)):
        receipts[recalled].recall()
        with pytest.raises(TimeoutError, match=f"{left} of 4"):
            zmqrel.wait_all(receipts, 0)
    receipts[1].recall()
    assert zmqrel.wait_all(receipts, LIMIT_S) == [Outcome.RECALLED] * 4
    waiting = shop.send_many_nowait("billing", range(2))
    shop.close()
    with pytest.raises(PeerClosed):
        zmqrel.wait_all(waiting, LIMIT_S)
