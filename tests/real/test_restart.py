"""Peers that come back: after a pause, with another clock, after a crash in a handler, and with a store that is not
the one they left with."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import zmqrel
from tests.real.net import LIMIT_S, SLACK_S, Got, Net, connected, is_empty, until
from tests.real.processes import Nursery
from zmqrel import Outcome, Peer, Receipt


def ended_at_s(receipt: Receipt) -> float:
    """When a message got its outcome, in seconds after it was sent, by its sender's clock."""
    end = receipt._ended
    assert end is not None
    return (end.at_us - receipt._ticket.sent_at_us) / 1e6


# ------------------------------------------------------------------------------------------------------- restarts


def test_the_receiver_is_down_while_the_sender_restarts(lasting: Net) -> None:
    shop = lasting.sender()
    for n in range(20):
        shop.send("billing", f"live {n}", id=f"live {n}")
    for n in range(5):
        shop.send("billing", f"past {n}", id=f"past {n}", ttl=0.01)
        shop.send("billing", f"short {n}", id=f"short {n}", ttl=0.4 + n / 100)
    shop.close()
    shop = lasting.sender()
    for n in range(5):
        assert shop.receipt(f"past {n}").wait(LIMIT_S) is Outcome.EXPIRED
    receipts = [shop.receipt(f"short {n}") for n in range(5)]
    for n, receipt in enumerate(receipts):
        assert receipt.wait(LIMIT_S) is Outcome.EXPIRED
        if receipt._ticket.sent_at_us:
            assert 0 <= ended_at_s(receipt) - (0.4 + n / 100) < SLACK_S
    billing = lasting.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    assert {shop.receipt(f"live {n}").wait(LIMIT_S) for n in range(20)} == {Outcome.HANDLED}
    assert got.rest() == [f"live {n}" for n in range(20)]
    assert is_empty(shop)
    assert is_empty(billing)


def test_both_restart_many_times(lasting: Net) -> None:
    """Each life of either does a part; nothing is done twice."""
    shop = lasting.sender()
    ids = [shop.send("billing", n, id=f"m{n}", key=f"k{n % 3}").id for n in range(30)]
    got = Got()
    for turn in range(4):
        shop.close()
        billing = lasting.receiver()
        billing.handler()(got)
        billing.start()
        shop = lasting.sender()
        ids += [shop.send("billing", n, id=f"m{n}", key=f"k{n % 3}").id for n in range(30 + turn * 5, 35 + turn * 5)]
        assert shop.receipt(ids[turn * 7]).wait(LIMIT_S) is Outcome.HANDLED
        billing.close()
    billing = lasting.receiver()
    billing.handler()(got)
    billing.start()
    assert {shop.receipt(name).wait(LIMIT_S) for name in ids} == {Outcome.HANDLED}
    assert sorted(got.rest()) == list(range(50))


# --------------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
def test_deadlines_between_clocks_an_hour_apart(local: Net, ahead_s: float) -> None:
    shop = local.sender(wall_clock=lambda: time.time() + ahead_s)
    billing = local.receiver().start()
    connected(shop, billing)
    short = shop.send("billing", "short", queue="none", ttl=0.3)
    assert short.wait(LIMIT_S) is Outcome.EXPIRED
    assert -0.1 < ended_at_s(short) - 0.3 < SLACK_S
    got = Got()
    billing.handler()(got)
    before = datetime.now(timezone.utc)
    assert shop.send("billing", "long", ttl=60).wait(LIMIT_S) is Outcome.HANDLED
    message = got.next()
    left_s = message.remaining()
    assert left_s is not None
    assert 60 - SLACK_S < left_s < 60.1
    assert abs(message.sent_at - before) < timedelta(seconds=SLACK_S)
    recall = shop.recall(shop.send("billing", "x"), timeout=LIMIT_S)
    until(lambda: recall.outcome)
    if recall.handed_over_at is not None:
        # Each peer shows times by its own wall clock.
        assert abs(recall.handed_over_at - datetime.now(timezone.utc) - timedelta(seconds=ahead_s)) < timedelta(
            minutes=5
        )


def test_a_step_of_the_wall_clock_changes_nothing_that_runs(local: Net) -> None:
    step_s = 0.0
    shop = local.sender(wall_clock=lambda: time.time() + step_s)
    short, long = shop.send("billing", 1, ttl=0.3), shop.send("billing", 2, ttl=60)
    step_s = 7200.0
    assert short.wait(LIMIT_S) is Outcome.EXPIRED
    assert 0 <= ended_at_s(short) - 0.3 < SLACK_S
    billing = local.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    assert long.wait(LIMIT_S) is Outcome.HANDLED
    assert got.rest() == [2]


