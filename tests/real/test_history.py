"""The history of a message, at its sender and at its receiver, before and after a restart."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import zmqrel
from tests.real.net import LIMIT_S, Net, connected, until
from zmqrel import HistoryEvent, Outcome, Receipt


def whats(history: tuple[HistoryEvent, ...]) -> list[str]:
    return [event.what for event in history]


def test_from_stored_to_settled(swift: Net) -> None:
    shop, billing = swift.pair()
    connected(shop, billing)
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    receipt = shop.send("billing", "x")
    assert receipt.wait_received(LIMIT_S)
    assert whats(receipt.history) == ["stored", "sent", "received"]
    assert isinstance(receipt.history, tuple)
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    message.ack()
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED
    assert whats(receipt.history) == ["stored", "sent", "received", "handed over", "settled"]
    times = [event.at for event in receipt.history]
    assert before < times[0]
    assert times == sorted(times)
    assert times[-1] < datetime.now(timezone.utc) + timedelta(seconds=1)
    assert [event.detail for event in receipt.history][3:] == ["attempt 1", "HANDLED"]
    assert receipt.attempts == 1


def test_each_message_of_one_call_has_its_own(swift: Net) -> None:
    shop, billing = swift.pair()
    first, second = shop.send_many("billing", [1, 2])
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    message.reject("no")
    assert first.wait(LIMIT_S) is Outcome.REJECTED
    assert first.history[-1][1:] == ("settled", "REJECTED: no")
    assert "settled" not in whats(second.history)


def test_a_recall_in_the_history_and_over_a_restart(local: Net) -> None:
    billing = local.receiver().start()
    shop = local.sender()
    receipt = shop.send("billing", "x", id="order-1")
    assert receipt.wait_received(LIMIT_S)
    billing.close()
    until(lambda: not shop.stats()["peers_connected"])
    assert receipt.recall().verdict is zmqrel.Verdict.PENDING
    assert whats(receipt.history) == ["stored", "sent", "received", "recalled"]
    recalled_at = receipt.history[-1].at
    shop.close()

    shop = local.sender()
    again = shop.receipt("order-1")
    assert whats(again.history) == ["stored", "recalled"]
    assert abs(again.history[-1].at - recalled_at) < timedelta(seconds=5)
    local.receiver().start()
    assert again.wait(LIMIT_S) is Outcome.RECALLED
    shop.close()

    [found] = local.sender().find("order-1")
    assert isinstance(found, Receipt)
    assert whats(found.history) == ["settled"]
    assert found.history[0].detail == "RECALLED: recalled"


def test_attempts_at_the_receiver_are_told_over_a_restart(local: Net) -> None:
    billing = local.receiver().start()

    @billing.handler("default", retry=zmqrel.Retry.fixed(3600))
    def fail(message: zmqrel.Message) -> None:
        raise ValueError(f"attempt {message.attempt} did not work")

    shop = local.sender()
    shop.send("billing", "x")
    until(lambda: any(message.attempts and not message.in_hand for message in billing.inbox()))
    billing.close()
    [message] = local.receiver().start().inbox()
    assert whats(message.history) == ["stored", "received", "attempt failed"]
    assert message.history[-1].detail == "attempt 1: ValueError: attempt 1 did not work"
