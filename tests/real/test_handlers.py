"""Handlers: settled by hand, limited in time, and under a condition."""

from __future__ import annotations

import threading
from datetime import timedelta
from queue import Queue
from typing import Any

import pytest

import zmqrel
from tests.real.net import LIMIT_S, Net, until
from zmqrel import AlreadySettled, ConfigError, Message, Outcome, Reject, Retry, RetryLater, Verdict

# ---------------------------------------------------------------------------------------------------- manual settling


def test_a_manual_handler_settles_from_any_thread(swift: Net) -> None:
    billing = swift.receiver()
    got: Queue[Message] = Queue()
    billing.handler("default", ack="manual", retry=Retry.fixed(0))(got.put)
    billing.start()
    shop = swift.sender()
    receipts = [shop.send("billing", what) for what in ("ack", "reject", "move", "retry")]
    messages = {message.body: message for message in (got.get(timeout=LIMIT_S) for _ in receipts)}
    assert [receipt.outcome for receipt in receipts] == [None] * 4
    assert billing.stats()["in_hand"] == 4

    def settle() -> None:
        messages["ack"].ack()
        messages["reject"].reject("not for us")
        messages["move"].move("elsewhere")
        messages["retry"].retry()

    thread = threading.Thread(target=settle)
    thread.start()
    thread.join(LIMIT_S)
    for message in messages.values():
        with pytest.raises(AlreadySettled):
            message.ack()
    assert receipts[0].wait(LIMIT_S) is Outcome.HANDLED
    assert receipts[1].wait(LIMIT_S) is Outcome.REJECTED
    moved = billing.receive("elsewhere", timeout=LIMIT_S)
    assert moved is not None
    moved.ack()
    again = got.get(timeout=LIMIT_S)
    assert (again.body, again.attempt) == ("retry", 2)
    again.ack()
    assert zmqrel.wait_all(receipts, LIMIT_S)[2:] == [Outcome.HANDLED, Outcome.HANDLED]
    until(lambda: billing.stats()["in_hand"] == 0)


def test_what_a_manual_handler_raises_counts(swift: Net) -> None:
    billing = swift.receiver()

    @billing.handler("default", ack="manual")
    def refuse(message: Message) -> None:
        raise Reject("at once")

    billing.start()
    receipt = swift.sender().send("billing", 1)
    assert receipt.wait(LIMIT_S) is Outcome.REJECTED


def test_what_is_never_settled_is_redelivered_in_the_next_life(local: Net) -> None:
    billing = local.receiver()
    got: Queue[Message] = Queue()
    billing.handler("default", ack="manual")(got.put)
    billing.start()
    shop = local.sender()
    receipts = shop.send_many("billing", range(3))
    first = [got.get(timeout=LIMIT_S) for _ in receipts]
    first[1].ack()
    assert receipts[1].wait(LIMIT_S) is Outcome.HANDLED
    assert billing.stats()["in_hand"] == 2
    assert billing.close(LIMIT_S).inbox == 2

    billing = local.receiver()
    billing.handler("default", ack="manual")(got.put)
    billing.start()
    again = [got.get(timeout=LIMIT_S) for _ in range(2)]
    assert [(message.body, message.redelivered, message.attempt) for message in again] == [(0, True, 2), (2, True, 2)]
    for message in again:
        message.ack()
    assert zmqrel.wait_all(receipts, LIMIT_S) == [Outcome.HANDLED] * 3


def test_the_attempt_of_a_message_stays_what_it_was(swift: Net) -> None:
    shop, billing = swift.pair()
    shop.send("billing", 1)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    message.move("elsewhere")
    moved = billing.receive("elsewhere", timeout=LIMIT_S)
    assert moved is not None
    assert (message.attempt, moved.attempt) == (1, 1)
    moved.ack()


# --------------------------------------------------------------------------------------------------------- time limit