# -------------------------------------------------------------------------------------------- crashes in a handler


@pytest.mark.parametrize("by", ["exit", "kill"])
def test_a_message_that_kills_its_process_is_found(local: Net, by: str) -> None:
    shop = local.sender()
    receipts: dict[str, Receipt] = {}
    for n in range(51):
        body = "poison" if n == 25 else f"m{n}"
        receipts[body] = shop.send("billing", body, id=body)
    options = {"store": local.store("billing"), "bind": local.endpoint("billing"), "peers": {"shop": None}}
    deliveries: list[tuple[str, int, bool]] = []
    with Nursery() as nursery:
        lives = 0
        while receipts["poison"].outcome is None:
            lives += 1
            assert lives <= 10, deliveries
            child = nursery.start("poisoned_sink", options=options, by=by)
            while "ended" not in (said := child.hear()):
                if "delivery" in said:
                    deliveries.append(tuple(said["delivery"]))
                if [name for name, _, _ in deliveries].count("poison") >= 3 and "ready" in said:
                    break
            else:
                assert child.join() == (9 if by == "exit" else -9)
                continue
            outcomes = {body: receipt.wait(LIMIT_S) for body, receipt in receipts.items()}
            assert child.ask("close") == [0, 0, 0]
        assert outcomes.pop("poison") is Outcome.EXHAUSTED
        assert (receipts["poison"].reason, receipts["poison"].attempts) == ("crash", 3)
        assert set(outcomes.values()) == {Outcome.HANDLED}
    attempts: Counter[str] = Counter()
    for name, attempt, redelivered in deliveries:
        assert redelivered == (attempts[name] > 0) or redelivered
        attempts[name] += 1
        assert attempt >= attempts[name]
    assert attempts["poison"] == 3


# ------------------------------------------------------------------------------------------- stores lost and found


def keep_copy(net: Net, name: str) -> Path:
    """Copy a store that is closed."""
    copy = Path(f"{net.store(name)}.old")
    shutil.copytree(net.store(name), copy)
    return copy


def put_back(net: Net, name: str, copy: Path) -> None:
    """An operator restores a backup."""
    shutil.rmtree(net.store(name))
    copy.rename(net.store(name))


def handling(net: Net, *queues: str, **options: Any) -> tuple[Peer, Got]:
    """ "billing", started, with one handler for these queues."""
    billing = net.receiver(**options)
    got = Got()
    for queue in queues:
        billing.handler(queue)(got)
    return billing.start(), got


def test_the_senders_store_is_gone(lasting: Net) -> None:
    shop, billing = lasting.pair()
    old = [shop.send("billing", f"old {n}", id=f"old {n}") for n in range(5)]
    assert old[-1].wait_received(LIMIT_S)
    shop.close()
    shutil.rmtree(lasting.store("shop"))
    shop = lasting.sender()
    with pytest.raises(zmqrel.UnknownMessage):
        shop.receipt("old 0")
    got = Got()
    new = [shop.send("billing", f"new {n}") for n in range(5)]
    lasting.log.wait("peer billing", "peer_store_gone", "shop")
    billing.handler()(got)
    assert {receipt.wait(LIMIT_S) for receipt in new} == {Outcome.HANDLED}
    assert sorted(got.next_bodies(10)) == [f"{age} {n}" for age in ("new", "old") for n in range(5)]
    assert billing.stats()["peer_store_gone"] == 1
    until(lambda: is_empty(billing))
    assert is_empty(shop)
    assert billing.send("shop", "back").wait_received(LIMIT_S)


