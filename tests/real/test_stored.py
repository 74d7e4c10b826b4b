"""What lies in a peer's store, seen through the public API: outbox, inbox and dead letters, also after a restart."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import zmqrel
from tests.real.net import LIMIT_S, Net, connected, until
from zmqrel import ConfigError, Outcome, PeerClosed, Reject, UnknownMessage, Verdict


def whats(item: Any) -> list[str]:
    return [event.what for event in item.history]


def test_outbox_and_inbox_show_what_waits_oldest_first(swift: Net) -> None:
    shop, billing = swift.pair()
    receipts = [shop.send("billing", {"n": n}, queue="ab"[n % 2], key=f"k{n}", headers={"h": n}) for n in range(6)]
    late = shop.send("billing", (1, 2), queue="a", delay=3600, deadline=datetime.now(timezone.utc) + timedelta(hours=2))
    assert late.wait_received(LIMIT_S)
    assert receipts[-1].wait_received(LIMIT_S)
    assert receipts[-2].wait_received(LIMIT_S)

    sent = list(shop.outbox())
    assert [message.id for message in sent] == [receipt.id for receipt in [*receipts, late]]
    assert [message.body for message in sent] == [*({"n": n} for n in range(6)), [1, 2]]
    assert all(isinstance(message, zmqrel.Receipt) for message in sent)
    assert (sent[1].to, sent[1].queue, sent[1].key, sent[1].headers) == ("billing", "b", "k1", {"h": 1})
    assert (sent[1].state, sent[1].outcome) == (zmqrel.State.RECEIVED, None)
    assert sent[6].deadline is not None
    assert sent[6].sent_at < datetime.now(timezone.utc) < sent[6].deadline

    came = list(billing.inbox())
    assert [message.id for message in came] == [message.id for message in sent]
    assert [message.body for message in came] == [message.body for message in sent]
    assert [message.body for message in billing.inbox("b")] == [{"n": n} for n in (1, 3, 5)]
    assert list(billing.inbox("c")) == []
    assert (came[1].sender, came[1].queue, came[1].key, came[1].headers) == ("shop", "b", "k1", {"h": 1})
    assert (came[1].attempts, came[1].redelivered, came[1].in_hand, came[1].deadline) == (0, False, False, None)
    assert (came[1].origin_id, came[1].cause) == (None, None)
    assert whats(came[1]) == ["stored", "received"]
    assert came[6].due_at - datetime.now(timezone.utc) > timedelta(minutes=59)
    assert came[6].deadline is not None
    assert "from shop in b" in repr(came[1])

    assert sent[6].recall(LIMIT_S).verdict is Verdict.RECALLED
    assert late.outcome is Outcome.RECALLED
    assert len(list(shop.outbox())) == 6


def test_listings_are_iterators_that_ask_when_they_are_asked(swift: Net) -> None:
    shop, _ = swift.pair()
    listing = shop.outbox()
    assert iter(listing) is listing
    assert next(listing, None) is None
    assert next(shop.inbox(), None) is None
    letters = shop.dead_letters()
    assert iter(letters) is letters
    assert next(letters, None) is None
    late = shop.outbox()
    shop.close()
    with pytest.raises(PeerClosed):
        next(late)
    for listed in (shop.outbox, shop.inbox, shop.dead_letters):
        with pytest.raises(PeerClosed):
            listed()


def test_a_thousand_messages_are_listed_in_pages(local: Net) -> None:
    shop = local.sender()
    receipts = shop.send_many("billing", range(1000))
    listed = list(shop.outbox())
    assert [message.body for message in listed] == list(range(1000))
    assert [message.id for message in listed] == [receipt.id for receipt in receipts]


def test_a_message_in_hand_and_one_that_failed(swift: Net) -> None:
    shop, billing = swift.pair()
    shop.send("billing", "x")
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    [held] = billing.inbox()
    assert (held.in_hand, held.attempts) == (True, 1)
    assert held.history[-1][1:] == ("handed over", "attempt 1")
    message.retry(3600, "not today")
    until(lambda: not next(billing.inbox()).in_hand)
    [failed] = billing.inbox()
    assert failed.attempts == 1
    assert failed.history[-1][1:] == ("attempt failed", "attempt 1: not today")
    assert failed.due_at > datetime.now(timezone.utc) + timedelta(minutes=59)


def test_dead_letters_from_rejection_to_retry(swift: Net) -> None:
    billing = swift.receiver().start()
    handled = []

    @billing.handler("default")
    def once_bitten(message: zmqrel.Message) -> None:
        if message.origin_id is None:
            raise Reject("who are you?")
        handled.append((message.id, message.origin_id, message.cause, message.body, message.key, message.headers))

    shop = swift.sender()
    receipt = shop.send("billing", ["x"], key="k", headers={"h": 1})
    assert receipt.wait(LIMIT_S) is Outcome.REJECTED
    [letter] = billing.dead_letters()
    assert (letter.id, letter.body, letter.headers, letter.key) == (receipt.id, ["x"], {"h": 1}, "k")
    assert (letter.cause, letter.reason, letter.attempts) == ("rejected", "who are you?", 1)
    assert (letter.sender, letter.to, letter.queue, letter.origin_id) == ("shop", "billing", "default", None)
    assert letter.sent_at <= letter.at <= datetime.now(timezone.utc)
    assert whats(letter) == ["stored", "received", "handed over", "settled"]
    assert letter.history[-1].detail == "REJECTED: who are you?"
    assert list(shop.dead_letters()) == []

    new_id = letter.retry()
    until(lambda: handled)
    assert handled == [(new_id, receipt.id, "rejected", ["x"], "k", {"h": 1})]
    assert new_id != receipt.id
    assert receipt.outcome is Outcome.REJECTED
    assert list(billing.dead_letters()) == []
    with pytest.raises(UnknownMessage, match=receipt.id):
        letter.retry()
    assert letter.purge() is False


def test_dead_letters_survive_a_restart_and_are_purged(local: Net) -> None:
    billing = local.receiver().start()

    @billing.handler("default")
    def never(message: zmqrel.Message) -> None:
        raise Reject(str(message.body))

    shop = local.sender()
    for n in range(4):
        assert shop.send("billing", n).wait(LIMIT_S) is Outcome.REJECTED
    times = [letter.at for letter in billing.dead_letters()]
    billing.close()
    billing = local.receiver().start()
    letters = list(billing.dead_letters())
    assert [letter.reason for letter in letters] == ["0", "1", "2", "3"]
    assert [abs(letter.at - before) < timedelta(seconds=5) for letter, before in zip(letters, times, strict=True)]
    assert letters[0].purge() is True
    assert billing.dead_letters().purge(before=letters[0].at) == 0
    assert billing.dead_letters().purge(before=letters[0].at.timestamp() - 3600) == 0
    assert billing.dead_letters().purge(before=letters[2].at) == 1
    assert billing.dead_letters().purge() == 2
    assert list(billing.dead_letters()) == []
    stats = billing.stats()
    assert (stats["dead_messages"], stats["dead_bytes"], stats["dead_purged"]) == (0, 0, 4)


def test_a_letter_that_its_sender_judged_is_retried_there_as_a_message_of_its_own(swift: Net) -> None:
    shop = swift.sender()
    receipt = shop.send("billing", "x", ttl=0.01, queue="invoices")
    assert receipt.wait(LIMIT_S) is Outcome.EXPIRED
    [letter] = shop.dead_letters()
    assert (letter.sender, letter.to, letter.cause, letter.attempts) == ("shop", "billing", "expired", 0)
    assert letter.deadline is not None
    new_id = letter.retry("again")
    message = shop.receive("again", timeout=LIMIT_S)
    assert message is not None
    assert (message.id, message.sender, message.body) == (new_id, "shop", "x")
    assert (message.origin_id, message.cause, message.deadline) == (receipt.id, "expired", None)
    message.ack()


def test_one_message_is_found_wherever_it_is(swift: Net) -> None:
    shop, billing = swift.pair()
    connected(shop, billing)
    made, given = shop.send("billing", "made"), shop.send("billing", "given", id="order-1")
    assert given.wait_received(LIMIT_S)
    for receipt in (made, given):
        [at_shop] = shop.find(receipt.id)
        assert isinstance(at_shop, zmqrel.OutboxMessage)
        [at_billing] = billing.find(receipt.id)
        assert isinstance(at_billing, zmqrel.InboxMessage)
        assert (at_shop.id, at_shop.body) == (at_billing.id, at_billing.body)
        message = billing.receive(timeout=LIMIT_S)
        assert message is not None
        message.reject("no")
        receipt.wait(LIMIT_S)
        [ended] = shop.find(receipt.id)
        assert isinstance(ended, zmqrel.Receipt)
        assert ended.outcome is Outcome.REJECTED
        [letter] = billing.find(receipt.id)
        assert isinstance(letter, zmqrel.DeadLetter)
    assert shop.find("nobody") == []
    with pytest.raises(ConfigError, match="^id takes"):
        shop.find("")


@pytest.mark.parametrize("bad", [1, "", "a b", "x" * 65])
def test_what_listings_refuse(swift: Net, bad: Any) -> None:
    shop = swift.sender()
    with pytest.raises(ConfigError, match="^queue takes"):
        shop.inbox(bad)
    with pytest.raises(ConfigError, match="^before takes"):
        shop.dead_letters().purge(before="yesterday")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="^before takes"):
        shop.dead_letters().purge(before=datetime(2030, 1, 1))