@pytest.mark.parametrize("limit", [0.05, timedelta(milliseconds=50)])
def test_past_its_time_limit_a_message_is_withdrawn_and_counted(swift: Net, limit: Any) -> None:
    billing = swift.receiver()
    began, go_on = threading.Event(), threading.Event()
    hand_overs = []

    @billing.handler("default", workers=2, time_limit=limit)
    def slow(message: Message) -> None:
        hand_overs.append(message.attempt)
        assert not message.withdrawn
        began.set()
        until(lambda: message.withdrawn)
        assert go_on.wait(LIMIT_S)

    billing.start()
    receipt = swift.sender().send("billing", 1)
    assert began.wait(LIMIT_S)
    until(lambda: billing.stats()["overdue"] == 1)
    assert billing.stats()["in_hand"] == 1
    go_on.set()
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert hand_overs == [1]
    assert billing.stats()["overdue"] == 1


def test_a_failed_attempt_past_its_time_limit_is_retried(swift: Net) -> None:
    billing = swift.receiver()
    attempts = []

    @billing.handler("default", time_limit=0.01, retry=Retry.fixed(0))
    def slow(message: Message) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            until(lambda: message.withdrawn)
            raise TimeoutError

    billing.start()
    receipt = swift.sender().send("billing", 1)
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert (attempts, receipt.attempts) == ([1, 2], 2)


def test_without_a_time_limit_nothing_is_overdue(swift: Net) -> None:
    shop, billing = swift.pair()
    shop.send("billing", 1)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    assert not message.withdrawn
    assert billing.stats()["overdue"] == 0
    message.ack()


# ---------------------------------------------------------------------------------------------------------- condition


def test_what_admit_refuses_is_rejected_and_never_handed_over(swift: Net) -> None:
    billing = swift.receiver()
    asked, handled = [], []

    def even(message: Message) -> bool:
        asked.append((message.body, message.attempt, message.sender, message.queue))
        return message.body % 2 == 0

    @billing.handler("default", admit=even)
    def handle(message: Message) -> None:
        handled.append((message.body, message.attempt))

    billing.start()
    shop = swift.sender()
    receipts = shop.send_many("billing", range(4))
    wanted = [Outcome.HANDLED, Outcome.REJECTED, Outcome.HANDLED, Outcome.REJECTED]
    assert zmqrel.wait_all(receipts, LIMIT_S) == wanted
    assert [(receipt.reason, receipt.attempts) for receipt in receipts[1::2]] == [("condition", 0)] * 2
    assert asked == [(n, 1, "shop", "default") for n in range(4)]
    assert handled == [(0, 1), (2, 1)]
    recall = receipts[1].recall()
    assert (recall.verdict, recall.handed_over_at) == (Verdict.TOO_LATE, None)
    assert [(letter.cause, letter.reason) for letter in billing.dead_letters()] == [("rejected", "condition")] * 2


def test_admit_is_asked_before_each_attempt(swift: Net) -> None:
    billing = swift.receiver()
    asked = []

    def first_two(message: Message) -> bool:
        asked.append(message.attempt)
        return message.attempt <= 2

    @billing.handler("default", admit=first_two, retry=Retry.fixed(0))
    def fail(message: Message) -> None:
        raise ValueError

    billing.start()
    receipt = swift.sender().send("billing", 1)
    assert receipt.wait(LIMIT_S) is Outcome.REJECTED
    assert (asked, receipt.reason, receipt.attempts) == ([1, 2, 3], "condition", 2)


def test_it_can_be_recalled_while_admit_is_asked(swift: Net) -> None:
    billing = swift.receiver()
    asking, go_on, handled = threading.Event(), threading.Event(), []

    def slow(_message: Message) -> bool:
        asking.set()
        return go_on.wait(LIMIT_S)

    billing.handler("default", admit=slow)(lambda message: handled.append(message.body))
    billing.start()
    shop = swift.sender()
    first = shop.send("billing", 1)
    assert asking.wait(LIMIT_S)
    assert first.recall(LIMIT_S).verdict is Verdict.RECALLED
    second = shop.send("billing", 2)
    go_on.set()
    assert second.wait(LIMIT_S) is Outcome.HANDLED
    assert handled == [2]