def test_the_receivers_store_is_gone(lasting: Net) -> None:
    shop = lasting.sender()
    billing, got = handling(lasting, "quick")
    done = [shop.send("billing", f"done {n}", queue="quick") for n in range(5)]
    assert {receipt.wait(LIMIT_S) for receipt in done} == {Outcome.HANDLED}
    received = [shop.send("billing", f"received {n}", queue="slow", key="k") for n in range(5)]
    assert received[-1].wait_received(LIMIT_S)
    recalled = shop.send("billing", "recalled", queue="slow")
    assert recalled.wait_received(LIMIT_S)
    billing.close()
    until(lambda: not shop.stats()["peers_connected"])
    shutil.rmtree(lasting.store("billing"))
    fresh = [shop.send("billing", f"fresh {n}", queue="slow", key="k") for n in range(5)]
    recall = recalled.recall()
    billing, got = handling(lasting, "quick", "slow")
    assert {receipt.wait(LIMIT_S) for receipt in received + fresh} == {Outcome.HANDLED}
    messages = [got.next() for _ in range(10)]
    assert [message.body for message in messages] == [f"{what} {n}" for what in ("received", "fresh") for n in range(5)]
    assert [message.redelivered for message in messages] == [True] * 5 + [False] * 5
    assert recall.wait(LIMIT_S) is zmqrel.Verdict.UNCERTAIN
    assert shop.stats()["peer_store_gone"] == 1
    lasting.log.wait("peer shop", "peer_store_gone", "billing", "6 messages are at risk")
    assert is_empty(shop)
    assert is_empty(billing)


def test_the_receivers_store_is_gone_and_nothing_is_to_be_sent_again(lasting: Net) -> None:
    shop = lasting.sender(on_store_loss="uncertain")
    billing, got = handling(lasting)
    received = shop.send_many("billing", range(5))
    assert received[-1].wait_received(LIMIT_S)
    billing.close()
    until(lambda: not shop.stats()["peers_connected"])
    shutil.rmtree(lasting.store("billing"))
    fresh = shop.send("billing", "fresh")
    billing, got = handling(lasting, "default")
    assert fresh.wait(LIMIT_S) is Outcome.HANDLED
    assert {receipt.wait(LIMIT_S) for receipt in received} == {Outcome.UNCERTAIN}
    assert {receipt.reason for receipt in received} == {"store lost"}
    assert got.rest() == ["fresh"]
    assert is_empty(shop)


@pytest.mark.parametrize("contact", ["at once", "after sends"])
def test_an_old_copy_of_the_senders_store(lasting: Net, contact: str) -> None:
    """The lost life had sent two messages that were handled and two that wait; its successor accepts two more."""
    shop = lasting.sender()
    billing, got = handling(lasting, "quick")
    shop.send("billing", "before", queue="quick").result(LIMIT_S)
    pending = shop.send("billing", "pending", queue="slow", id="pending")
    assert pending.wait_received(LIMIT_S)
    shop.close()
    copy = keep_copy(lasting, "shop")
    shop = lasting.sender()
    for n in range(2):
        shop.send("billing", f"lost {n}", queue="quick", id=f"lost {n}").result(LIMIT_S)
    waiting = [shop.send("billing", f"waiting {n}", queue="slow") for n in range(2)]
    assert waiting[-1].wait_received(LIMIT_S)
    shop.close()
    if contact == "after sends":
        billing.close()
    assert got.next_bodies(3) == ["before", "lost 0", "lost 1"]
    put_back(lasting, "shop", copy)
    shop = lasting.sender()
    if contact == "at once":
        connected(shop, billing)
    late = [shop.send("billing", f"late {queue}", queue=queue) for queue in ("quick", "slow")]
    if contact == "after sends":
        billing, got = handling(lasting, "quick")
    assert late[0].wait(LIMIT_S) is Outcome.HANDLED
    billing.handler("slow")(got)
    assert late[1].wait(LIMIT_S) is Outcome.HANDLED
    assert shop.receipt("pending").wait(LIMIT_S) is Outcome.HANDLED
    lasting.log.wait("peer shop", "old_copy", "billing")
    assert shop.stats()["old_copy"] == 1
    messages = [got.next() for _ in range(5)]
    assert sorted(message.body for message in messages) == [
        "late quick",
        "late slow",
        "pending",
        "waiting 0",
        "waiting 1",
    ]
    assert {message.redelivered for message in messages if message.body.startswith(("pending", "waiting"))} == {True}
    until(lambda: is_empty(billing))
    assert is_empty(shop)
    shop.send("billing", "after", queue="quick").result(LIMIT_S)
    assert got.next().body == "after"
    assert got.rest() == []
    with pytest.raises(zmqrel.UnknownMessage):
        shop.receipt("lost 0")


