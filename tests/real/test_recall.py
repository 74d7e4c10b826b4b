"""Recalls at every stage of a message, with real peers. RECALLED means that no handler saw it."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import zmqrel
from tests.real.net import LIMIT_S, Got, Net, in_time, is_empty, until
from zmqrel import Message, Outcome, Peer, Receipt, Retry, State, Verdict


class Held:
    """A handler that waits in each message until it is released."""

    def __init__(self, then: Callable[[Message], object] = lambda message: None) -> None:
        self.release = threading.Event()
        self.got = Got()
        self._then = then

    def __call__(self, message: Message) -> None:
        """Handle one message."""
        self.got(message)
        assert self.release.wait(LIMIT_S)
        self._then(message)


def fail(message: Message) -> None:
    raise ValueError("no")


def test_before_transmission(swift: Net) -> None:
    shop = swift.sender()
    receipts = shop.send_many("billing", range(20))
    recalls = [receipt.recall() for receipt in receipts[::2]]
    assert {recall.verdict for recall in recalls} == {Verdict.RECALLED}
    billing = swift.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    assert {receipt.wait(LIMIT_S) for receipt in receipts[1::2]} == {Outcome.HANDLED}
    assert got.rest() == list(range(1, 20, 2))
    assert is_empty(shop)
    assert is_empty(billing)


def test_above_the_floor_of_a_receiver_that_is_full(swift: Net) -> None:
    """What the receiver has no room for was transmitted, perhaps, and is not received."""
    billing = swift.receiver(inbox_max_messages=10)
    billing.start()
    shop = swift.sender()
    receipts = shop.send_many("billing", range(100))
    assert receipts[9].wait_received(LIMIT_S)
    last = receipts[50:]
    recalls = [receipt.recall(timeout=LIMIT_S) for receipt in last]
    assert {recall.verdict for recall in recalls} == {Verdict.RECALLED}
    got = Got()
    billing.handler()(got)
    assert {receipt.wait(LIMIT_S) for receipt in receipts[:50]} == {Outcome.HANDLED}
    assert got.rest() == list(range(50))
    assert shop.send("billing", "next").wait(LIMIT_S) is Outcome.HANDLED


def test_in_the_inbox_without_a_handler(swift: Net) -> None:
    shop, billing = swift.pair()
    receipts = shop.send_many("billing", range(20))
    assert receipts[-1].wait_received(LIMIT_S)
    recalls = shop.recall_where(where=lambda receipt: receipt in receipts[5:] or True, to="billing", timeout=LIMIT_S)
    assert [recall.verdict for recall in recalls] == [Verdict.RECALLED] * 20
    assert {receipt.outcome for receipt in receipts} == {Outcome.RECALLED}
    assert billing.stats()["recalled"] == 20
    assert billing.receive(timeout=0) is None
    assert is_empty(shop)
    assert is_empty(billing)


@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_full_buffer_racing_its_workers(swift: Net, seed: int) -> None:
    """1,000 messages claimed, 200 recalls of them while four workers take them."""
    billing = swift.receiver(prefetch=1000)
    seen: Counter[int] = Counter()
    counting = threading.Lock()
    gate, begun = threading.Event(), threading.Semaphore(0)

    @billing.handler(workers=4)
    def work(message: Message) -> None:
        with counting:
            seen[message.body] += 1
        if message.body < 4:
            begun.release()
            assert gate.wait(LIMIT_S)

    billing.start()
    shop = swift.sender()
    receipts = shop.send_many("billing", range(1004))
    assert receipts[-1].wait_received(LIMIT_S)
    for _ in range(4):
        assert begun.acquire(timeout=LIMIT_S)
    chosen = random.Random(seed).sample(receipts[4:], 200)

    def recall(receipt: Receipt) -> Verdict:
        return receipt.recall(timeout=LIMIT_S).verdict

    with ThreadPoolExecutor(4) as pool:
        verdicts = [pool.submit(recall, receipt) for receipt in chosen[:20]]
        assert {verdict.result(LIMIT_S) for verdict in verdicts} == {Verdict.RECALLED}
        verdicts += [pool.submit(recall, receipt) for receipt in chosen[20:]]
        gate.set()
        counts = Counter(verdict.result(LIMIT_S) for verdict in verdicts)
    assert {receipt.wait(LIMIT_S) for receipt in receipts} <= {Outcome.HANDLED, Outcome.RECALLED}
    # Those that were handled by now leave no doubt about the other verdict.
    counts[shop.recall(receipts[0]).verdict] += 0
    recalled = {n for n, receipt in enumerate(receipts) if receipt.outcome is Outcome.RECALLED}
    assert sum(counts.values()) == 200
    assert counts[Verdict.RECALLED] == len(recalled)
    assert set(counts) <= {Verdict.RECALLED, Verdict.TOO_LATE}
    assert not recalled & set(seen)
    assert seen == {n: 1 for n in range(1004) if n not in recalled}
    assert {receipts[n].recall().verdict for n in sorted(set(range(1004)) - recalled)[:20]} == {Verdict.TOO_LATE}
    assert is_empty(shop)
    assert is_empty(billing)


def test_in_the_handler(swift: Net) -> None:
    shop, billing = swift.pair()
    held = Held()
    billing.handler()(held)
    receipt = shop.send("billing", 1)
    message = held.got.next()
    assert message.withdrawn == False  # noqa: E712
    recall = receipt.recall(timeout=LIMIT_S)
    assert (recall.verdict, recall.outcome) == (Verdict.TOO_LATE, None)
    assert receipt.state is State.RECEIVED, "nothing is being recalled any more"
    assert recall.handed_over_at is not None
    assert message.withdrawn
    held.release.set()
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert (recall.verdict, recall.outcome) == (Verdict.TOO_LATE, Outcome.HANDLED)
    assert recall.handed_over_at is not None


def test_too_late_is_known_across_a_restart(lasting: Net) -> None:
    shop, billing = lasting.pair()
    held = Held()
    billing.handler()(held)
    receipt = shop.send("billing", 1, id="it")
    held.got.next()
    before = receipt.recall(timeout=LIMIT_S)
    shop.close()
    shop = lasting.sender()
    after = shop.recall("it")
    assert (after.verdict, after.receipt.state) == (Verdict.TOO_LATE, State.RECEIVED)
    assert before.handed_over_at is not None
    assert after.handed_over_at is not None
    assert abs(after.handed_over_at - before.handed_over_at) < timedelta(seconds=1)
    held.release.set()
    assert after.receipt.wait(LIMIT_S) is Outcome.HANDLED


def test_in_the_handler_that_then_fails(swift: Net) -> None:
    shop, billing = swift.pair()
    held = Held(fail)
    billing.handler(retry=Retry.fixed(0))(held)
    receipt = shop.send("billing", 1)
    held.got.next()
    recall = receipt.recall(timeout=LIMIT_S)
    assert recall.verdict is Verdict.TOO_LATE
    held.release.set()
    assert receipt.wait(LIMIT_S) is Outcome.EXHAUSTED
    assert (receipt.reason, receipt.attempts) == ("recalled", 1)
    assert held.got.rest() == []
    assert is_empty(billing)


def test_past_its_deadline_in_the_handler(swift: Net) -> None:
    shop, billing = swift.pair()
    held = Held(fail)
    billing.handler(retry=Retry.fixed(0))(held)
    *_, receipt = in_time(lambda ttl_s: shop.send("billing", 1, ttl=ttl_s), lambda _: held.got.has_more())
    message = held.got.next()
    until(lambda: message.withdrawn)
    assert message.remaining() == 0
    held.release.set()
    assert receipt.wait(LIMIT_S) is Outcome.EXHAUSTED
    assert (receipt.reason, receipt.attempts) == ("deadline", 1)


def test_between_attempts(swift: Net) -> None:
    shop, billing = swift.pair()
    got = Got()

    @billing.handler(retry=Retry.fixed(3600))
    def work(message: Message) -> None:
        got(message)
        raise ValueError("no")

    receipt = shop.send("billing", 1, key="k")
    behind = shop.send("billing", 2, key="k")
    got.next()
    until(lambda: billing.stats().get("retried"))
    recall = receipt.recall(timeout=LIMIT_S)
    assert (recall.verdict, recall.outcome) == (Verdict.TOO_LATE, Outcome.EXHAUSTED)
    assert (receipt.reason, receipt.attempts) == ("recalled", 1)
    assert recall.handed_over_at is not None
    assert got.next().body == 2
    assert behind.recall(timeout=LIMIT_S).verdict is Verdict.TOO_LATE
    assert behind.wait(LIMIT_S) is Outcome.EXHAUSTED  # the verdict may come while the handler still runs
    assert is_empty(shop)
    assert is_empty(billing)


def test_a_delayed_message(swift: Net) -> None:
    shop, billing = swift.pair()
    got = Got()
    billing.handler()(got)
    receipt = shop.send("billing", 1, delay=3600, key="k")
    assert receipt.wait_received(LIMIT_S)
    assert receipt.recall(timeout=LIMIT_S).verdict is Verdict.RECALLED
    assert shop.send("billing", 2, key="k").wait(LIMIT_S) is Outcome.HANDLED
    assert got.rest() == [2]


def test_after_the_end(swift: Net) -> None:
    shop, billing = swift.pair()

    @billing.handler()
    def work(message: Message) -> None:
        if message.body == "bad":
            raise zmqrel.Reject("bad")

    good, bad = shop.send("billing", "good"), shop.send("billing", "bad")
    short = shop.send("billing", "x", queue="none", ttl=0.05)
    assert (good.wait(LIMIT_S), bad.wait(LIMIT_S), short.wait(LIMIT_S)) == (
        Outcome.HANDLED,
        Outcome.REJECTED,
        Outcome.EXPIRED,
    )
    for receipt in (good, bad, short):
        recall = receipt.recall()
        assert (recall.verdict, recall.outcome) == (Verdict.TOO_LATE, receipt.outcome)
        assert (recall.handed_over_at is None) == (receipt is short)


def test_of_a_moved_message(swift: Net) -> None:
    shop, billing = swift.pair()
    receipt = shop.send("billing", 1)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    message.move("later")
    recall = receipt.recall(timeout=LIMIT_S)
    assert recall.verdict is Verdict.TOO_LATE
    assert receipt.wait(LIMIT_S) is Outcome.EXHAUSTED
    assert receipt.reason == "recalled"
    assert billing.receive("later", timeout=0) is None


# ------------------------------------------------------------------------------------------------ across restarts


def _received_then_gone(net: Net) -> tuple[Peer, Receipt]:
    """A sender, and the receipt of its message, which lies in the inbox of a peer that is down."""
    shop, billing = net.pair()
    receipt = shop.send("billing", "recalled", id="it")
    assert receipt.wait_received(LIMIT_S)
    billing.close()
    until(lambda: not shop.stats()["peers_connected"])
    return shop, receipt


def test_pending_while_the_peer_is_down(lasting: Net) -> None:
    _, receipt = _received_then_gone(lasting)
    recall = receipt.recall(timeout=0.01)
    assert (recall.verdict, recall.outcome, recall.refresh()) == (Verdict.PENDING, None, Verdict.PENDING)
    assert receipt.state is State.RECALLING
    assert receipt.recall().verdict is Verdict.PENDING
    billing = lasting.receiver()
    billing.start()
    assert recall.wait(LIMIT_S) is Verdict.RECALLED
    assert receipt.outcome is Outcome.RECALLED
    assert billing.receive(timeout=0) is None


@pytest.mark.parametrize("who", ["sender", "both", "receiver twice"])
def test_a_recall_stays_in_force_across_restarts(lasting: Net, who: str) -> None:
    shop, receipt = _received_then_gone(lasting)
    assert receipt.recall().verdict is Verdict.PENDING
    if who != "receiver twice":
        shop.close()
        shop = lasting.sender()
        receipt = shop.receipt("it")
        assert receipt.state is State.RECALLING
        assert shop.recall("it").verdict is Verdict.PENDING
    if who != "sender":
        billing = lasting.receiver().start()
        billing.close()
    billing = lasting.receiver().start()
    assert shop.recall("it", timeout=LIMIT_S).verdict is Verdict.RECALLED
    assert receipt.wait(LIMIT_S) is Outcome.RECALLED
    assert billing.receive(timeout=0) is None
    assert is_empty(billing)


def test_of_an_id_after_a_restart(lasting: Net) -> None:
    shop = lasting.sender()
    unnamed = shop.send("billing", 1).id
    shop.send("billing", 2, id="named")
    shop.close()
    shop = lasting.sender()
    assert shop.recall("named").verdict is Verdict.RECALLED
    assert [recall.receipt.id for recall in shop.recall_where(to="billing")] == [unnamed]
    assert shop.receipt(unnamed).outcome is Outcome.RECALLED
    assert is_empty(shop)
