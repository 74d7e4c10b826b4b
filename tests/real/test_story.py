"""The life of messages through the public API, over each transport."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from datetime import datetime, timedelta, timezone

import pytest

import zmqrel
from tests.real.net import LIMIT_S, SLACK_S, Got, Net, connected, in_time, is_empty, until
from zmqrel import Message, Outcome, Peer, Receipt, Retry, State, Verdict

QUICK = Retry.fixed(0.01)


def ended(receipt: Receipt) -> tuple[Outcome, str | None, int]:
    """What became of a message."""
    return receipt.wait(LIMIT_S), receipt.reason, receipt.attempts


def late_by_s(receipt: Receipt, ttl_s: float) -> float:
    """How long after its deadline a message got its outcome, by its sender's own times."""
    end = receipt._ended
    assert end is not None
    return (end.at_us - receipt._ticket.sent_at_us) / 1e6 - ttl_s


# ------------------------------------------------------------------------------------------------ one message


def test_a_message_is_handled_with_all_that_was_said_of_it(net: Net) -> None:
    shop, billing = net.pair()
    got = Got()
    billing.handler("invoices")(got)
    body = {"order": 42, "amount": "19.90", "lines": (1, 2.5, None, True, b"x")}
    before = datetime.now(timezone.utc)
    receipt = shop.send("billing", body, queue="invoices", key="order-42", headers={"n": 1, "s": "x"}, ttl=30)
    assert ended(receipt) == (Outcome.HANDLED, None, 1)
    receipt.result(0)
    message = got.next()
    assert message.body == {**body, "lines": [1, 2.5, None, True, b"x"]}
    assert (message.id, message.sender, message.queue, message.key) == (receipt.id, "shop", "invoices", "order-42")
    assert message.headers == {"n": 1, "s": "x"}
    assert (message.attempt, message.redelivered, message.withdrawn) == (1, False, False)
    assert (message.origin_id, message.cause) == (None, None)
    assert abs(message.sent_at - before) < timedelta(seconds=5)
    assert message.deadline is not None
    assert message.deadline.utcoffset() == timedelta(0)
    assert abs(message.deadline - message.sent_at - timedelta(seconds=30)) < timedelta(seconds=1)
    left_s = message.remaining()
    assert left_s is not None
    assert 0 < left_s <= 30.1
    assert (receipt.to, receipt.queue, receipt.key, receipt.state) == ("billing", "invoices", "order-42", State.SETTLED)
    assert is_empty(shop)
    assert is_empty(billing)


def test_states_come_in_order_and_waits_time_out(net: Net) -> None:
    shop = net.sender()
    receipt = shop.send("billing", 1, id="mine")
    assert (receipt.id, receipt.state, receipt.outcome, receipt.attempts) == ("mine", State.STORED, None, 0)
    receipt.wait_stored(0)
    for wait in (receipt.wait, receipt.wait_received, receipt.result):
        with pytest.raises(TimeoutError):
            wait(0.01)
    states = [receipt.state]
    billing = net.receiver().start()
    assert receipt.wait_received(LIMIT_S) is True
    states.append(receipt.state)
    with pytest.raises(TimeoutError):
        receipt.wait(0)
    got = Got()
    billing.handler()(got)
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert [*states, receipt.state] == [State.STORED, State.RECEIVED, State.SETTLED]
    assert receipt.wait_received(0) is True
    assert got.next().deadline is None
    assert "mine" in repr(receipt)


def test_received_is_false_of_a_message_that_ended_without(net: Net) -> None:
    receipt = net.sender().send("billing", 1, ttl=0.05)
    assert receipt.wait_received(LIMIT_S) is False
    assert receipt.outcome is Outcome.EXPIRED
    with pytest.raises(zmqrel.NotHandled) as raised:
        receipt.result(0)
    assert (raised.value.outcome, raised.value.reason) == (Outcome.EXPIRED, receipt.reason)


# ------------------------------------------------------------------------------------------ what handlers do


def test_reject_ends_it_with_the_reason(net: Net) -> None:
    shop, billing = net.pair()

    @billing.handler()
    def refuse(message: Message) -> None:
        raise zmqrel.Reject("no such order")

    assert ended(shop.send("billing", 1)) == (Outcome.REJECTED, "no such order", 1)
    assert billing.stats()["dead_messages"] == 1