def test_an_old_copy_of_the_senders_store_does_not_know_what_ended(lasting: Net) -> None:
    shop = lasting.sender()
    billing, got = handling(lasting)
    pending = [shop.send("billing", f"pending {n}", id=f"pending {n}") for n in range(3)]
    assert pending[-1].wait_received(LIMIT_S)
    shop.close()
    copy = keep_copy(lasting, "shop")
    shop = lasting.sender()
    billing.handler()(got)
    assert {shop.receipt(f"pending {n}").wait(LIMIT_S) for n in range(3)} == {Outcome.HANDLED}
    shop.close()
    put_back(lasting, "shop", copy)
    shop = lasting.sender()
    # Whoever may still know tells it, and nobody has to know: an outcome that was told is not kept for an old copy.
    assert {shop.receipt(f"pending {n}").wait(LIMIT_S) for n in range(3)} <= {Outcome.HANDLED, Outcome.UNCERTAIN}
    assert len(got.rest()) == 3
    assert shop.send("billing", "after").wait(LIMIT_S) is Outcome.HANDLED
    assert is_empty(shop)


def test_an_old_copy_of_the_receivers_store(lasting: Net) -> None:
    """The lost life had handled one message that the copy still holds, and received two that it does not."""
    shop = lasting.sender()
    billing, got = handling(lasting)
    first = shop.send("billing", "first")
    assert first.wait_received(LIMIT_S)
    billing.close()
    copy = keep_copy(lasting, "billing")
    billing, got = handling(lasting, "default")
    second = shop.send("billing", "second")
    assert first.wait(LIMIT_S) is second.wait(LIMIT_S) is Outcome.HANDLED
    third = shop.send("billing", "third", queue="slow")
    assert third.wait_received(LIMIT_S)
    billing.close()
    assert got.next_bodies(2) == ["first", "second"]
    until(lambda: not shop.stats()["peers_connected"])
    put_back(lasting, "billing", copy)
    before = shop.send("billing", "before contact")
    billing, got = handling(lasting, "slow")
    assert third.wait(LIMIT_S) is Outcome.HANDLED
    # Not earlier: nobody can know that "first" was handled before there was contact.
    billing.handler()(got)
    assert before.wait(LIMIT_S) is Outcome.HANDLED
    assert shop.send("billing", "after").wait(LIMIT_S) is Outcome.HANDLED
    messages = {message.body: message.redelivered for message in (got.next() for _ in range(3))}
    assert messages == {"third": True, "before contact": False, "after": False}
    assert got.rest() == []
    lasting.log.wait("old_copy")
    assert billing.stats().get("old_copy", 0) + shop.stats().get("peer_old_copy", 0) >= 1
    until(lambda: is_empty(billing))
    assert is_empty(shop)


def test_both_stores_are_old_copies(lasting: Net) -> None:
    shop = lasting.sender()
    billing, got = handling(lasting, "default")
    shop.send("billing", "first").result(LIMIT_S)
    shop.close()
    billing.close()
    copies = {name: keep_copy(lasting, name) for name in ("shop", "billing")}
    shop = lasting.sender()
    billing, got = handling(lasting, "default")
    shop.send("billing", "second").result(LIMIT_S)
    shop.close()
    billing.close()
    for name, copy in copies.items():
        put_back(lasting, name, copy)
    shop = lasting.sender()
    billing, got = handling(lasting, "default")
    shop.send("billing", "third").result(LIMIT_S)
    assert got.next().body == "third"
    assert is_empty(shop)
    assert is_empty(billing)


def test_a_peer_in_memory_comes_back_with_nothing() -> None:
    with Net("memory") as net:
        shop = net.sender()
        billing, got = handling(net)
        receipt = shop.send("billing", 1)
        assert receipt.wait_received(LIMIT_S)
        billing.close()
        billing, got = handling(net, "default")
        assert receipt.wait(LIMIT_S) is Outcome.HANDLED
        assert got.next().redelivered
        assert shop.stats()["peer_store_gone"] == 1


def test_a_killed_peer_that_lost_its_store_has_its_name_back_at_once(local: Net) -> None:
    """Its closed connection says that it is gone: the name need not be kept for `liveness_s`, here ten minutes."""
    billing, got = handling(local, "default", liveness_s=600, heartbeat_s=300)
    options = {"store": local.store("shop"), "peers": {"billing": local.endpoint("billing")}}
    with Nursery() as nursery:
        for life in range(2):
            child = nursery.start("stream_source", options=options)
            child.expect("ready")
            child.ask("send", first=life, last=life)
            assert got.next().body == life
            child.kill()
            shutil.rmtree(local.store("shop"), ignore_errors=True)
    assert billing.stats()["peer_store_gone"] == 1
