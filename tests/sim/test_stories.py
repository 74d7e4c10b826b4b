"""What two peers do for their users, story by story, without faults that a story does not name."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.sim.helpers import Seen, leftovers, outcomes, pair, settled
from zmqrel import OutboxFull, Outcome, Reject, Retry, RetryLater, StoreFull, Verdict
from zmqrel.store import MemoryStore
from zmqrel.testing import Delivery, LinkFaults, Moving, Network
from zmqrel.testing.peer import SimulatedReceipt

FAST = Retry.fixed(0.1, max_attempts=3)


@pytest.mark.parametrize("both_dial", [False, True])
def test_a_message_is_handled(both_dial: bool) -> None:
    network, seen = pair(both_dial=both_dial), Seen()
    network.handler("bank", "default", seen)
    receipt = network.send("shop", "bank", "hello")
    assert settled(network, [receipt], 1)
    assert receipt.outcome is Outcome.HANDLED
    assert seen.bodies == ["hello"]
    network.advance(1)
    assert leftovers(network) == {}


def test_both_ways_over_one_dialled_link() -> None:
    network, seen = pair(), Seen()
    network.handler("shop", "default", seen)
    receipts = [network.send("bank", "shop", n) for n in range(100)]
    assert settled(network, receipts, 2)
    assert seen.bodies == list(range(100))


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_a_backlog_is_handled_in_order(durability: str) -> None:
    network, seen = pair(durability=durability), Seen()
    network.handler("bank", "default", seen, duration=0)
    network.close("bank")
    network.advance(0.1)
    receipts = network.peers["shop"].send("bank", list(range(5000)))
    network.advance(1)
    assert all(receipt.accepted for receipt in receipts)
    network.restart("bank")
    assert settled(network, receipts, 60)
    assert set(outcomes(receipts)) == {"HANDLED"}
    assert seen.bodies == list(range(5000))
    network.advance(1)
    assert leftovers(network) == {}


def handled_after_s(network: Network) -> float:
    """How long a message takes from the call to its outcome, to within a millisecond."""
    network.handler("bank", "default", Seen(), duration=0)
    network.advance(1)
    receipt = network.send("shop", "bank", 1)
    for milliseconds in range(1, 1000):
        network.advance(0.001)
        if receipt.outcome is not None:
            return milliseconds / 1000
    raise AssertionError("it has no outcome")


def test_what_a_large_turn_flushed_is_told_at_once() -> None:
    network = pair(durability="relaxed")
    assert handled_after_s(network) > 0.04  # each side flushes 20 times a second
    network = pair(durability="relaxed")
    for peer in network.peers.values():
        peer.disk._most_logged_bytes = 0
    assert handled_after_s(network) < 0.02


@pytest.mark.parametrize(
    ("flush_us", "least_s", "most_s"), [(100, 0.01, 0.03), (2_000, 0.04, 0.09), (9_000, 0.05, 0.11)]
)
def test_who_flushes_fast_flushes_often(
    monkeypatch: pytest.MonkeyPatch, flush_us: int, least_s: float, most_s: float
) -> None:
    monkeypatch.setattr(MemoryStore, "flush_us", flush_us)
    assert least_s <= handled_after_s(pair(durability="relaxed")) <= most_s


def test_many_queues_and_both_directions_at_once() -> None:
    network = pair(both_dial=True)
    receipts = []
    for queue in ("one", "two", "three"):
        network.handler("bank", queue, Seen(), workers=3)
        network.handler("shop", queue, Seen(), workers=3)
        for n in range(200):
            receipts.append(network.send("shop", "bank", n, queue=queue))
            receipts.append(network.send("bank", "shop", n, queue=queue))
    assert settled(network, receipts, 20)
    network.advance(1)
    assert leftovers(network) == {}


@pytest.mark.parametrize("seed", range(8))
def test_a_bad_network_only_delays(seed: int) -> None:
    network, seen = pair(seed), Seen()
    network.handler("bank", "default", seen, workers=2)
    network.links.faults = LinkFaults(loss=0.2, duplication=0.2, breaks=0.02, late=0.5, delay_s=(0.001, 0.05))
    receipts = []
    for n in range(300):
        receipts.append(network.send("shop", "bank", n))
        network.advance(0.01)
    assert settled(network, receipts, 120)
    assert seen.bodies == list(range(300)) or sorted(seen.bodies) == list(range(300))
    network.links.faults = LinkFaults()
    network.advance(10)
    assert leftovers(network) == {}


# ------------------------------------------------------------------------------------------------------ recall


def test_a_recall_before_anything_left() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.close("bank")
    network.advance(0.1)
    receipt = network.send("shop", "bank", 1)
    network.advance(0.1)
    network.recall(receipt)
    network.advance(0.1)
    assert receipt.verdict is Verdict.RECALLED
    network.restart("bank")
    other = network.send("shop", "bank", 2)
    assert settled(network, [other], 10)
    assert seen.bodies == [2]
    network.advance(1)
    assert leftovers(network) == {}


def test_a_recall_of_what_left_and_was_lost_on_its_way() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.partition("shop", "bank")
    receipt = network.send("shop", "bank", 1)
    network.advance(0.1)
    network.recall(receipt)
    network.advance(1)
    assert receipt.verdict is Verdict.PENDING
    network.heal()
    assert settled(network, [receipt], 20)
    assert receipt.verdict is Verdict.RECALLED
    network.advance(5)
    assert seen.bodies == []
    assert leftovers(network) == {}


def test_a_recall_in_the_inbox_and_in_the_buffer() -> None:
    network, seen = pair(prefetch=2), Seen()
    network.handler("bank", "default", seen, duration=5)
    receipts = [network.send("shop", "bank", n) for n in range(5)]
    network.advance(1)
    for receipt in receipts[1:]:
        network.recall(receipt)
    network.advance(1)
    assert outcomes(receipts) == [None, "RECALLED", "RECALLED", "RECALLED", "RECALLED"]
    assert settled(network, receipts, 20)
    assert seen.bodies == [0]
    network.advance(1)
    assert leftovers(network) == {}


def test_a_recall_while_the_handler_runs_is_too_late() -> None:
    network = pair()
    told = []
    network.handler("bank", "default", lambda delivery: told.append(delivery.withdrawn), duration=2)
    receipt = network.send("shop", "bank", 1)
    network.advance(1)
    network.recall(receipt)
    network.advance(0.5)
    assert receipt.verdict is Verdict.TOO_LATE
    assert receipt.outcome is None
    assert settled(network, [receipt], 5)
    assert receipt.outcome is Outcome.HANDLED
    assert told == [True]
    network.advance(1)
    assert leftovers(network) == {}


def test_a_recall_between_attempts_prevents_the_next() -> None:
    network = pair()
    attempts = []

    def fail(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise RuntimeError("no")

    network.handler("bank", "default", fail, retry=Retry.fixed(5))
    receipt = network.send("shop", "bank", 1)
    network.advance(1)
    network.recall(receipt)
    assert settled(network, [receipt], 2)
    assert (receipt.outcome, receipt.reason) == (Outcome.EXHAUSTED, "recalled")
    network.advance(10)
    assert attempts == [1]
    assert leftovers(network) == {}


def test_a_recall_after_the_end_is_too_late() -> None:
    network = pair()
    network.handler("bank", "default", Seen())
    receipt = network.send("shop", "bank", 1)
    assert settled(network, [receipt])
    network.recall(receipt)
    network.advance(1)
    assert receipt.verdict is Verdict.TOO_LATE


@pytest.mark.parametrize("restarted", ["shop", "bank", "both"])
def test_a_recall_stays_in_force_across_restarts(restarted: str) -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "other", seen)
    receipt = network.send("shop", "bank", 1)
    network.advance(1)
    assert receipt.received
    network.partition("shop", "bank")
    network.recall(receipt)
    network.advance(0.5)
    assert receipt.verdict is Verdict.PENDING
    for name in ("shop", "bank"):
        if restarted in (name, "both"):
            network.crash(name)
            network.restart(name)
    network.heal()
    network.handler("bank", "default", seen, duration=0.001)
    assert settled(network, [receipt], 20)
    assert receipt.outcome in (Outcome.RECALLED, Outcome.HANDLED)
    assert (receipt.outcome is Outcome.HANDLED) == bool(seen.bodies)
    network.advance(1)
    assert leftovers(network) == {}


def test_recall_where_takes_what_matches_only() -> None:
    from zmqrel.core.commands import RecallWhere

    network, seen = pair(), Seen()
    receipts = [network.send("shop", "bank", n, key=f"k{n % 2}") for n in range(3000)]
    network.advance(2)
    answers: list[object] = []
    network.peers["shop"].command(RecallWhere(to="bank", key="k1"), answers.append)
    network.advance(2)
    assert len(answers) == 1
    assert outcomes(receipts[1::2]) == ["RECALLED"] * 1500
    network.handler("bank", "default", seen)
    assert settled(network, receipts, 60)
    assert seen.bodies == list(range(0, 3000, 2))
    network.advance(1)
    assert leftovers(network) == {}


# ------------------------------------------------------------------------------------------------------ expiry


def test_expiry_before_anything_left() -> None:
    network = pair()
    network.close("bank")
    network.advance(0.1)
    receipt = network.send("shop", "bank", 1, ttl=1)
    assert settled(network, [receipt], 1.2)
    assert receipt.outcome is Outcome.EXPIRED
    network.restart("bank")
    network.advance(5)
    assert leftovers(network) == {}


def test_expiry_on_the_way_in_the_inbox_and_in_the_buffer() -> None:
    network, seen = pair(prefetch=2), Seen()
    network.handler("bank", "default", seen, duration=5)
    receipts = [network.send("shop", "bank", n, ttl=2) for n in range(5)]
    receipts += [network.send("shop", "bank", 9, queue="nobody", ttl=2)]
    network.advance(1)
    network.partition("shop", "bank")
    receipts.append(network.send("shop", "bank", 10, ttl=0.5))
    network.advance(2)
    assert outcomes(receipts) == [None] * 7
    network.heal()
    assert settled(network, receipts, 20)
    assert outcomes(receipts) == ["HANDLED"] + ["EXPIRED"] * 6
    assert seen.bodies == [0]
    network.advance(1)
    assert leftovers(network) == {}


def test_expiry_is_judged_within_a_tenth_of_a_second() -> None:
    network = pair()
    receipts = [network.send("shop", "bank", n, ttl=0.5 + n / 10) for n in range(10)]
    for receipt, at in zip(receipts, range(10), strict=True):
        assert settled(network, [receipt], 10)
        assert network.now == pytest.approx(receipt_time(receipt) + 0.5 + at / 10, abs=0.1)


def receipt_time(receipt: object) -> float:
    return (receipt.sent_us - 1_700_000_000_000_000) / 1e6  # type: ignore[attr-defined]


def test_a_deadline_between_attempts_ends_them() -> None:
    network = pair()

    def fail(_: Delivery) -> None:
        raise RuntimeError("no")

    network.handler("bank", "default", fail, retry=Retry.fixed(5))
    receipt = network.send("shop", "bank", 1, ttl=2)
    assert settled(network, [receipt], 4)
    assert (receipt.outcome, receipt.reason) == (Outcome.EXHAUSTED, "deadline")


def test_an_expired_message_goes_to_the_queue_that_was_named() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "late", seen)
    receipt = network.send("shop", "bank", 7, queue="slow", ttl=0.5, on_expiry="queue:late")
    assert settled(network, [receipt], 2)
    assert receipt.outcome is Outcome.EXPIRED
    network.advance(1)
    assert seen.bodies == [7]
    assert seen.deliveries[0].origin_id == receipt.id
    assert leftovers(network) == {}


# ----------------------------------------------------------------------------------------------------- attempts


def test_retries_rejections_and_exhaustion() -> None:
    network = pair()
    attempts: dict[str, int] = {}

    def handle(delivery: Delivery) -> None:
        attempts[delivery.body] = delivery.attempt
        if delivery.body == "bad":
            raise Reject("never")
        if delivery.body == "later" and delivery.attempt == 1:
            raise RetryLater(0.5)
        if delivery.body == "never" or (delivery.body == "second" and delivery.attempt == 1):
            raise RuntimeError("no")

    network.handler("bank", "default", handle, retry=FAST)
    receipts = [network.send("shop", "bank", body) for body in ("good", "bad", "second", "never", "later")]
    receipts.append(network.send("shop", "bank", "never", max_attempts=2))
    assert settled(network, receipts, 5)
    assert outcomes(receipts) == ["HANDLED", "REJECTED", "HANDLED", "EXHAUSTED", "HANDLED", "EXHAUSTED"]
    assert [receipt.attempts for receipt in receipts] == [1, 1, 2, 3, 2, 2]
    assert receipts[1].reason == "never"
    network.advance(1)
    assert leftovers(network) == {}
    assert network.peers["bank"].engine.stats()["dead_messages"] == 3


def test_a_moved_message_is_handled_in_its_new_queue() -> None:
    network, seen = pair(), Seen()

    def move(_: Delivery) -> None:
        raise Moving("second")

    network.handler("bank", "first", move)
    network.handler("bank", "second", seen)
    receipts = [network.send("shop", "bank", n, queue="first", key="k") for n in range(3)]
    receipts += [network.send("shop", "bank", 3, queue="first", ttl=60)]
    assert settled(network, receipts, 5)
    assert [body for body in seen.bodies if body < 3] == [0, 1, 2]
    assert 3 in seen.bodies
    assert [delivery.attempt for delivery in seen.deliveries] == [1, 1, 1, 1]
    network.advance(1)
    assert leftovers(network) == {}


def test_a_moved_message_can_be_recalled() -> None:
    network = pair()

    def move(_: Delivery) -> None:
        raise Moving("second")

    network.handler("bank", "first", move)
    receipt = network.send("shop", "bank", 1, queue="first")
    network.advance(1)
    network.recall(receipt)
    assert settled(network, [receipt], 5)
    assert (receipt.outcome, receipt.reason) == (Outcome.EXHAUSTED, "recalled")
    network.advance(1)
    assert leftovers(network) == {}


# --------------------------------------------------------------------------------------------------------- keys


def test_messages_of_a_key_go_one_at_a_time_and_others_go_on() -> None:
    network = pair()
    spans: list[tuple[float, float, str, int]] = []

    def handle(delivery: Delivery) -> None:
        spans.append((network.now - 0.1, network.now, delivery.key or "", delivery.body))
        if delivery.body == 0 and delivery.attempt < 3:
            raise RuntimeError("no")

    network.handler("bank", "default", handle, workers=8, duration=0.1, retry=Retry.fixed(0.5))
    receipts = [network.send("shop", "bank", n, key=f"k{n % 4}") for n in range(40)]
    assert settled(network, receipts, 60)
    for key in ("k0", "k1", "k2", "k3"):
        of_key = [span for span in spans if span[2] == key]
        assert [span[3] for span in of_key] == sorted(span[3] for span in of_key)
        assert all(one[1] <= two[0] + 1e-6 for one, two in pairwise(of_key))
    others = [span[1] for span in spans if span[2] != "k0"]
    assert max(others) < min(span[1] for span in spans if span[3] == 4)
    network.advance(1)
    assert leftovers(network) == {}


def test_keys_hold_across_queue_depth_far_beyond_what_is_looked_ahead_at() -> None:
    network, seen = pair(prefetch=4), Seen()
    receipts = network.peers["shop"].send("bank", list(range(6000)), key="same")
    receipts += network.peers["shop"].send("bank", list(range(6000, 6010)), key="other")
    network.advance(5)
    network.handler("bank", "default", seen, workers=4, duration=0.001)
    network.advance(0.5)
    assert set(range(6000, 6010)) <= set(seen.bodies)
    assert settled(network, receipts, 120)
    assert [body for body in seen.bodies if body < 6000] == list(range(6000))
    network.advance(1)
    assert leftovers(network) == {}


# ------------------------------------------------------------------------------------------------------ delays


def test_delayed_messages_come_in_the_order_in_which_they_become_due() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    receipts = [network.send("shop", "bank", delay, delay=delay, key="k") for delay in (3, 1, 2)]
    receipts.append(network.send("shop", "bank", 0, key="k"))
    network.advance(0.5)
    assert seen.bodies == [0]
    network.close("shop")
    network.advance(5)
    assert seen.bodies == [0, 1, 2, 3]
    network.restart("shop")
    assert settled(network, receipts, 10)
    network.advance(1)
    assert leftovers(network) == {}


def test_a_delayed_message_can_be_recalled_and_expires() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    recalled = network.send("shop", "bank", 1, delay=3)
    expired = network.send("shop", "bank", 2, delay=1, ttl=2, queue="nobody")
    network.advance(1)
    network.recall(recalled)
    assert settled(network, [recalled, expired], 10)
    assert outcomes([recalled, expired]) == ["RECALLED", "EXPIRED"]
    network.advance(5)
    assert seen.bodies == []
    assert leftovers(network) == {}


def test_delayed_messages_survive_a_restart_of_their_receiver() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    receipts = [network.send("shop", "bank", n, delay=2 + n / 10) for n in range(20)]
    network.advance(1)
    network.crash("bank")
    network.restart("bank")
    assert settled(network, receipts, 20)
    assert seen.bodies == list(range(20))


# ------------------------------------------------------------------------------------------------------ credit


def test_a_queue_without_a_handler_does_not_stop_another() -> None:
    network, seen = pair(inbox_max_messages=20), Seen()
    network.handler("bank", "served", seen)
    stuck = [network.send("shop", "bank", n, queue="nobody") for n in range(100)]
    network.advance(2)
    served = [network.send("shop", "bank", n, queue="served", ttl=20) for n in range(100)]
    assert settled(network, served, 20)
    assert set(outcomes(served)) == {"HANDLED"}
    assert network.peers["bank"].engine.stats()["inbox_messages"] <= 20
    network.handler("bank", "nobody", seen)
    assert settled(network, stuck, 60)
    network.advance(1)
    assert leftovers(network) == {}


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_a_tiny_inbox_only_slows(limit: int) -> None:
    network, seen = pair(inbox_max_messages=limit), Seen()
    network.handler("bank", "default", seen)
    receipts = [network.send("shop", "bank", n) for n in range(60)]
    receipts += [network.send("shop", "bank", n, delay=0.1) for n in range(60, 70)]
    assert settled(network, receipts, 120)
    assert [body for body in seen.bodies if body < 60] == list(range(60))
    network.advance(1)
    assert leftovers(network) == {}


def test_bytes_are_credited_too() -> None:
    network, seen = pair(inbox_max_bytes=5000), Seen()
    receipts = [network.send("shop", "bank", b"x" * 900) for _ in range(20)] + [
        network.send("shop", "bank", b"y" * 9000)
    ]
    network.advance(2)
    assert network.peers["bank"].engine.stats()["inbox_bytes"] <= 6000
    network.handler("bank", "default", seen)
    assert settled(network, receipts, 60)


def test_a_full_outbox_refuses_and_takes_again() -> None:
    network = pair(outbox_max_messages=10)
    network.close("bank")
    network.advance(0.1)
    receipts = [network.send("shop", "bank", n) for n in range(12)]
    network.advance(1)
    assert [isinstance(receipt.error, OutboxFull) for receipt in receipts] == [False] * 10 + [True] * 2
    network.recall(receipts[0])
    network.advance(1)
    again = network.send("shop", "bank", 99)
    network.advance(1)
    assert again.accepted


def test_a_message_larger_than_the_peer_takes_is_exhausted() -> None:
    network = Network(1)
    network.peer("shop", {"bank": True})
    network.peer("bank", {"shop": False}, max_body_bytes=1000)
    seen = Seen()
    network.handler("bank", "default", seen)
    receipts = [network.send("shop", "bank", n) for n in range(3)]
    receipts.append(network.send("shop", "bank", b"x" * 200_000))
    receipts.append(network.send("shop", "bank", 4))
    assert settled(network, receipts, 10)
    assert outcomes(receipts) == ["HANDLED"] * 3 + ["EXHAUSTED", "HANDLED"]


# ---------------------------------------------------------------------------------------------------- full store


def test_a_full_store_refuses_lets_recall_and_goes_on() -> None:
    network = Network(3)
    network.peer("shop", {"bank": True}, capacity=60_000)
    network.peer("bank", {"shop": False})
    network.close("bank")
    network.advance(0.1)
    receipts = []
    for _ in range(100):
        receipts.append(network.send("shop", "bank", b"x" * 1000))
        network.advance(0.01)
    refused = [receipt for receipt in receipts if receipt.error is not None]
    accepted = [receipt for receipt in receipts if receipt.accepted]
    assert len(accepted) > 20
    assert refused
    assert all(isinstance(receipt.error, StoreFull) for receipt in refused)
    for receipt in accepted[:30]:
        network.recall(receipt)
    network.advance(3)
    assert outcomes(accepted[:30]) == ["RECALLED"] * 30
    again = network.send("shop", "bank", b"y" * 1000)
    network.advance(1)
    assert again.accepted
    seen = Seen()
    network.handler("bank", "default", seen)
    network.restart("bank")
    assert settled(network, [*accepted, again], 60)
    network.advance(1)
    assert leftovers(network) == {}


@pytest.mark.parametrize("delay_s", [(0.001, 0.002), (0.3, 0.4)])
def test_what_cannot_become_a_dead_letter_for_want_of_room_ends_all_the_same(delay_s: tuple[float, float]) -> None:
    """A letter takes more room than the message did: of a store full of small ones, all of which end at once, not even
    the headroom holds the letters."""
    network = Network(3)
    network.links.faults = LinkFaults(delay_s=(0.3, 0.4))  # they are sent before it is known that nobody is there
    network.peer("shop", {"bank": True}, capacity=60_000, give_up_after_s=30)
    network.peer("bank", {"shop": False})
    network.advance(2)
    network.close("bank")
    receipts: list[SimulatedReceipt] = []
    while not (receipts and receipts[-1].error):
        receipts.append(network.send("shop", "bank", b"", id=f"{len(receipts)}"))
        network.advance(0.01)
    network.advance(40)
    network.links.faults = LinkFaults(delay_s=delay_s)
    network.restart("bank")
    assert settled(network, receipts[:-1], 300)
    assert outcomes(receipts[:-1]) == ["EXHAUSTED"] * (len(receipts) - 1)
    assert network.peers["shop"].engine.stats()["dead_dropped"]


def test_withdrawals_leave_room_for_their_answers() -> None:
    network = Network(3)
    network.peer("shop", {"bank": True}, capacity=60_000, give_up_after_s=30)
    network.peer("bank", {"shop": False})
    seen = Seen()
    network.handler("bank", "default", seen)
    network.advance(2)
    network.partition("shop", "bank")
    receipts: list[SimulatedReceipt] = []
    while not (receipts and receipts[-1].error):
        receipts.append(network.send("shop", "bank", b"", id=f"{len(receipts)}"))
        network.advance(0.01)
    network.advance(40)
    network.heal()
    assert settled(network, receipts[:-1], 60)
    assert set(outcomes(receipts[:-1])) <= {"EXHAUSTED", "HANDLED"}
    assert len(seen.bodies) == outcomes(receipts).count("HANDLED")


def test_a_full_receiver_whose_handlers_fail_goes_on_when_they_do_not() -> None:
    """What an attempt leaves in the store must not take the room without which nothing can be settled."""
    network = Network(3)
    network.peer("shop", {"bank": True})
    network.peer("bank", {"shop": False}, capacity=60_000)
    receipts = [network.send("shop", "bank", b"", id=str(n), ttl=5000) for n in range(600)]
    network.advance(5)
    down = [True]

    def handle(_delivery: Delivery) -> None:
        if down:
            raise ConnectionError("the database is down")

    network.handler("bank", "default", handle, workers=4, duration=0.001, retry=Retry.fixed(20, max_attempts=1000))
    network.advance(600)
    assert outcomes(receipts) == [None] * len(receipts)
    down.clear()
    assert settled(network, receipts, 300)
    assert outcomes(receipts) == ["HANDLED"] * len(receipts)


def test_a_full_receiver_settles_frees_and_goes_on() -> None:
    network = Network(3)
    network.peer("shop", {"bank": True})
    network.peer("bank", {"shop": False}, capacity=60_000)
    receipts = [network.send("shop", "bank", b"x" * 1000) for _ in range(200)]
    network.advance(5)
    seen = Seen()
    network.handler("bank", "default", seen)
    assert settled(network, receipts, 300)
    assert len(seen.bodies) == 200
    network.advance(5)
    assert leftovers(network) == {}


# ------------------------------------------------------------------------------------------------------ crashes


def test_the_message_that_kills_is_found_and_its_neighbours_are_not_blamed() -> None:
    network = pair()
    handled: list[int] = []

    def handle(delivery: Delivery) -> None:
        if delivery.body == 5:
            network.crash("bank")
            return
        handled.append(delivery.body)

    network.handler("bank", "default", handle, workers=4, duration=0.05, retry=FAST)
    receipts = [network.send("shop", "bank", n) for n in range(12)]
    for _ in range(12):
        network.advance(2)
        if not network.peers["bank"].running:
            network.restart("bank")
    assert settled(network, receipts, 20)
    assert outcomes(receipts) == ["HANDLED"] * 5 + ["EXHAUSTED"] + ["HANDLED"] * 6
    assert receipts[5].reason == "crash"
    assert sorted(set(handled)) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    network.advance(1)
    assert leftovers(network) == {}


def test_a_crash_in_the_handler_is_redelivered_and_said() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen, duration=1)
    receipts = [network.send("shop", "bank", n) for n in range(3)]
    network.advance(0.5)
    network.crash("bank")
    network.restart("bank")
    assert settled(network, receipts, 20)
    assert [(d.body, d.attempt, d.redelivered) for d in seen.deliveries] == [(0, 2, True), (1, 1, False), (2, 1, False)]


def test_an_idle_peer_wakes_for_heartbeats_only() -> None:
    network = pair(heartbeat_s=1)
    network.handler("bank", "default", Seen())
    receipt = network.send("shop", "bank", 1)
    assert settled(network, [receipt])
    network.advance(5)
    turns: list[str] = []
    commits = [peer.disk.commits for peer in network.peers.values()]
    network.watch(lambda what, *details: turns.append(details[0]) if what == "turn" else None)
    network.advance(100)
    # Each sends a PING and answers one, in one second.
    assert all(turns.count(name) <= 100 * 4 for name in network.peers)
    assert [peer.disk.commits for peer in network.peers.values()] == commits


def test_power_loss_makes_all_rows_redelivered() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen, duration=1)
    receipts = [network.send("shop", "bank", n) for n in range(3)]
    network.advance(0.5)
    network.power_loss("bank")
    network.restart("bank")
    assert settled(network, receipts, 20)
    assert all(delivery.redelivered for delivery in seen.deliveries)
    assert seen.bodies == [0, 1, 2]


# --------------------------------------------------------------------------------------- lost and old stores


def test_the_receivers_store_is_deleted() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.peers["bank"].handlers.clear()
    network.crash("bank")
    network.restart("bank")
    receipts = [network.send("shop", "bank", n) for n in range(5)]
    network.advance(1)
    assert all(receipt.received for receipt in receipts)
    network.crash("bank")
    network.delete_store("bank")
    network.restart("bank")
    network.handler("bank", "default", seen)
    network.advance(1)
    more = [network.send("shop", "bank", n) for n in range(5, 10)]
    assert settled(network, receipts + more, 20)
    assert set(outcomes(receipts + more)) == {"HANDLED"}
    assert [(d.body, d.redelivered) for d in seen.deliveries] == [(n, n < 5) for n in range(10)]
    network.advance(1)
    assert leftovers(network) == {}


def test_a_recall_with_the_receivers_store_deleted_is_uncertain() -> None:
    network, seen = pair(), Seen()
    receipt = network.send("shop", "bank", 1)
    network.advance(1)
    network.crash("bank")
    network.recall(receipt)
    network.delete_store("bank")
    network.restart("bank")
    network.handler("bank", "default", seen)
    assert settled(network, [receipt], 20)
    assert receipt.outcome is Outcome.UNCERTAIN
    assert seen.bodies == []


def test_on_store_loss_uncertain() -> None:
    network, seen = pair(on_store_loss="uncertain"), Seen()
    receipt = network.send("shop", "bank", 1)
    network.advance(1)
    network.crash("bank")
    network.delete_store("bank")
    network.restart("bank")
    network.handler("bank", "default", seen)
    assert settled(network, [receipt], 20)
    assert receipt.outcome is Outcome.UNCERTAIN


def test_the_senders_store_is_deleted() -> None:
    network, seen = pair(), Seen()
    old = [network.send("shop", "bank", n) for n in range(5)]
    network.advance(1)
    network.crash("shop")
    network.delete_store("shop")
    network.restart("shop")
    new = [network.send("shop", "bank", n) for n in range(10, 15)]
    network.advance(1)
    network.handler("bank", "default", seen)
    assert settled(network, new, 20)
    network.advance(5)
    assert [body for body in seen.bodies if body >= 10] == [10, 11, 12, 13, 14]
    assert leftovers(network) == {}
    assert all(receipt.forgotten for receipt in old)


@pytest.mark.parametrize("offline", [0, 3, 30])
def test_the_senders_store_is_rolled_back(offline: int) -> None:
    """Sends of the lost life were handled; the old copy accepts more before its first contact."""
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    first = [network.send("shop", "bank", n) for n in range(5)]
    assert settled(network, first)
    copy = network.backup("shop")
    lost = [network.send("shop", "bank", n) for n in range(5, 15)]
    assert settled(network, lost)
    network.crash("shop")
    network.restore("shop", copy)
    network.partition("shop", "bank")
    network.restart("shop")
    new = [network.send("shop", "bank", n) for n in range(100, 100 + offline)]
    network.advance(1)
    network.heal()
    more = [network.send("shop", "bank", n) for n in range(200, 205)]
    assert settled(network, new + more, 30)
    network.advance(5)
    assert "old_copy" in network.kinds("shop")
    assert set(outcomes(new + more)) == {"HANDLED"}
    assert seen.bodies == [*range(15), *range(100, 100 + offline), *range(200, 205)]
    assert leftovers(network) == {}


def test_the_receivers_store_is_rolled_back() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    first = [network.send("shop", "bank", n) for n in range(5)]
    assert settled(network, first)
    copy = network.backup("bank")
    lost = [network.send("shop", "bank", n) for n in range(5, 15)]
    assert settled(network, lost)
    waiting = [network.send("shop", "bank", n, queue="later") for n in range(20, 25)]
    network.advance(1)
    network.crash("bank")
    network.restore("bank", copy)
    network.restart("bank")
    network.handler("bank", "later", seen)
    more = [network.send("shop", "bank", n) for n in range(30, 35)]
    assert settled(network, waiting + more, 30)
    network.advance(5)
    assert "old_copy" in network.kinds("bank")
    assert set(outcomes(waiting + more)) == {"HANDLED"}
    assert all(d.redelivered for d in seen.deliveries if 20 <= d.body < 25)
    assert leftovers(network) == {}


# ------------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("sent", ["before it meets the new store", "after that"])
def test_a_receivers_old_store_that_comes_back_settles_nothing_of_a_sender_that_was_rolled_back(sent: str) -> None:
    """Both have an old copy, and the receiver had a new store in between, which could not tell the sender so."""
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    assert settled(network, [network.send("shop", "bank", n) for n in range(3)])
    shops = network.backup("shop")
    assert settled(network, [network.send("shop", "bank", f"lost {n}") for n in range(5)])
    banks = network.backup("bank")
    network.crash("shop")
    network.crash("bank")
    network.restore("shop", shops)
    network.delete_store("bank")
    network.partition("shop", "bank")
    network.restart("shop")
    network.restart("bank")
    kept = []
    if sent == "before it meets the new store":
        kept = [network.send("shop", "bank", f"kept {n}") for n in range(5)]
    network.peers["bank"].handlers.clear()
    network.heal()
    assert network.until(lambda: "peer_store_gone" in network.kinds("shop"), 60)
    network.partition("shop", "bank")
    kept = kept or [network.send("shop", "bank", f"kept {n}") for n in range(5)]
    network.crash("bank")
    network.restore("bank", banks)
    network.restart("bank")
    network.handler("bank", "default", seen)
    seen.deliveries.clear()
    network.heal()
    assert settled(network, kept)
    network.advance(5)
    assert outcomes(kept) == ["HANDLED"] * 5
    assert seen.bodies == [f"kept {n}" for n in range(5)]
    assert leftovers(network) == {}


@pytest.mark.parametrize("error_s", [3600, -3600])
def test_clocks_an_hour_apart(error_s: int) -> None:
    network = Network(5)
    network.peer("shop", {"bank": True})
    shop = network.peers["shop"]
    network.crash("shop")
    network.delete_store("shop")
    shop.hardware.wall_error_us = error_s * 1_000_000
    network.restart("shop")
    network.peer("bank", {"shop": False})
    seen = Seen()
    network.handler("bank", "default", seen)
    receipts = [network.send("shop", "bank", 1, ttl=2), network.send("shop", "bank", 2, ttl=2, queue="nobody")]
    receipts.append(network.send("shop", "bank", 3, delay=1))
    network.advance(1.5)
    assert outcomes(receipts) == ["HANDLED", None, "HANDLED"]
    network.advance(0.7)
    assert outcomes(receipts) == ["HANDLED", "EXPIRED", "HANDLED"]
    shop.hardware.wall_error_us = 0
    receipt = network.send("shop", "bank", 1, ttl=2)
    assert settled(network, [receipt], 1)
    assert receipt.outcome is Outcome.HANDLED


def test_a_peer_whose_disk_was_full_to_the_last_byte_goes_on_when_there_is_room() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.fill_disk("bank")
    receipts = [network.send("shop", "bank", n) for n in range(5)]
    network.advance(3)
    assert seen.bodies == []
    network.free_disk("bank")
    assert settled(network, receipts, 20)
    assert outcomes(receipts) == ["HANDLED"] * 5
    network.advance(1)
    assert leftovers(network) == {}


@pytest.mark.parametrize("commits", [1, 2, 3, 10])
def test_commits_that_fail_are_done_over(commits: int) -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.fail_commits("bank", commits)
    receipts = [network.send("shop", "bank", n) for n in range(5)]
    assert settled(network, receipts, 20)
    assert seen.bodies == list(range(5))
    network.advance(1)
    assert leftovers(network) == {}


@pytest.mark.parametrize("ends", [None, RuntimeError("no"), Reject("no")])
def test_a_commit_that_fails_when_a_handler_is_through_is_done_over(ends: Exception | None) -> None:
    network, seen = pair(), Seen()

    def handle(delivery: Delivery) -> None:
        seen(delivery)
        if ends is not None:
            raise ends

    network.handler("bank", "default", handle, duration=0.5)
    receipts = [network.send("shop", "bank", 1, max_attempts=1, key="k")]
    network.advance(0.3)
    network.fail_commits("bank", 1)
    assert settled(network, receipts, 20)
    assert seen.bodies == [1]
    assert receipts[0].attempts == 1


@pytest.mark.parametrize("handled", [False, True])
def test_what_was_handed_over_when_a_peer_closed_that_could_not_commit_comes_again_and_says_so(handled: bool) -> None:
    """And it is not ended for it: closing is not the fault of what a handler has."""
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen, duration=0.2, retry=Retry.fixed(0.1, max_attempts=1))
    receipt = network.send("shop", "bank", 1)
    network.advance(0.1)
    network.fail_commits("bank", 10)
    if handled:
        network.advance(0.15)
    network.close("bank")
    network.fail_commits("bank", 0)
    network.restart("bank")
    assert settled(network, [receipt], 20)
    assert receipt.outcome is Outcome.HANDLED
    told = [(delivery.attempt, delivery.redelivered) for delivery in seen.deliveries]
    assert told == [(1, False)] * handled + [(2, True)]
    network.advance(1)
    assert leftovers(network) == {}


def test_a_peer_that_closes_when_there_is_room_again_settles_what_was_handled() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen, duration=0.2)
    receipts = [network.send("shop", "bank", 1)]
    network.advance(0.1)
    network.fail_commits("bank", 2)
    network.advance(0.3)
    network.close("bank")
    network.restart("bank")
    assert settled(network, receipts, 20)
    assert seen.bodies == [1]
    assert receipts[0].outcome is Outcome.HANDLED


def test_a_peer_that_cannot_commit_tells_of_itself_what_is_committed() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen, duration=0.2)
    shop, bank = network.peers["shop"], network.peers["bank"]
    receipts = [network.send("shop", "bank", 1)]
    network.advance(0.1)
    for peer in (shop, bank):
        network.fail_commits(peer.name, 1000)
    network.advance(2)
    assert seen.bodies == [1]
    assert (bank.stats()["inbox_messages"], bank.stats()["in_hand"], bank.stats()["handled"]) == (1, 1, 0)
    network.fail_commits("bank", 0)
    network.advance(4)
    assert (bank.stats()["inbox_messages"], bank.stats()["in_hand"], bank.stats()["handled"]) == (0, 0, 1)
    assert (shop.stats()["outbox_messages"], shop.stats()["settled"]) == (1, 0)
    assert receipts[0].outcome is None
    network.fail_commits("shop", 0)
    assert settled(network, receipts, 20)
    assert (shop.stats()["outbox_messages"], shop.stats()["settled"]) == (0, 1)


@pytest.mark.parametrize("to_dialler", [True, False])
@pytest.mark.parametrize("to_acceptor", [True, False])
def test_a_half_open_connection_is_given_up_and_made_anew(to_dialler: bool, to_acceptor: bool) -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.half_open("shop", "bank", to_dialler=to_dialler, to_acceptor=to_acceptor)
    receipts = [network.send("shop", "bank", n) for n in range(5)]
    assert settled(network, receipts, 30)
    assert seen.bodies == list(range(5))


@pytest.mark.parametrize("to_dialler", [True, False])
def test_a_connection_that_is_half_open_before_anybody_answered_is_made_anew(to_dialler: bool) -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.crash("shop")
    network.restart("shop")
    network.advance(1e-4)
    assert not network.peers["shop"].connected("bank"), "it has dialled, and nobody has answered yet"
    network.half_open("shop", "bank", to_dialler=to_dialler, to_acceptor=not to_dialler)
    assert settled(network, [network.send("shop", "bank", 1)], 30)
    assert seen.bodies == [1]


def test_a_full_inbox_costs_its_queues_a_round_trip_a_message_and_no_resend_interval() -> None:
    network = pair(resend=Retry.fixed(5), inbox_max_messages=2, prefetch=1)
    network.handler("bank", "served", lambda _delivery: None, duration=0.01)
    network.send("shop", "bank", "nobody takes it", queue="other")
    network.advance(1)
    receipts = [network.send("shop", "bank", number, queue="served") for number in range(20)]
    assert settled(network, receipts, 2)