@pytest.mark.parametrize(
    ("error", "outcome", "reason", "attempts"),
    [
        (ValueError("odd"), Outcome.EXHAUSTED, "ValueError: odd", 3),
        (SystemExit(1), Outcome.EXHAUSTED, "SystemExit: 1", 3),
        (Reject("no"), Outcome.REJECTED, "no", 1),
        (RetryLater(0), Outcome.EXHAUSTED, "retry later", 3),
    ],
)
def test_what_admit_raises_is_what_a_handler_raises(
    swift: Net, error: BaseException, outcome: Outcome, reason: str, attempts: int
) -> None:
    billing = swift.receiver()
    handled = []

    def odd(_message: Message) -> bool:
        raise error

    billing.handler("default", admit=odd, retry=Retry.fixed(0, max_attempts=3))(handled.append)
    billing.start()
    receipt = swift.sender().send("billing", 1)
    assert receipt.wait(LIMIT_S) is outcome
    assert (receipt.reason, receipt.attempts) == (reason, attempts)
    assert handled == []


@pytest.mark.parametrize("settle", ["ack", "retry", "reject", "move"])
def test_admit_may_not_settle(swift: Net, settle: str) -> None:
    billing = swift.receiver()
    errors = []

    def meddle(message: Message) -> bool:
        try:
            getattr(message, settle)(*(["x"] if settle in ("reject", "move") else []))
        except AlreadySettled as error:
            errors.append(str(error))
        return True

    billing.handler("default", admit=meddle)(lambda message: None)
    billing.start()
    assert swift.sender().send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
    assert "is not handed over yet" in errors[0]


@pytest.mark.parametrize("workers", [1, 4])
def test_messages_are_asked_about_and_handed_over_in_order(swift: Net, workers: int) -> None:
    billing = swift.receiver()
    asked = []
    handed: Queue[int] = Queue()

    def ask(message: Message) -> bool:
        asked.append(message.body)
        return bool(message.body % 3)

    billing.handler("default", workers=workers, admit=ask)(lambda message: handed.put(message.body))
    billing.start()
    receipts = swift.sender().send_many("billing", range(60))
    zmqrel.wait_all(receipts, LIMIT_S)
    assert asked == list(range(60))
    assert handed.qsize() == 40


# -------------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("name", "bad", "takes"),
    [
        ("ack", "later", "'auto' or 'manual'"),
        ("ack", None, "'auto' or 'manual'"),
        ("ack", True, "'auto' or 'manual'"),
        ("time_limit", 0, "seconds, above 0"),
        ("time_limit", -1, "seconds, above 0"),
        ("time_limit", "1", "seconds, above 0"),
        ("time_limit", True, "seconds, above 0"),
        ("time_limit", timedelta(0), "seconds, above 0"),
        ("admit", True, "a callable that takes a Message, or None"),
        ("workers", 0, "a whole number from 1 to 1024"),
        ("workers", 1025, "a whole number from 1 to 1024"),
        ("workers", 1.0, "a whole number from 1 to 1024"),
        ("retry", 3, "a Retry or None"),
        ("queue", "a b", "a str of 1 to 64"),
    ],
)
def test_what_handler_takes(name: str, bad: Any, takes: str) -> None:
    peer = zmqrel.Peer("shop", zmqrel.MEMORY)
    with pytest.raises(ConfigError) as caught:
        peer.handler(**{name: bad})
    assert str(caught.value).startswith(f"{name} takes {takes}")
    for good in ({"ack": "auto"}, {"time_limit": 1e-9}, {"time_limit": None}, {"admit": None}, {"workers": 1024}):
        peer.handler(**good)  # type: ignore[arg-type]
