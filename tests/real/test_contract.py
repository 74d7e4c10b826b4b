"""What the documentation promises in a sentence, asked of real peers."""

from __future__ import annotations

import gc
import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import zmqrel
from tests.real.net import LIMIT_S, Got, Net, connected, until
from zmqrel import ConfigError, Outcome, Peer, Retry, State, Verdict

BASES: dict[str, tuple[type[BaseException], ...]] = {
    "ConfigError": (ValueError,),
    "UnknownPeer": (LookupError,),
    "UnknownMessage": (LookupError,),
    "DuplicateId": (),
    "MessageTooLarge": (),
    "NotSerializable": (TypeError,),
    "OutboxFull": (),
    "DeadlinePassed": (),
    "PeerClosed": (),
    "AlreadySettled": (),
    "NotHandled": (),
    "ForkedPeer": (),
    "StoreLocked": (),
    "StoreFull": (),
    "StoreDamaged": (),
    "StoreTooNew": (),
}


@pytest.mark.parametrize("name", BASES)
def test_errors_and_what_they_are(name: str) -> None:
    error = getattr(zmqrel, name)
    assert issubclass(error, (zmqrel.Error, Exception))
    assert error.__mro__[1:2] == (zmqrel.Error,)
    assert [base for base in (ValueError, LookupError, TypeError) if issubclass(error, base)] == list(BASES[name])


def test_the_words_are_these() -> None:
    assert [state.name for state in State] == [
        "QUEUED", "STORED", "SENT", "RECEIVED", "EXPIRING", "RECALLING", "SETTLED",
    ]  # fmt: skip
    assert [outcome.name for outcome in Outcome] == [
        "HANDLED", "REJECTED", "EXHAUSTED", "EXPIRED", "RECALLED", "UNCERTAIN",
    ]  # fmt: skip
    assert [verdict.name for verdict in Verdict] == ["PENDING", "RECALLED", "TOO_LATE", "UNCERTAIN"]


def test_what_was_not_received_for_so_long_is_given_up(swift: Net) -> None:
    shop = swift.sender(give_up_after_s=0.05)
    receipt = shop.send("billing", {"n": 1}, ttl=3600)
    assert receipt.wait(LIMIT_S) is Outcome.EXHAUSTED
    assert (receipt.reason, receipt.attempts) == ("gave up", 0)
    with pytest.raises(zmqrel.NotHandled) as caught:
        receipt.result()
    assert (caught.value.outcome, caught.value.reason) == (Outcome.EXHAUSTED, "gave up")
    [letter] = shop.dead_letters()
    assert (letter.cause, letter.reason, letter.body) == ("transport", "gave up", {"n": 1})
    assert receipt.recall().verdict is Verdict.TOO_LATE


@pytest.mark.parametrize(
    "given",
    [
        {"bind": "tcp://0.0.0.0:*"},
        {"bind": "tcp://*:*"},
        {"bind": ["ipc://x", "tcp://192.0.2.1:7000"]},
        {"bind": "tcp://[::]:*"},
        {"peers": {"b": "tcp://192.0.2.1:7000"}},
        {"peers": {"b": "tcp://example.org:7000"}},
    ],
)
def test_what_others_can_reach_needs_insecure(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="insecure=True"):
        Peer("a", zmqrel.MEMORY, **given)
    Peer("a", zmqrel.MEMORY, **given, insecure=True)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:*", "tcp://localhost:*", "tcp://[::1]:*", "ipc://x", "tcp://127.9.9.9:*"]
)
def test_what_only_this_machine_can_reach_needs_nothing(endpoint: str) -> None:
    Peer("a", zmqrel.MEMORY, bind=endpoint)


def test_connect_holds_to_it_too(swift: Net) -> None:
    shop = swift.sender()
    with pytest.raises(ConfigError, match="insecure=True"):
        shop.connect("far", "tcp://192.0.2.1:7000")


def test_whoever_connects_is_known_and_can_be_answered(swift: Net) -> None:
    hub = swift.peer("billing", accept="any").start()
    shop = swift.sender()
    got = Got()
    shop.handler("answers")(got)
    assert shop.send("billing", "hello").wait_received(LIMIT_S)
    message = hub.receive(timeout=LIMIT_S)
    assert message is not None
    message.ack()
    assert hub.send(message.sender, "welcome", queue="answers").wait(LIMIT_S) is Outcome.HANDLED
    assert got.next().body == "welcome"
    with pytest.raises(zmqrel.UnknownPeer):
        hub.send("stranger", 1)


def test_time_outs(swift: Net) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", 1)
    for wait in (receipt.wait, receipt.result, receipt.wait_received):
        for timeout in (0, 0.001, timedelta(milliseconds=1)):
            with pytest.raises(TimeoutError):
                wait(timeout)
    receipt.wait_stored(0)
    assert shop.receive(timeout=0) is None
    assert shop.receive(timeout=timedelta(milliseconds=1)) is None


def test_a_message_that_is_dropped_is_counted_and_comes_again_in_the_next_life(local: Net) -> None:
    billing = local.receiver().start()
    shop = local.sender()
    receipt = shop.send("billing", 1)
    assert billing.receive(timeout=LIMIT_S) is not None
    gc.collect()
    assert billing.stats()["in_hand"] == 1
    assert billing.receive(timeout=0.05) is None
    billing.close()
    billing = local.receiver().start()
    with billing.receive(timeout=LIMIT_S) as again:  # type: ignore[union-attr]
        assert (again.attempt, again.redelivered) == (2, True)
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert receipt.attempts == 2


