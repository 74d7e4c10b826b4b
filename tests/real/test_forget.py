"""Forgetting a peer that will not return."""

from __future__ import annotations

from typing import Any

import pytest

import zmqrel
from tests.real.net import LIMIT_S, Net, connected, until
from zmqrel import ConfigError, Outcome, PeerClosed, UnknownMessage, UnknownPeer


def test_what_waits_for_a_peer_that_never_came_is_recalled(swift: Net) -> None:
    shop = swift.sender()
    receipts = [*shop.send_many("billing", range(3)), shop.send("billing", "late", delay=3600, id="mine")]
    told = []
    receipts[0].add_done_callback(told.append)
    assert shop.forget("billing") == 4
    assert zmqrel.wait_all(receipts, LIMIT_S) == [Outcome.RECALLED] * 4
    assert {receipt.reason for receipt in receipts} == {"forgotten"}
    until(lambda: told)
    assert list(shop.outbox()) == []
    assert shop.receipt("mine").outcome is Outcome.RECALLED
    for call in (lambda: shop.send("billing", 1), lambda: shop.forget("billing")):
        with pytest.raises(UnknownPeer, match="billing"):
            call()


def test_what_a_peer_may_have_is_uncertain(swift: Net) -> None:
    shop, billing = swift.pair()
    receipt = shop.send("billing", 1)
    assert receipt.wait_received(LIMIT_S)
    billing.close()
    waiting = shop.send("billing", 2)
    assert shop.forget("billing") == 2
    assert receipt.wait(LIMIT_S) is Outcome.UNCERTAIN
    assert waiting.wait(LIMIT_S) in (Outcome.RECALLED, Outcome.UNCERTAIN)
    assert receipt.history[-1][1:] == ("settled", "UNCERTAIN: forgotten")


def test_a_connected_peer_is_refused_from_then_on(swift: Net) -> None:
    shop, billing = swift.pair()
    connected(shop, billing)
    assert billing.forget("shop") == 0
    assert billing.stats()["peers_connected"] == 0
    swift.log.wait("peer billing", "refused", "shop")
    assert billing.stats()["peers_connected"] == 0


def test_what_came_from_it_is_handled_also_after_a_restart(local: Net) -> None:
    billing = local.receiver().start()
    shop = local.sender()
    receipts = shop.send_many("billing", range(4), ttl=3600)
    assert receipts[-1].wait_received(LIMIT_S)
    assert billing.forget("shop") == 0
    assert [message.body for message in billing.inbox()] == list(range(4))
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    assert (message.body, message.sender) == (0, "shop")
    message.ack()
    billing.close()
    billing = local.peer("billing").start()
    for n in range(1, 4):
        message = billing.receive(timeout=LIMIT_S)
        assert message is not None
        assert message.body == n
        message.ack()
    until(lambda: not billing.stats()["inbox_messages"])
    with pytest.raises(UnknownPeer):
        billing.forget("shop")


def test_a_peer_that_is_no_longer_listed_is_forgotten(local: Net) -> None:
    shop = local.sender()
    receipt = shop.send("billing", 1, id="mine")
    shop.close()
    shop = local.peer("shop").start()
    with pytest.raises(UnknownPeer):
        shop.send("billing", 2)
    assert shop.forget("billing") == 1
    assert shop.receipt(receipt.id).outcome is Outcome.RECALLED
    shop.close()
    shop = local.sender(outcome_retention_s=0)
    with pytest.raises(UnknownMessage):
        until(lambda: shop.receipt("mine") is None)


def test_it_may_be_connected_anew(swift: Net) -> None:
    shop, billing = swift.pair()
    connected(shop, billing)
    shop.send("billing", "before").wait_received(LIMIT_S)
    assert shop.forget("billing") == 1
    shop.connect("billing", swift.endpoint("billing"))
    receipt = shop.send("billing", "after")
    bodies = []
    while "after" not in bodies:
        message = billing.receive(timeout=LIMIT_S)
        assert message is not None
        bodies.append(message.body)
        message.ack()
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert bodies == ["before", "after"]


def test_many_messages_end_in_parts(swift: Net) -> None:
    shop = swift.sender()
    receipts = shop.send_many("billing", range(5000))
    assert shop.forget("billing") == 5000
    assert receipts[-1].wait(LIMIT_S) is Outcome.RECALLED
    assert shop.stats()["outcome_recalled"] == 5000


@pytest.mark.parametrize("bad", [None, 1, "", "a b", "x" * 65, b"billing"])
def test_what_forget_takes(swift: Net, bad: Any) -> None:
    shop = swift.sender()
    with pytest.raises(ConfigError, match="^name takes"):
        shop.forget(bad)
    with pytest.raises(UnknownPeer, match="nobody"):
        shop.forget("nobody")
    shop.close()
    with pytest.raises(PeerClosed):
        shop.forget("billing")