@pytest.mark.parametrize("failure", [ValueError("odd"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_handler_raises_is_a_failed_attempt(net: Net, failure: BaseException) -> None:
    shop, billing = net.pair()
    attempts = []

    @billing.handler(retry=QUICK)
    def fail_twice(message: Message) -> None:
        attempts.append((message.attempt, message.redelivered))
        if message.attempt < 3:
            raise failure

    assert ended(shop.send("billing", 1)) == (Outcome.HANDLED, None, 3)
    assert attempts == [(1, False), (2, False), (3, False)]


def test_attempts_run_out(net: Net) -> None:
    shop, billing = net.pair()
    attempts = defaultdict(list)

    @billing.handler(retry=Retry.fixed(0.001, max_attempts=3))
    def fail(message: Message) -> None:
        attempts[message.body].append(message.attempt)
        raise ValueError("never")

    mine, theirs = shop.send("billing", "mine", max_attempts=2), shop.send("billing", "theirs", max_attempts=9)
    assert ended(mine) == (Outcome.EXHAUSTED, "ValueError: never", 2)
    assert ended(theirs) == (Outcome.EXHAUSTED, "ValueError: never", 3)
    assert attempts == {"mine": [1, 2], "theirs": [1, 2, 3]}
    assert billing.stats()["dead_messages"] == 2


def test_retry_later_waits_as_it_says_and_counts(net: Net) -> None:
    shop, billing = net.pair()
    times: list[datetime] = []

    @billing.handler(retry=Retry.fixed(500, max_attempts=3))
    def later(message: Message) -> None:
        times.append(datetime.now(timezone.utc))
        raise zmqrel.RetryLater(0.1)

    outcome, _, attempts = ended(shop.send("billing", 1))
    assert (outcome, attempts, len(times)) == (Outcome.EXHAUSTED, 3, 3)
    assert times[1] - times[0] >= timedelta(seconds=0.1)


def test_a_handler_may_settle_by_itself(net: Net) -> None:
    shop, billing = net.pair()
    seen = Got()

    @billing.handler(retry=QUICK)
    def settle(message: Message) -> None:
        seen(message)
        if message.body == "reject":
            message.reject("because")
        elif message.body == "retry" and message.attempt == 1:
            message.retry(delay=0.001, reason="not yet")
        elif message.body == "raise":
            message.ack()
            raise ValueError("too late")
        if not message.settled:
            message.ack()
        with pytest.raises(zmqrel.AlreadySettled):
            message.ack()

    assert ended(shop.send("billing", "reject")) == (Outcome.REJECTED, "because", 1)
    assert ended(shop.send("billing", "retry")) == (Outcome.HANDLED, None, 2)
    assert ended(shop.send("billing", "raise")) == (Outcome.HANDLED, None, 1)
    assert ended(shop.send("billing", "ack")) == (Outcome.HANDLED, None, 1)


# ---------------------------------------------------------------------------------------------------- receive


def test_receive_and_settle_by_hand(net: Net) -> None:
    shop, billing = net.pair()
    assert billing.receive(timeout=0) is None
    receipts = shop.send_many("billing", ["ack", "retry", "reject"])
    first = billing.receive(timeout=LIMIT_S)
    assert first is not None
    first.ack()
    second = billing.receive(timeout=LIMIT_S)
    assert second is not None
    second.retry(delay=0)
    third = billing.receive(timeout=LIMIT_S)
    assert third is not None
    third.reject("no")
    again = billing.receive(timeout=LIMIT_S)
    assert again is not None
    assert (again.body, again.attempt) == ("retry", 2)
    again.ack()
    for message in (first, second, third, again):
        for settle in (message.ack, message.retry, lambda m=message: m.reject("x"), lambda m=message: m.move("x")):
            with pytest.raises(zmqrel.AlreadySettled):
                settle()
    assert [ended(receipt) for receipt in receipts] == [
        (Outcome.HANDLED, None, 1),
        (Outcome.HANDLED, None, 2),
        (Outcome.REJECTED, "no", 1),
    ]


def test_with_a_message(net: Net) -> None:
    shop, billing = net.pair()
    receipt = shop.send("billing", 1)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    with pytest.raises(ZeroDivisionError), message:
        raise ZeroDivisionError
    with pytest.raises(zmqrel.AlreadySettled):
        message.ack()
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    with message:
        assert message.attempt == 2
    assert ended(receipt) == (Outcome.HANDLED, None, 2)


def test_with_a_message_reject_and_retry_later_do_what_they_do_in_a_handler(net: Net) -> None:
    shop, billing = net.pair()
    receipt = shop.send("billing", 1)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    with message:
        raise zmqrel.RetryLater(0)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    with message:
        assert message.attempt == 2
        raise zmqrel.Reject("not ours")
    assert ended(receipt) == (Outcome.REJECTED, "not ours", 2)


def test_with_a_settled_message_a_reject_that_comes_too_late_is_raised(net: Net) -> None:
    shop, billing = net.pair()
    receipt = shop.send("billing", 1)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    message.ack()
    with pytest.raises(zmqrel.Reject), message:
        raise zmqrel.Reject("too late")
    assert ended(receipt) == (Outcome.HANDLED, None, 1)


def test_messages_iterates_until_the_peer_closes(net: Net) -> None:
    shop, billing = net.pair()
    receipts = shop.send_many("billing", range(100), queue="q")
    bodies = []
    through = threading.Event()

    def consume() -> None:
        for message in billing.messages("q"):
            with message:
                bodies.append(message.body)
        through.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    billing.close()
    assert through.wait(LIMIT_S)
    thread.join()
    assert bodies == list(range(100))


def test_move_puts_it_into_another_queue(net: Net) -> None:
    shop, billing = net.pair()
    receipt = shop.send("billing", 1, queue="triage", key="k", id="it")
    message = billing.receive("triage", timeout=LIMIT_S)
    assert message is not None
    message.move("slow")
    with pytest.raises(zmqrel.AlreadySettled):
        message.ack()
    moved = billing.receive("slow", timeout=LIMIT_S)
    assert moved is not None
    assert (moved.id, moved.queue, moved.key, moved.attempt, moved.body) == ("it", "slow", "k", 1, 1)
    assert receipt.outcome is None
    moved.ack()
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert is_empty(billing)


# --------------------------------------------------------------------------------------------- order and keys


def test_one_worker_sees_the_order_of_sending(net: Net) -> None:
    shop, billing = net.pair()
    got = Got()
    billing.handler()(got)
    for start in range(0, 500, 100):
        shop.send_many("billing", range(start, start + 99))
        shop.send("billing", start + 99)
    assert got.next_bodies(500) == list(range(500))


def test_keys_are_handled_one_at_a_time_in_order_through_retries(net: Net) -> None:
    shop, billing = net.pair()
    lock = threading.Lock()
    active: set[str] = set()
    done: dict[str, list[int]] = defaultdict(list)
    wrong: list[str] = []

    @billing.handler(workers=4, retry=Retry.fixed(0.005))
    def work(message: Message) -> None:
        key = str(message.key)
        with lock:
            if key in active:
                wrong.append(f"two at a time of {key}")
            active.add(key)
        try:
            if message.body % 7 == 3 and message.attempt < 3:
                raise ValueError("again")
            with lock:
                done[key].append(message.body)
        finally:
            with lock:
                active.discard(key)

    receipts = [shop.send_nowait("billing", number, key=f"k{number % 5}") for number in range(200)]
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    assert not wrong
    assert dict(done) == {f"k{key}": list(range(key, 200, 5)) for key in range(5)}


def test_a_blocked_key_lets_the_others_go_on(net: Net) -> None:
    shop, billing = net.pair()
    release = threading.Event()
    order = []

    @billing.handler(workers=2, retry=Retry.fixed(0.01))
    def work(message: Message) -> None:
        if message.body == "a1" and message.attempt == 1:
            assert release.wait(LIMIT_S)
            raise ValueError("again")
        order.append(message.body)

    slow = [shop.send("billing", body, key="a") for body in ("a1", "a2")]
    others = [shop.send("billing", f"b{n}", key="b") for n in range(20)] + [shop.send("billing", "none")]
    assert {receipt.wait(LIMIT_S) for receipt in others} == {Outcome.HANDLED}
    assert [receipt.outcome for receipt in slow] == [None, None]
    release.set()
    assert [receipt.wait(LIMIT_S) for receipt in slow] == [Outcome.HANDLED] * 2
    assert order[-2:] == ["a1", "a2"]
    assert order[:20] == [f"b{n}" for n in range(20)] or set(order[:21]) == {*(f"b{n}" for n in range(20)), "none"}


def test_delayed_messages_come_when_they_are_due_and_block_nothing(net: Net) -> None:
    shop, billing = net.pair()
    connected(shop, billing)
    got = Got()
    billing.handler()(got)
    start = datetime.now(timezone.utc)
    third = shop.send("billing", "0.4", delay=0.4, key="k")
    second = shop.send("billing", "0.2", not_before=start + timedelta(seconds=0.2), key="k")
    first = shop.send("billing", "now", key="k")
    for receipt, least_s in ((first, 0.0), (second, 0.19), (third, 0.39)):
        assert receipt.wait(LIMIT_S) is Outcome.HANDLED
        assert datetime.now(timezone.utc) - start >= timedelta(seconds=least_s)
    assert got.next_bodies(3) == ["now", "0.2", "0.4"]


# ----------------------------------------------------------------------------------------------------- expiry


def test_expiry_of_what_never_left_is_prompt(net: Net) -> None:
    shop = net.sender()
    receipts = [shop.send("billing", n, ttl=0.05 + n / 100) for n in range(10)]
    by_deadline = shop.send("billing", 0, deadline=datetime.now(timezone.utc) + timedelta(seconds=0.1), ttl=60)
    for n, receipt in enumerate(receipts):
        assert ended(receipt) == (Outcome.EXPIRED, "deadline", 0)
        # The promise is 0.1 s on an idle machine, which this one need not be.
        assert 0 <= late_by_s(receipt, 0.05 + n / 100) < SLACK_S
    assert by_deadline.wait(LIMIT_S) is Outcome.EXPIRED
    assert is_empty(shop)
    billing = net.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    assert shop.send("billing", "live", ttl=60).wait(LIMIT_S) is Outcome.HANDLED
    assert got.rest() == ["live"]


@pytest.mark.parametrize("where", ["sender", "receiver"])
@pytest.mark.parametrize("on_expiry", ["drop", "dead", "queue:late"])
def test_on_expiry_at_whoever_judges_it(net: Net, where: str, on_expiry: str) -> None:
    shop = net.sender()
    billing = net.receiver()
    if where == "receiver":
        billing.start()
        connected(shop, billing)
    judge, other = (shop, billing) if where == "sender" else (billing, shop)

    def send(ttl_s: float) -> Receipt:
        return shop.send("billing", {"n": 1}, ttl=ttl_s, on_expiry=on_expiry, key="k", headers={"h": 1})

    if where == "receiver":
        *early, receipt = in_time(send, lambda receipt: receipt.wait_received(LIMIT_S))
    else:
        early, receipt = [], send(0.3)
    assert ended(receipt) == (Outcome.EXPIRED, "deadline", 0)
    assert judge.stats()["dead_messages"] == (on_expiry == "dead")
    if where == "receiver":
        assert other.stats()["dead_messages"] == (on_expiry == "dead") * len(early)
    assert judge.stats()["inbox_messages"] == (on_expiry == "queue:late")
    if on_expiry == "queue:late":
        late = judge.receive("late", timeout=LIMIT_S)
        assert late is not None
        assert (late.origin_id, late.cause, late.sender) == (receipt.id, "expired", judge.name)
        assert (late.body, late.key, late.headers, late.deadline) == ({"n": 1}, "k", {"h": 1}, None)
        assert late.id != receipt.id
        late.ack()
        until(lambda: is_empty(judge))


# -------------------------------------------------------------------------------------------------------- ids


def test_an_id_makes_sending_repeatable(net: Net) -> None:
    shop, billing = net.pair()
    got = Got()
    first = shop.send("billing", {"n": 1}, id="order-1", ttl=60)
    again = shop.send("billing", {"n": 1}, id="order-1", ttl=60)
    assert again.id == first.id == "order-1"
    for other in ({"body": {"n": 2}}, {"queue": "x"}, {"key": "x"}, {"ttl": 61}, {"headers": {"x": 1}}):
        arguments = {"body": {"n": 1}, "id": "order-1", "ttl": 60, **other}
        with pytest.raises(zmqrel.DuplicateId):
            shop.send("billing", **arguments)  # type: ignore[arg-type]
    billing.handler()(got)
    assert first.wait(LIMIT_S) is again.wait(LIMIT_S) is Outcome.HANDLED
    late = shop.send("billing", {"n": 1}, id="order-1", ttl=60)
    assert late.outcome is Outcome.HANDLED
    assert got.next_bodies(1) == [{"n": 1}]
    assert got.rest() == []


def test_ids_of_one_name_at_two_senders_do_not_meet(net: Net) -> None:
    hub = net.peer("hub", hears="one two")
    got = Got()
    hub.handler()(got)
    one, two = net.peer("one", "hub", bind=False), net.peer("two", "hub", bind=False)
    for peer in (hub, one, two):
        peer.start()
    receipts = [peer.send("hub", peer.name, id="same") for peer in (one, two)]
    assert [receipt.wait(LIMIT_S) for receipt in receipts] == [Outcome.HANDLED] * 2
    assert sorted(got.next_bodies(2)) == ["one", "two"]


def test_an_id_that_is_not_known(net: Net) -> None:
    shop = net.sender()
    for name in ("nothing", f"{1:016x}-1"):
        with pytest.raises(zmqrel.UnknownMessage):
            shop.receipt(name)
        with pytest.raises(zmqrel.UnknownMessage):
            shop.recall(name)


# ------------------------------------------------------------------------------------------------ many at once


def test_many_are_sent_without_waiting_for_their_commit(net: Net) -> None:
    shop, billing = net.sender(outbox_max_messages=300), net.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    stream = [shop.send_many_nowait("billing", range(start, start + 100), queue="default") for start in (0, 100, 200)]
    shop.flush(LIMIT_S)
    assert shop.stats()["accepted"] == 300
    assert [zmqrel.wait_all(receipts, LIMIT_S) for receipts in stream] == [[Outcome.HANDLED] * 100] * 3
    assert got.next_bodies(300) == list(range(300))
    assert shop.send_many_nowait("billing", []) == []


def test_many_sent_without_waiting_are_refused_together(net: Net) -> None:
    shop = net.sender(outbox_max_messages=5)
    with pytest.raises(zmqrel.NotSerializable, match=r"\$"):
        shop.send_many_nowait("billing", [1, 2, object()])
    refused = shop.send_many_nowait("billing", range(6))
    taken = shop.send_many_nowait("billing", range(5))
    with pytest.raises(zmqrel.OutboxFull):
        shop.flush(LIMIT_S)
    shop.flush(LIMIT_S)
    for call in (lambda: zmqrel.wait_all(refused, LIMIT_S), lambda: refused[5].wait(LIMIT_S)):
        with pytest.raises(zmqrel.OutboxFull):
            call()
    assert shop.stats()["outbox_messages"] == 5
    taken[0].wait_stored(LIMIT_S)


def test_send_many_takes_all_or_none(net: Net) -> None:
    shop = net.sender(outbox_max_messages=5)
    with pytest.raises(zmqrel.NotSerializable, match=r"\$"):
        shop.send_many("billing", [1, 2, object()])
    with pytest.raises(zmqrel.OutboxFull):
        shop.send_many("billing", range(6))
    assert is_empty(shop)
    receipts = shop.send_many("billing", range(5))
    assert len({receipt.id for receipt in receipts}) == 5
    assert shop.send_many("billing", []) == []
    for room_timeout in (0, 0.01):
        with pytest.raises(zmqrel.OutboxFull):
            shop.send("billing", 6, room_timeout=room_timeout)
    billing = net.receiver()
    got = Got()
    billing.handler()(got)
    waiting = threading.Thread(target=lambda: shop.send("billing", "at last", room_timeout=LIMIT_S))
    waiting.start()
    billing.start()
    waiting.join(LIMIT_S)
    assert got.next_bodies(6) == [0, 1, 2, 3, 4, "at last"]


def test_no_worker_idles_while_there_are_large_bodies_for_it(net: Net) -> None:
    """They are claimed a few at a time; the next claim is not to wait until a handler is through."""
    shop, billing = net.pair(heartbeat_s=300, liveness_s=1200)
    all_at_work = threading.Barrier(8)
    receipts = [shop.send("billing", bytes(1_900_000)) for _ in range(8)]
    assert receipts[-1].wait_received(LIMIT_S)

    @billing.handler(workers=8)
    def work(message: Message) -> None:
        all_at_work.wait(LIMIT_S)

    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}


def test_who_waits_for_room_is_woken_by_whatever_makes_some(net: Net) -> None:
    """Also if that was between the refusal and the waiting: each send would else last as long as its time-out."""
    shop, billing = net.pair(outbox_max_messages=1)
    got = Got()
    billing.handler(workers=2)(got)

    def send(base: int) -> None:
        for n in range(40):
            shop.send("billing", base + n, room_timeout=LIMIT_S)

    senders = [threading.Thread(target=send, args=(base,)) for base in (0, 100, 200)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(LIMIT_S)
    assert sorted(got.next_bodies(120)) == [base + n for base in (0, 100, 200) for n in range(40)]


def test_who_waited_in_vain_leaves_nothing_behind(net: Net) -> None:
    """A full outbox whose senders come again and again must not cost memory, or time in each turn."""
    shop = net.sender(outbox_max_messages=1)
    shop.send("billing", 0)
    for n in range(20):
        with pytest.raises(zmqrel.OutboxFull):
            shop.send("billing", n, room_timeout=0.001)
    shop.stats()  # asked behind all that was posted before
    loop = shop._loop
    assert loop is not None
    assert not loop._wanting_room
    report = shop.close(0.01, drain=True)
    assert report.unsettled == 1


def test_send_nowait_and_flush(net: Net) -> None:
    shop, billing = net.pair()
    got = Got()
    billing.handler()(got)
    receipts = [shop.send_nowait("billing", n, id=f"n{n}") for n in range(500)]
    assert receipts[0].state in State
    shop.flush(LIMIT_S)
    assert State.QUEUED not in {receipt.state for receipt in receipts}
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    assert got.next_bodies(500) == list(range(500))
    refused = shop.send_nowait("billing", "other", id="n1")
    with pytest.raises(zmqrel.DuplicateId):
        shop.flush(LIMIT_S)
    with pytest.raises(zmqrel.DuplicateId):
        refused.wait(LIMIT_S)
    shop.flush(0)


# ----------------------------------------------------------------------------------------------- after a restart


def test_receipts_after_a_restart(lasting: Net) -> None:
    shop, billing = lasting.pair()
    got = Got()
    billing.handler("quick")(got)
    named = shop.send("billing", 1, queue="quick", id="named", key="k")
    unnamed = shop.send("billing", 2, queue="quick")
    waiting = shop.send("billing", 3, queue="slow", id="waiting")
    assert named.wait(LIMIT_S) is unnamed.wait(LIMIT_S) is Outcome.HANDLED
    assert waiting.wait_received(LIMIT_S)
    report = shop.close()
    assert (report.unsent, report.unsettled, report.inbox) == (0, 1, 0)
    report = billing.close()
    assert (report.unsent, report.unsettled, report.inbox) == (0, 0, 1)
    shop = lasting.sender()
    for known in (shop.receipt("named"), shop.receipt(unnamed.id)):
        assert (known.outcome, known.attempts, known.state) == (Outcome.HANDLED, 1, State.SETTLED)
    assert (shop.receipt("named").key, shop.receipt("named").queue) == ("k", "quick")
    again = shop.receipt("waiting")
    assert (again.outcome, again.state) == (None, State.RECEIVED)
    billing = lasting.receiver()
    billing.handler("slow")(got)
    billing.start()
    assert again.wait(LIMIT_S) is Outcome.HANDLED
    assert got.next_bodies(3) == [1, 2, 3]
    assert shop.send("billing", 1, queue="quick", id="named", key="k").outcome is Outcome.HANDLED


def test_outcomes_are_forgotten_after_their_retention(net: Net) -> None:
    shop, billing = net.pair(outcome_retention_s=0.2)
    billing.handler()(Got())
    receipt = shop.send("billing", 1, id="short")
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED

    def forgotten() -> bool:
        try:
            shop.receipt("short")
        except zmqrel.UnknownMessage:
            return True
        return False

    until(forgotten)
    assert receipt.outcome is Outcome.HANDLED
    assert shop.send("billing", 2, id="short").wait(LIMIT_S) is Outcome.HANDLED


# ------------------------------------------------------------------------------------------------------ recalls


def test_recalls_and_their_verdicts(net: Net) -> None:
    shop = net.sender()
    receipt = shop.send("billing", 1, id="early")
    recall = shop.recall("early", timeout=LIMIT_S)
    assert (recall.verdict, recall.outcome, recall.handed_over_at) == (Verdict.RECALLED, Outcome.RECALLED, None)
    assert receipt.outcome is Outcome.RECALLED
    assert receipt.recall().verdict is Verdict.RECALLED
    billing = net.receiver()
    billing.handler("quick")(Got())
    billing.start()
    received = shop.send("billing", 2, queue="slow")
    assert received.wait_received(LIMIT_S)
    assert received.recall(timeout=LIMIT_S).verdict is Verdict.RECALLED
    handled = shop.send("billing", 3, queue="quick")
    handled.result(LIMIT_S)
    late = handled.recall()
    assert (late.verdict, late.refresh(), late.outcome) == (Verdict.TOO_LATE, Verdict.TOO_LATE, Outcome.HANDLED)
    assert late.handed_over_at is not None
    assert abs(late.handed_over_at - datetime.now(timezone.utc)) < timedelta(seconds=LIMIT_S)
    assert is_empty(shop)
    assert is_empty(billing)


def test_recall_where(net: Net) -> None:
    shop = net.sender()
    shop.connect("other", net.endpoint("other"))

    def send(to: str, queue: str, key: str, n: int) -> Receipt:
        return shop.send(to, n, queue=queue, key=key, headers={"n": n})

    receipts = [
        send(to, queue, key, n)
        for n, (to, queue, key) in enumerate(
            (to, queue, key) for to in ("billing", "other") for queue in ("a", "b") for key in ("k", "l", "m")
        )
    ]

    def recalled(**filters: object) -> list[int]:
        recalls = shop.recall_where(timeout=LIMIT_S, **filters)  # type: ignore[arg-type]
        assert all(recall.verdict is Verdict.RECALLED for recall in recalls)
        return sorted(receipts.index(next(r for r in receipts if r.id == recall.receipt.id)) for recall in recalls)

    with pytest.raises(zmqrel.ConfigError):
        shop.recall_where()
    assert recalled(to="other", queue="b", key="m") == [11]
    assert recalled(to="other", queue="b", key="m") == []
    assert recalled(key="m") == [2, 5, 8]
    assert recalled(headers={"n": 1}) == [1]
    assert recalled(to="other", queue="b") == [9, 10]
    assert recalled(where=lambda receipt: receipt.key == "k" and receipt.to == "billing") == [0, 3]
    assert recalled(sent_before=datetime.now(timezone.utc) - timedelta(hours=1)) == []
    assert recalled(sent_after=datetime.now(timezone.utc) - timedelta(hours=1), queue="b") == [4]
    assert recalled(all=True) == [6, 7]
    assert is_empty(shop)


# ------------------------------------------------------------------------------------------------------- links


def test_connect_and_disconnect_while_running(net: Net) -> None:
    shop = net.peer("shop").start()
    billing = net.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    with pytest.raises(zmqrel.UnknownPeer):
        shop.send("billing", 0)
    with pytest.raises(zmqrel.UnknownPeer):
        shop.disconnect("billing")
    shop.connect("billing", net.endpoint("billing"))
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
    shop.connect("billing", net.endpoint("billing"))
    assert shop.send("billing", 2).wait(LIMIT_S) is Outcome.HANDLED
    shop.disconnect("billing")
    with pytest.raises(zmqrel.UnknownPeer):
        shop.send("billing", 3)
    until(lambda: not shop.stats()["peers_connected"])
    until(lambda: not billing.stats()["peers_connected"])
    back = billing.send("shop", "waits")
    shop.connect("billing", net.endpoint("billing"))
    shop.handler()(got)
    assert back.wait(LIMIT_S) is Outcome.HANDLED
    assert got.next_bodies(3) == [1, 2, "waits"]


def test_what_waits_survives_a_disconnect(net: Net) -> None:
    shop = net.sender()
    receipt = shop.send("billing", 1)
    shop.disconnect("billing")
    billing = net.receiver()
    billing.handler()(Got())
    billing.start()
    assert receipt.state is State.STORED
    shop.connect("billing", net.endpoint("billing"))
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED


def test_a_peer_that_binds_nothing_is_reached_over_its_own_link(net: Net) -> None:
    hub = net.peer("hub", hears="leaf").start()
    leaf = net.peer("leaf", "hub", bind=False)
    got = Got()
    leaf.handler(workers=2)(got)
    hub.handler()(got)
    leaf.start()
    receipts = hub.send_many("leaf", range(50)) + leaf.send_many("hub", range(50))
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    assert leaf.endpoints == []
    assert sorted(got.next_bodies(100)) == sorted([*range(50), *range(50)])


def test_both_may_dial_each_other(net: Net) -> None:
    peers = net.peer("one", "two"), net.peer("two", "one")
    got = Got()
    for peer in peers:
        peer.handler()(got)
        peer.start()
    receipts = [
        receipt
        for n in range(10)
        for sender, to in (peers, peers[::-1])
        for receipt in sender.send_many(to.name, range(n, n + 10))
    ]
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    assert len(got.next_bodies(200)) == 200
    assert got.rest() == []
    assert all(is_empty(peer) for peer in peers)


def test_accept_any(net: Net) -> None:
    hub = net.peer("hub", accept="any").start()
    hub.handler()(Got())
    stranger = net.peer("stranger", "hub", bind=False).start()
    got = Got()
    stranger.handler()(got)
    assert stranger.send("hub", 1).wait(LIMIT_S) is Outcome.HANDLED
    assert hub.send("stranger", 2).wait(LIMIT_S) is Outcome.HANDLED
    assert got.next_bodies(1) == [2]


def test_a_peer_that_is_not_listed_is_refused(net: Net) -> None:
    hub = net.peer("hub", hears="friend").start()
    net.peer("stranger", "hub", bind=False).start()
    net.log.wait("peer hub", "refused", "stranger")
    assert hub.stats()["refused"] >= 1
    with pytest.raises(zmqrel.UnknownPeer):
        hub.send("stranger", 1)


# ------------------------------------------------------------------------------------------------ end of a life


def test_stats_can_be_written_as_json(net: Net) -> None:
    shop, billing = net.pair()
    billing.handler()(Got())
    assert {r.wait(LIMIT_S) for r in shop.send_many("billing", range(10))} == {Outcome.HANDLED}
    stats = json.loads(json.dumps(shop.stats()))
    assert (stats["accepted"], stats["settled"], stats["outcome_handled"]) == (10, 10, 10)
    assert json.loads(json.dumps(billing.stats()))["handled"] == 10
    shop.close()
    assert shop.stats()["accepted"] == 10


def test_close_tells_what_stays(net: Net) -> None:
    shop = net.sender()
    shop.send_many("billing", range(3))
    report = shop.close(drain=True, timeout=0.05)
    assert (report.unsent, report.unsettled, report.inbox) == (3, 3, 0)
    assert shop.close() == report


def test_close_with_drain_waits_for_outcomes(net: Net) -> None:
    shop, billing = net.pair()
    got = Got()
    billing.handler()(got)
    shop.send_many("billing", range(300))
    report = shop.close(timeout=LIMIT_S, drain=True)
    assert (report.unsent, report.unsettled) == (0, 0)
    assert got.next_bodies(300) == list(range(300))


def test_close_lets_running_handlers_finish(net: Net) -> None:
    shop, billing = net.pair()
    started, finish = threading.Event(), threading.Event()

    @billing.handler()
    def work(message: Message) -> None:
        started.set()
        assert finish.wait(LIMIT_S)

    receipt = shop.send("billing", 1)
    rest = shop.send_many("billing", range(10))
    assert started.wait(LIMIT_S)
    assert rest[-1].wait_received(LIMIT_S)
    threading.Timer(0.05, finish.set).start()
    report = billing.close(LIMIT_S)
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert report.inbox == 10


def test_what_a_handler_still_has_at_the_end_is_redelivered(lasting: Net) -> None:
    shop, billing = lasting.pair()
    started, finish = threading.Event(), threading.Event()

    @billing.handler(workers=2)
    def work(message: Message) -> None:
        started.set()
        assert finish.wait(LIMIT_S)

    receipt = shop.send("billing", 1)
    assert started.wait(LIMIT_S)
    assert billing.close(0).inbox == 1
    finish.set()
    billing = lasting.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    assert ended(receipt) == (Outcome.HANDLED, None, 2)
    message = got.next()
    assert (message.attempt, message.redelivered) == (2, True)


def test_nothing_can_be_asked_of_a_closed_peer(net: Net) -> None:
    shop = net.sender()
    receipt = shop.send("billing", 1)
    shop.close()
    for call in (
        lambda: shop.send("billing", 1),
        lambda: shop.send_nowait("billing", 1),
        lambda: shop.send_many("billing", [1]),
        lambda: shop.receipt(receipt.id),
        lambda: shop.recall(receipt),
        lambda: shop.recall_where(all=True),
        lambda: shop.receive(timeout=0),
        lambda: shop.connect("x", "tcp://127.0.0.1:9"),
        lambda: shop.disconnect("billing"),
        lambda: shop.endpoints,
    ):
        with pytest.raises(zmqrel.PeerClosed):
            call()
    with pytest.raises(zmqrel.ConfigError):
        shop.start()
    assert isinstance(shop.stats(), dict)
    unstarted = Peer("x", net.store("x"))
    with pytest.raises(zmqrel.PeerClosed):
        unstarted.send("y", 1)
    assert unstarted.close().unsettled == 0


def test_what_is_larger_than_its_receiver_takes_is_exhausted(net: Net) -> None:
    billing = net.receiver(max_body_bytes=5_000_000)
    billing.handler()(Got())
    billing.start()
    shop = net.sender()
    assert shop.send("billing", b"x" * 4_000_000).wait(LIMIT_S) is Outcome.HANDLED
    outcome, reason, attempts = ended(shop.send("billing", b"x" * 8_000_000))
    assert (outcome, attempts) == (Outcome.EXHAUSTED, 0)
    assert "bytes" in str(reason)
    assert shop.send("billing", "small").wait(LIMIT_S) is Outcome.HANDLED


def test_a_repeated_send_nowait_learns_the_outcome(net: Net) -> None:
    shop, billing = net.pair()
    billing.handler()(Got())
    first = shop.send_nowait("billing", 1, id="it")
    second = shop.send_nowait("billing", 1, id="it")
    assert first.wait(LIMIT_S) is second.wait(LIMIT_S) is Outcome.HANDLED
    assert shop.send_nowait("billing", 1, id="it").wait(LIMIT_S) is Outcome.HANDLED
    shop.flush(LIMIT_S)
    assert shop.stats()["accepted"] == 1


def test_send_nowait_waits_for_room_in_order_and_is_refused_when_its_time_is_over(net: Net) -> None:
    shop, billing = net.pair(outbox_max_messages=2)
    shop.send_many("billing", ["a", "b"])
    late = [shop.send_nowait("billing", n, room_timeout=LIMIT_S) for n in range(5)]
    never = shop.send_nowait("billing", "never", room_timeout=0.05)
    at_once = shop.send_nowait("billing", "at once")
    with pytest.raises(zmqrel.OutboxFull):
        at_once.wait(LIMIT_S)
    with pytest.raises(zmqrel.OutboxFull):
        never.wait(LIMIT_S)
    with pytest.raises(TimeoutError):
        shop.flush(0.01)
    assert {receipt.state for receipt in late} == {zmqrel.State.QUEUED}
    got = Got()
    billing.handler()(got)
    assert {receipt.wait(LIMIT_S) for receipt in late} == {Outcome.HANDLED}
    assert got.next_bodies(7) == ["a", "b", 0, 1, 2, 3, 4]
    for _ in range(2):
        with pytest.raises(zmqrel.OutboxFull):
            shop.flush(LIMIT_S)
    shop.flush(LIMIT_S)


@pytest.mark.parametrize("call", ["send", "send_nowait", "send_many", "send_many_nowait", "recall_where"])
def test_an_unknown_keyword_is_a_type_error_everywhere(call: str) -> None:
    with zmqrel.Peer("shop", zmqrel.MEMORY, peers={"billing": None}) as shop:
        arguments = () if call == "recall_where" else ("billing", [1])
        with pytest.raises(TypeError, match="quue"):
            getattr(shop, call)(*arguments, quue="a")
    with pytest.raises(TypeError, match="quue") as refused:
        zmqrel.Peer("shop", zmqrel.MEMORY, quue="a")
    assert isinstance(refused.value, zmqrel.ConfigError)