def test_moved_it_begins_anew_and_can_still_be_recalled(swift: Net) -> None:
    shop, billing = swift.pair()
    receipt = shop.send("billing", 1, ttl=3600, id="mine")
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    message.retry(0)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    assert message.attempt == 2
    message.move("slow")
    for settle in (message.ack, message.retry, lambda: message.reject("no"), lambda: message.move("slower")):
        with pytest.raises(zmqrel.AlreadySettled):
            settle()
    moved = billing.receive("slow", timeout=LIMIT_S)
    assert moved is not None
    assert (moved.id, moved.attempt, moved.queue, moved.deadline) == ("mine", 1, "slow", message.deadline)
    moved.move("slower")
    until(lambda: list(billing.inbox("slower")))
    recall = receipt.recall(LIMIT_S)
    assert (recall.verdict, recall.outcome) == (Verdict.TOO_LATE, Outcome.EXHAUSTED)
    assert (receipt.reason, recall.handed_over_at is not None) == ("recalled", True)
    assert list(billing.inbox()) == []


def test_the_earlier_of_ttl_and_deadline_counts(swift: Net) -> None:
    shop, billing = swift.pair()
    at = datetime.now(timezone.utc) + timedelta(seconds=60)
    shop.send("billing", 1, ttl=30, deadline=at)
    shop.send("billing", 2, ttl=90, deadline=at)
    first, second = billing.receive(timeout=LIMIT_S), billing.receive(timeout=LIMIT_S)
    assert first is not None
    assert second is not None
    assert 0 < (first.remaining() or 0) <= 30
    assert 0 < (second.remaining() or 0) <= 60
    assert abs((second.deadline or at) - at) < timedelta(seconds=5)
    first.ack()
    second.ack()


def test_remaining_is_never_negative(swift: Net) -> None:
    shop, billing = swift.pair()
    connected(shop, billing)
    message = None
    ttl = 0.1
    while message is None:  # on a slow machine it may have expired before anyone could take it
        shop.send("billing", 1, ttl=ttl)
        message = billing.receive(timeout=ttl)
        ttl *= 2
    until(lambda: message.withdrawn)
    assert message.remaining() == 0.0
    message.ack()


def test_handlers_retry_by_default_as_documented() -> None:
    default = Retry.exponential(0.5, max_interval=60, max_attempts=10, jitter="full")
    assert default.schedule(20) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    rng = random.Random(1)
    assert all(0 <= (default.delay(n, rng) or 0) <= 60 for n in range(1, 10))
    assert default.delay(10, rng) is None


def test_close_reports_what_stays(swift: Net) -> None:
    shop, billing = swift.pair()
    connected(shop, billing)
    shop.send("billing", 1).wait_received(LIMIT_S)
    billing_report = billing.close(LIMIT_S)
    assert (billing_report.unsent, billing_report.unsettled, billing_report.inbox) == (0, 0, 1)
    until(lambda: not shop.stats()["peers_connected"])
    shop.send("billing", 2)
    report = shop.close(timeout=0.05, drain=True)
    assert (report.unsent, report.unsettled, report.inbox) == (1, 2, 0)
    assert shop.close() == report


def test_expired_into_a_queue_of_whoever_judged_it(swift: Net) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", {"n": 1}, key="k", headers={"h": 1}, ttl=0.01, on_expiry="queue:late")
    assert receipt.wait(LIMIT_S) is Outcome.EXPIRED
    message = shop.receive("late", timeout=LIMIT_S)
    assert message is not None
    assert (message.origin_id, message.cause, message.body) == (receipt.id, "expired", {"n": 1})
    assert (message.key, message.headers, message.deadline, message.sender) == ("k", {"h": 1}, None, "shop")
    assert message.id != receipt.id
    assert list(shop.dead_letters()) == []
    message.ack()


def test_recall_where_by_each_filter(swift: Net) -> None:
    shop = swift.peer("shop", "billing").start()
    shop.connect("bank", None)
    started = datetime.now(timezone.utc) - timedelta(seconds=5)
    filters: list[tuple[dict[str, Any], set[int]]] = [
        ({"to": "bank"}, {4}),
        ({"queue": "q"}, {1}),
        ({"key": "k"}, {2}),
        ({"headers": {"h": 1}}, {3}),
        ({"headers": {"h": 1, "g": 2}}, set()),
        ({"sent_before": started}, set()),
        ({"sent_after": started, "where": lambda receipt: receipt.key == "k"}, {2}),
        ({"to": "billing", "queue": "default", "key": "k", "headers": {"g": 1}}, {2}),
        ({"sent_after": started, "sent_before": started + timedelta(hours=1)}, {0, 1, 2, 3, 4}),
        ({"all": True}, {0, 1, 2, 3, 4}),
        ({"all": True, "queue": "q"}, {1}),
    ]
    for given, wanted in filters:
        receipts = [
            shop.send("billing", 0),
            shop.send("billing", 1, queue="q"),
            shop.send("billing", 2, key="k", headers={"g": 1}),
            shop.send("billing", 3, headers={"h": 1}),
            shop.send("bank", 4),
        ]
        recalls = shop.recall_where(**given)
        assert {recall.verdict for recall in recalls} <= {Verdict.RECALLED}
        assert {n for n, receipt in enumerate(receipts) if receipt.outcome is Outcome.RECALLED} == wanted, given
        assert {recall.receipt.id for recall in recalls} == {receipts[n].id for n in wanted}
        shop.recall_where(all=True)
    for empty in ({}, {"headers": {}}, {"all": False}, {"timeout": 1}):
        with pytest.raises(ConfigError, match="all=True"):
            shop.recall_where(**empty)  # type: ignore[arg-type]
