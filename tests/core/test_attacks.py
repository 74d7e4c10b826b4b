"""F1 to F14 of the protocol: the attacks that broke its drafts, each against two real cores over a simulated network.

Every test watches with a Checker, which raises at the first broken promise, and says what else must be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.core.pump import QUEUE, Host, Time
from tests.core.pump import pair as pumped
from tests.core.puppet import PATIENT, Puppet
from tests.sim.helpers import Seen, leftovers, outcomes, pair, settled
from zmqrel import Outcome, Retry, Verdict
from zmqrel.core import commands as c
from zmqrel.core import frames, tables
from zmqrel.core.buffer import HANDLED
from zmqrel.core.effects import HandedOver
from zmqrel.core.entries import InLaneState, Notice, State, Withdraw, encode_messages
from zmqrel.core.lane import CONTROL, DATA
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy
from zmqrel.outcome import Cause
from zmqrel.testing import Delivery, Network, SimulatedReceipt
from zmqrel.testing.checkers import Checker


def watched(seed: int = 1, **options: object) -> tuple[Network, Checker, Seen]:
    network = pair(seed, **options)
    return network, Checker(network), Seen()


def of_control_lane(parts: list[bytes]) -> bool:
    frame = frames.decode(parts)
    return frame.type == frames.DATA and frame.fields[0].kind == CONTROL


def restart(network: Network, *names: str) -> None:
    for name in names:
        network.crash(name)
        network.restart(name)


def rest(network: Network) -> dict[str, int]:
    network.advance(2)
    return leftovers(network)


# ---------------------------------------------------------------------------------------------------------- F1, F2


def test_f1_a_recall_after_a_crash_between_transmission_and_its_note() -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen)
    network.partition("bank", "shop")
    receipt = network.send("shop", "bank", 1)
    network.heal("bank", "shop")
    network.partition("bank", "shop", one_way=True)
    network.advance(0.2)
    assert seen.bodies == [1]
    network.crash("shop")
    network.restart("shop")
    network.advance(0.1)
    network.recall(receipt)
    network.advance(0.5)
    assert receipt.verdict is Verdict.PENDING, "it left before the crash: only the receiver can tell"
    network.heal()
    assert settled(network, [receipt], 20)
    assert receipt.verdict is Verdict.TOO_LATE
    assert rest(network) == {}


@pytest.mark.parametrize("point", ["before commit", "after commit", "while sending"])
@pytest.mark.parametrize("commits", range(6))
def test_f1_a_crash_at_each_commit_of_a_sender(point: str, commits: int) -> None:
    network, checker, seen = watched(commits)
    network.handler("bank", "default", seen)
    network.crash("shop", point, commits)  # type: ignore[arg-type]
    receipts = []
    for body in range(12):
        if network.peers["shop"].running:
            receipts.append(network.send("shop", "bank", body))
        network.advance(0.003)
    network.peers["shop"].disk.survive()
    network.restart("shop")
    network.advance(0.01)
    for receipt in receipts[::3]:
        network.recall(receipt)
    network.advance(30)
    checker.check_all_ended()
    assert rest(network) == {}


def test_f2_a_lost_message_and_a_lost_withdrawal() -> None:
    network, _, _ = watched()
    network.partition("shop", "bank")
    receipt = network.send("shop", "bank", 1)
    network.advance(0.3)
    network.recall(receipt)
    network.advance(0.3)
    network.links.censor = lambda sender, _, parts: sender == "shop" and of_control_lane(parts)
    network.heal()
    network.advance(10)
    assert receipt.outcome is None
    network.links.censor = None
    assert settled(network, [receipt], 40), "a VOID in its place would have left nobody to answer"
    assert receipt.outcome is Outcome.RECALLED
    assert rest(network) == {}


# ---------------------------------------------------------------------------------------------------------- F3 to F5


@pytest.mark.parametrize("offline", [0, 1, 5, 40])
def test_f3_a_restored_sender_that_accepts_offline(offline: int) -> None:
    network, checker, seen = watched()
    first = [network.send("shop", "bank", body) for body in range(3)]
    network.advance(0.2)
    copy = network.backup("shop")
    network.partition("bank", "shop", one_way=True)
    network.partition("shop", "bank")
    network.heal("shop", "bank")
    lost = [network.send("shop", "bank", body) for body in range(100, 110)]
    network.advance(0.5)
    network.crash("shop")
    network.restore("shop", copy)
    network.partition("shop", "bank")
    network.restart("shop")
    new = [network.send("shop", "bank", body) for body in range(200, 200 + offline)]
    network.advance(0.2)
    network.handler("bank", "default", seen)
    network.advance(0.2)
    network.heal()
    network.advance(1)
    new += [network.send("shop", "bank", body) for body in range(300, 303)]
    assert settled(network, first + new, 60)
    assert outcomes(first + new) == ["HANDLED"] * (6 + offline)
    assert all(receipt.forgotten for receipt in lost)
    assert sorted(seen.bodies) == [*range(3), *range(100, 110), *range(200, 200 + offline), *range(300, 303)]
    assert "old_copy" in network.kinds("shop")
    checker.check_all_ended()
    assert rest(network) == {}


def test_f3_a_late_frame_of_the_lost_life_between_welcome_and_open() -> None:
    """It must not count, or what the restored sender was told in WELCOME is out of date when its OPEN comes."""
    network, _, seen = watched()
    network.handler("bank", "default", seen)
    first = [network.send("shop", "bank", body) for body in range(3)]
    assert settled(network, first)
    copy = network.backup("shop")
    bank = network.peers["bank"]
    link = next(iter(bank.engine.channels["shop"].sessions.open))
    late: list[list[bytes]] = []

    def keep_data(sender: str, _: str, parts: list[bytes]) -> bool:
        is_data = sender == "shop" and frames.decode(parts).type == frames.DATA
        if is_data:
            late.append(parts)
        return is_data

    def release_before_open(sender: str, _: str, parts: list[bytes]) -> bool:
        if sender == "shop" and frames.decode(parts).type == frames.OPEN:
            while late:
                bank.deliver(link, late.pop(0))
        return False

    network.links.censor = keep_data
    network.send("shop", "bank", 99)
    network.advance(0.05)
    assert late
    network.crash("shop")
    network.restore("shop", copy)
    network.links.censor = release_before_open
    network.restart("shop")
    new = [network.send("shop", "bank", body) for body in range(10, 15)]
    assert settled(network, new, 60)
    assert outcomes(new) == ["HANDLED"] * 5
    assert seen.bodies == [0, 1, 2, 10, 11, 12, 13, 14]


def test_f4_settlements_for_a_store_that_is_gone() -> None:
    network, checker, seen = watched()
    old = [network.send("shop", "bank", body) for body in range(5)]
    network.advance(0.2)
    network.crash("shop")
    network.delete_store("shop")
    network.restart("shop")
    new = [network.send("shop", "bank", body, queue="slow") for body in range(10, 15)]
    network.advance(0.5)
    network.handler("bank", "default", seen)
    network.advance(3)
    assert outcomes(new) == [None] * 5
    assert all(receipt.forgotten for receipt in old)
    network.handler("bank", "slow", seen)
    assert settled(network, new, 20)
    assert seen.bodies == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    checker.check_all_ended()
    assert rest(network) == {}


@pytest.mark.parametrize("recalled", [False, True])
def test_f5_acknowledgement_and_disk_are_lost_together(recalled: bool) -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen)
    network.partition("bank", "shop", one_way=True)
    receipt = network.send("shop", "bank", 1)
    network.advance(0.2)
    assert seen.bodies == [1]
    network.crash("bank")
    network.delete_store("bank")
    if recalled:
        network.recall(receipt)
    network.advance(0.1)
    network.heal()
    network.restart("bank")
    assert settled(network, [receipt], 30)
    if recalled:
        assert receipt.outcome is Outcome.UNCERTAIN, "a store that never knew must not answer RECALLED"
        assert len(seen.bodies) == 1
    else:
        assert receipt.outcome is Outcome.HANDLED
        assert [delivery.redelivered for delivery in seen.deliveries] == [False, True]
    assert rest(network) == {}


def test_f5_a_recall_after_the_new_store_was_met() -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen, duration=0.5)
    receipts = [network.send("shop", "bank", body) for body in range(4)]
    network.advance(0.7)
    network.crash("bank")
    network.delete_store("bank")
    network.partition("shop", "bank")
    network.restart("bank")
    network.peers["bank"].serve("default", seen, duration=100)
    network.heal()
    network.advance(3)
    for receipt in receipts[2:]:
        network.recall(receipt)
    assert settled(network, receipts[2:], 20)
    assert outcomes(receipts[2:]) == ["UNCERTAIN", "UNCERTAIN"]


# ---------------------------------------------------------------------------------------------------------------- F6


def test_f6_many_old_frames_draw_one_bye() -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen)
    byes: list[str] = []

    def count(sender: str, receiver: str, parts: list[bytes]) -> bool:
        if frames.decode(parts).type == frames.BYE:
            byes.append(sender)
        return False

    bank = network.peers["bank"]
    old: list[list[bytes]] = []
    network.links.censor = lambda sender, _, parts: bool(sender == "shop" and old.append(parts))
    receipts = [network.send("shop", "bank", body) for body in range(64)]
    network.advance(0.1)
    assert old
    restart(network, "bank")
    network.links.censor = count
    for _ in range(64):
        bank.deliver(999, old[0])
    network.advance(0.01)
    assert byes.count("bank") <= 2
    assert settled(network, receipts, 20)
    assert sorted(set(seen.bodies)) == list(range(64))


def test_f6_late_copies_of_every_handshake_change_nothing() -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen)
    copies: list[tuple[str, str, list[bytes]]] = []

    def copy(sender: str, receiver: str, parts: list[bytes]) -> bool:
        if frames.decode(parts).type in (frames.HELLO, frames.WELCOME, frames.OPEN, frames.BYE):
            copies.append((sender, receiver, parts))
        return False

    network.links.censor = copy
    restart(network, "shop")
    network.advance(2)
    network.reconnect("shop", "bank")
    network.advance(5)
    assert {frames.decode(parts).type for _, _, parts in copies} >= {frames.HELLO, frames.WELCOME, frames.OPEN}
    first = [network.send("shop", "bank", body) for body in range(5)]
    assert settled(network, first)
    sessions = {name: dict(network.peers[name].engine.channels[other].sessions.open) for name, other in PAIRS}
    for sender, receiver, parts in copies:
        for link in [*sessions[receiver], 1001]:
            if link % 2 or frames.decode(parts).type != frames.HELLO:
                network.peers[receiver].deliver(link, parts)
        network.advance(0.01)
        assert network.peers[sender].connected(receiver)
    second = [network.send("shop", "bank", body) for body in range(5, 10)]
    assert settled(network, second, 1)
    for name, other in PAIRS:
        now = network.peers[name].engine.channels[other].sessions.open
        assert all(now.get(link) is session for link, session in sessions[name].items()), name
    assert seen.bodies == list(range(10))


PAIRS = [("shop", "bank"), ("bank", "shop")]


def test_f6_crossing_hellos_give_two_sessions_that_live() -> None:
    network = pair(both_dial=True)
    network.advance(3)
    for name, other in PAIRS:
        assert len(network.peers[name].engine.channels[other].sessions.open) == 2
        assert network.peers[name].engine.stats()["sessions"] == 2


def test_f6_a_stale_acknowledgement_after_a_rewind() -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen)
    acks: list[list[bytes]] = []

    def keep(sender: str, _: str, parts: list[bytes]) -> bool:
        if sender == "bank" and frames.decode(parts).type == frames.ACK:
            acks.append(parts)
        return False

    network.links.censor = keep
    receipts = [network.send("shop", "bank", body) for body in range(20)]
    assert settled(network, receipts, 5)
    network.crash("bank")
    network.delete_store("bank")
    network.restart("bank")
    network.advance(2)
    shop = network.peers["shop"]
    waiting = [network.send("shop", "bank", body, queue="later") for body in range(20, 30)]
    for parts in acks:
        for link in shop.engine.channels["bank"].sessions.open:
            shop.deliver(link, parts)
    network.advance(1)
    network.handler("bank", "later", seen)
    assert settled(network, waiting, 20)
    assert seen.bodies == list(range(30))


# --------------------------------------------------------------------------------------------------------- F7, F8


def test_f7_a_queue_without_a_handler_lets_no_other_message_expire() -> None:
    network, _, seen = watched(inbox_max_messages=30, inbox_max_bytes=20_000)
    network.handler("bank", "served", seen)
    stuck = [network.send("shop", "bank", f"{body:0200}", queue="nobody") for body in range(300)]
    network.advance(3)
    for body in range(1000, 1050):
        receipt = network.send("shop", "bank", body, queue="served", ttl=2)
        assert settled(network, [receipt], 3)
        assert receipt.outcome is Outcome.HANDLED
    assert not any(receipt.outcome for receipt in stuck)


def test_f8_an_entry_larger_than_the_other_side_takes() -> None:
    network = Network(1)
    network.peer("shop", {"bank": True})
    network.peer("bank", {"shop": False}, max_body_bytes=1000)
    seen = Seen()
    network.handler("bank", "default", seen)
    receipts = [network.send("shop", "bank", body) for body in (1, b"x" * 300_000, 3)]
    assert settled(network, receipts, 10)
    assert outcomes(receipts) == ["HANDLED", "EXHAUSTED", "HANDLED"]
    assert "takes" in (receipts[1].reason or "")
    assert rest(network) == {}


# ---------------------------------------------------------------------------------------------------------- F9, F10


def test_f9_a_prefetch_of_256_whose_first_message_kills_the_process() -> None:
    network, checker, _ = watched(prefetch=256)
    handled: list[int] = []

    def handle(delivery: Delivery) -> None:
        if delivery.body == 0:
            network.crash("bank")
        else:
            handled.append(delivery.body)

    network.handler("bank", "default", handle, workers=1, duration=0.01, retry=Retry.fixed(0.1, max_attempts=3))
    receipts = network.peers["shop"].send("bank", list(range(256)))
    for _ in range(8):
        network.advance(1)
        network.restart("bank")
    assert settled(network, receipts, 30)
    assert outcomes(receipts) == ["EXHAUSTED"] + ["HANDLED"] * 255
    assert (receipts[0].reason, receipts[0].attempts) == ("crash", 3)
    assert handled == list(range(1, 256)), "those behind it were never with a worker"
    checker.check_all_ended()
    assert rest(network) == {}


def test_f9_two_workers_pass_each_other_and_only_the_killer_is_blamed() -> None:
    network, _, _ = watched()
    handled: list[int] = []

    def handle(delivery: Delivery) -> None:
        if delivery.body == 3:
            network.crash("bank")
        else:
            handled.append(delivery.body)

    # Everyone else is slower, so that the killer always dies in company, until it is tried alone.
    network.handler(
        "bank",
        "default",
        handle,
        workers=4,
        duration=lambda d: 0.01 if d.body == 3 else 0.3,
        retry=Retry.fixed(0.1, max_attempts=2),
    )
    receipts = [network.send("shop", "bank", body) for body in range(8)]
    for _ in range(10):
        network.advance(2)
        network.restart("bank")
    assert settled(network, receipts, 30)
    assert outcomes(receipts) == ["HANDLED"] * 3 + ["EXHAUSTED"] + ["HANDLED"] * 4
    assert sorted(set(handled)) == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("seed", range(5))
def test_f9_a_recall_races_with_the_hand_over(seed: int) -> None:
    network, checker, seen = watched(seed, prefetch=8)
    network.handler("bank", "default", seen, workers=3, duration=0.002)
    receipts = []
    for body in range(200):
        receipts.append(network.send("shop", "bank", body))
        network.advance(0.001)
        network.recall(receipts[-1])
    assert settled(network, receipts, 30)
    kinds = set(outcomes(receipts))
    assert kinds <= {"HANDLED", "RECALLED"}
    checker.check_all_ended()
    assert rest(network) == {}


def test_f10_a_recall_between_two_attempts_is_no_recall() -> None:
    network, _, _ = watched()

    def fail(_: Delivery) -> None:
        raise RuntimeError("no")

    network.handler("bank", "default", fail, retry=Retry.fixed(3))
    receipt = network.send("shop", "bank", 1)
    network.advance(1)
    network.recall(receipt)
    assert settled(network, [receipt], 2)
    assert (receipt.outcome, receipt.reason, receipt.verdict) == (Outcome.EXHAUSTED, "recalled", Verdict.TOO_LATE)
    assert rest(network) == {}


@pytest.mark.parametrize("stop", [Network.crash, Network.close])
def test_f10_a_withdrawal_during_the_handler_outlives_the_process(stop: Callable[[Network, str], None]) -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen, duration=2)
    receipt = network.send("shop", "bank", 1)
    network.advance(0.5)
    network.recall(receipt)
    network.advance(0.2)
    assert receipt.verdict is Verdict.TOO_LATE
    stop(network, "bank")
    network.restart("bank")
    assert settled(network, [receipt], 20)
    assert (receipt.outcome, receipt.reason) == (Outcome.EXHAUSTED, "recalled")
    assert seen.bodies == [], "there is no further attempt"
    assert rest(network) == {}


# --------------------------------------------------------------------------------------------------------------- F11


def test_f11_death_between_the_end_of_a_message_and_its_callback() -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen)
    shop = network.peers["shop"]
    shop.command(c.Subscribe())
    receipts = [network.send("shop", "bank", body) for body in range(3)]
    assert settled(network, receipts)

    def untold() -> tuple[int, list[str]]:
        answers: list[tuple[int, list[c.Found]]] = []
        shop.command(c.TakeOutcomes(), answers.append)
        network.advance(0.1)
        return answers[0][0], [found.id for found in answers[0][1]]

    number, ids = untold()
    assert ids == [receipt.id for receipt in receipts]
    restart(network, "shop")
    network.advance(0.5)
    assert untold() == (number, ids), "no callback has returned"
    shop.command(c.ToldOutcomes(number))
    network.advance(0.1)
    restart(network, "shop")
    network.advance(0.5)
    assert untold() == (number, [])


# --------------------------------------------------------------------------------------------------------------- F12


@pytest.mark.parametrize("error_s", [3600, -3600])
def test_f12_a_clock_that_is_an_hour_off_and_then_stepped(error_s: int) -> None:
    network = Network(2)
    network.peer("shop", {"bank": True})
    shop = network.peers["shop"]
    network.crash("shop")
    network.delete_store("shop")
    shop.hardware.wall_error_us = error_s * 1_000_000
    network.restart("shop")
    network.peer("bank", {"shop": False})
    network.advance(1)
    for step_s in (error_s, 0, 7200):
        shop.hardware.wall_error_us = step_s * 1_000_000
        receipt = network.send("shop", "bank", step_s, queue="nobody", ttl=2)
        network.advance(1.95)
        assert receipt.outcome is None
        network.advance(0.15)
        assert receipt.outcome is Outcome.EXPIRED


def test_f12_a_suspended_receiver_hands_nothing_over_late() -> None:
    network, _, seen = watched()
    network.handler("bank", "default", seen, duration=0.4)
    receipts = [network.send("shop", "bank", body, ttl=1) for body in range(3)]
    network.advance(0.2)
    network.suspend("bank", 10)
    network.advance(10)
    assert settled(network, receipts, 20)
    assert outcomes(receipts) == ["HANDLED", "EXPIRED", "EXPIRED"]
    assert seen.bodies == [0]


def test_f12_a_reading_that_waited_in_a_socket() -> None:
    network, _, _ = watched()
    network.advance(5)
    network.suspend("bank", 2)
    network.advance(6)
    offset_us = network.peers["bank"].engine.channels["shop"].clock.offset_us
    assert offset_us is not None
    assert abs(offset_us) < 20_000
    receipt = network.send("shop", "bank", 1, queue="nobody", ttl=1)
    assert settled(network, [receipt], 1.15)


# ----------------------------------------------------------------------------------------------------------- F13, F14


@pytest.mark.parametrize("loser", ["shop", "bank"])
@pytest.mark.parametrize("seed", range(4))
def test_f13_power_loss_right_after_recalled_was_told(loser: str, seed: int) -> None:
    network, _, seen = watched(seed, durability="relaxed")
    receipts = [network.send("shop", "bank", body) for body in range(5)]
    network.advance(1)
    told: list[SimulatedReceipt] = []
    for receipt in receipts:
        network.recall(receipt)
    assert network.until(lambda: any(receipt.outcome for receipt in receipts), 5)
    told = [receipt for receipt in receipts if receipt.outcome is Outcome.RECALLED]
    assert told
    network.power_loss(loser)
    network.restart(loser)
    network.handler("bank", "default", seen)
    assert settled(network, receipts, 30)
    assert not {receipt.body for receipt in told} & set(seen.bodies)
    assert rest(network) == {}


def _keys(network: Network, name: str, table: int) -> list[bytes]:
    return network.peers[name].disk.keys(*tables.table_bounds(table), 100)


def test_f14_a_damaged_inbox_row_leaves_nobody_waiting() -> None:
    network, seen = pair(), Seen()
    receipts = [network.send("shop", "bank", body, key="k") for body in range(3)]
    network.advance(0.5)
    network.crash("bank")
    [run] = _keys(network, "bank", tables.INBOX)
    network.peers["bank"].disk.damage(run, 3 * 4 + 5)  # behind the three lengths
    network.restart("bank")
    network.handler("bank", "default", seen)
    assert network.until(lambda: all(receipt.outcome for receipt in receipts), 20)
    assert outcomes(receipts) == ["UNCERTAIN", "HANDLED", "HANDLED"]
    assert receipts[0].reason == "damaged"
    assert "damaged" in network.kinds("bank")
    assert len(_keys(network, "bank", tables.QUARANTINE)) == 1
    assert rest(network) == {}


@pytest.mark.parametrize("place", range(3 * 4))
def test_f14_damaged_lengths_of_neighbouring_rows_cost_none_of_them(place: int) -> None:
    network, seen = pair(), Seen()
    receipts = [network.send("shop", "bank", body, key="k") for body in range(3)]
    network.advance(0.5)
    network.crash("bank")
    network.peers["bank"].disk.damage(_keys(network, "bank", tables.INBOX)[0], place)
    network.restart("bank")
    network.handler("bank", "default", seen)
    assert settled(network, receipts, 20)
    assert seen.bodies == [0, 1, 2]
    assert rest(network) == {}


@pytest.mark.parametrize(("left", "outcome"), [(False, "EXHAUSTED"), (True, "UNCERTAIN")])
def test_f14_a_damaged_outbox_row_is_sent_as_void(left: bool, outcome: str) -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    if left:
        network.partition("shop", "bank")
    else:
        network.close("bank")
    network.advance(0.1)
    receipts = [network.send("shop", "bank", body) for body in range(3)]
    network.advance(0.2)
    network.crash("shop")
    network.peers["shop"].disk.damage(_keys(network, "shop", tables.OUTBOX)[1], 5)
    network.heal()
    network.restart("shop")
    network.restart("bank")
    assert settled(network, receipts, 20)
    assert outcomes(receipts) == ["HANDLED", outcome, "HANDLED"]
    assert seen.bodies == [0, 2]
    assert rest(network) == {}


def test_f14_a_damaged_outbox_row_is_not_judged_by_a_deadline_that_nobody_can_read() -> None:
    network = pair()
    network.close("bank")
    network.advance(0.1)
    receipt = network.send("shop", "bank", 1, ttl=1)
    network.advance(0.5)
    network.peers["shop"].disk.damage(_keys(network, "shop", tables.OUTBOX)[-1], 13)
    assert settled(network, [receipt], 2)
    assert (receipt.outcome, receipt.reason) == (Outcome.EXHAUSTED, "damaged")


def test_f14_a_damaged_control_entry_is_made_up_for_by_state() -> None:
    network, seen = pair(), Seen()
    network.handler("bank", "default", seen)
    network.partition("bank", "shop", one_way=True)
    receipts = [network.send("shop", "bank", body) for body in range(3)]
    network.advance(0.5)
    assert seen.bodies == [0, 1, 2]
    network.crash("bank")
    network.peers["bank"].disk.damage(_keys(network, "bank", tables.OUTBOX)[0], 10)
    network.heal()
    network.restart("bank")
    assert settled(network, receipts, 30)
    assert set(outcomes(receipts)) <= {"UNCERTAIN", "HANDLED"}
    assert rest(network) == {}


# ---------------------------------------------------------------------- one rule at a time, against a hand-made peer


def too_late(host: Host) -> bool:
    return any(isinstance(notice, HandedOver) for notice in host.notices)


def message(host: Host, body: bytes, ttl_s: float = 0) -> bytes:
    now_us = host.now().store_us
    return encode_messages([body], now_us, now_us + int(ttl_s * 1e6) if ttl_s else 0, b"")[0]


def next_row(host: Host, queue: str = QUEUE) -> Row | None:
    host.turn()
    return host.buffers[queue].take(host.now().store_us)


def test_f1_what_had_no_room_in_the_window_is_recalled_at_once() -> None:
    """A mark raised ahead of what leaves makes a recall wait for a peer that was sent nothing: the mark is exact."""
    a, _, pump = pumped(window_bytes=1024)
    lane = a.send("b", b"1" * 900, b"2" * 900).lane
    pump.run(lambda host, frame: False)
    a.reopen()
    a.turn([], c.Connect("b", None))
    found = a.turn([], c.Recall([(lane.no, 1), (lane.no, 2)]))[0]
    assert [each.ended and each.ended.outcome for each in found] == [None, Outcome.RECALLED]


def test_f4_control_entries_about_another_store_are_acknowledged_and_ignored() -> None:
    """What is said of messages of a store that is gone is taken for its successor's: entries name their store."""
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    lane = host.send("puppet", b"1", b"2").lane
    own, gone = host.engine.shared.ledger.store_id, 0xDEAD
    puppet.settle(lane.id, 1, Outcome.RECALLED, store_id=gone)
    puppet.control(Notice(gone, lane.id, 1, 5))
    puppet.control(State(puppet.store_id, gone, [InLaneState(lane.id, 1, 2, [], [])], [], True))
    puppet.control(State(gone, own, [InLaneState(lane.id, 1, 2, [], [])], [], True))
    assert host.outcomes() == []
    assert not too_late(host)
    host.time.pass_s(0.02)  # for so long they wait for company
    host.turn()
    assert puppet.last(frames.ACK).fields[0][-1].floor == 4
    puppet.settle(lane.id, 1, Outcome.HANDLED, 2)
    assert host.outcomes() == [(1, "HANDLED", None), (2, "HANDLED", None)]


def test_f4_a_withdrawal_by_a_store_that_is_gone_kills_no_message_of_its_successor() -> None:
    """A WITHDRAW of a store that is gone comes late and names numbers that its successor uses: it names its store."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    puppet.data(1, message(host, b"received"))
    (lane_id,) = host.engine.channels["puppet"].theirs
    puppet.control(Withdraw(puppet.store_id ^ 1, lane_id, DATA, QUEUE, [(1, 2)], Cause.RECALL))
    puppet.data(2, message(host, b"to come"))
    assert [bytes(host.take().body) for _ in range(2)] == [b"received", b"to come"]
    assert puppet.settlements() == []


def test_f6_sixty_four_byes_end_one_session() -> None:
    """Each of 64 BYEs for old frames ends the session that came after: a BYE counts only for the one that it names."""
    a, b, pump = pumped()
    (old,) = a.engine.channels["b"].sessions.open.values()
    for n in range(64):
        a.send("b", b"%d" % n)
    late, a.out = a.out, []
    b.reopen()
    b.turn([], c.Connect("a", None))
    for frame in late:
        b.turn([frame])
    byes, b.out = b.out, []
    assert {frames.decode(parts)[:2] for _, parts in byes} == {(frames.BYE, old.id)}
    a.turn(byes[:1])
    pump.pass_s(1)
    (current,) = a.engine.channels["b"].sessions.open.values()
    for bye in byes[1:]:
        a.turn([bye])
    assert list(a.engine.channels["b"].sessions.open.values()) == [current]
    assert current is not old


def test_f6_sixty_four_old_frames_at_once_draw_one_bye() -> None:
    """Each of 64 old frames draws a BYE: one a turn and link is enough."""
    host = Host("b", Time(), **PATIENT)
    host.serve()
    puppet = Puppet(host)
    puppet.forget()
    old = frames.encode([frames.PING, b"an old session__", puppet.instance, 1, 5])
    host.turn([(puppet.link, old)] * 64)
    assert puppet.types() == ["BYE"]
    puppet.data(1, message(host, b"1"))
    assert next_row(host) is not None


@pytest.mark.parametrize("limit", [{"inbox_max_messages": 8}, {"inbox_max_bytes": 8192}])
def test_f7_a_full_queue_stops_only_itself(limit: dict[str, int]) -> None:
    """What fills one queue takes all the room there is: each lane has credit of its own, which always admits one."""
    a, b, pump = pumped(window_bytes=4096, max_body_bytes=2048, **limit)
    a.send("b", *[b"x" * 1000] * 100, queue="nobody")
    pump.pass_s(2)
    assert 4 <= b.engine.stats()["inbox_messages"] <= 8
    for n in range(10):
        a.send("b", b"%d" % n, deadline_us=a.now().store_us + 2_000_000)
        pump.pass_s(0.5)
        row = next_row(b)
        assert row is not None, f"message {n} waits behind the other queue"
        b.finish(row, HANDLED)
    pump.pass_s(3)
    assert [outcome for _, outcome, _ in a.outcomes()] == ["HANDLED"] * 10


def test_f7_a_full_queue_leaves_the_others_half_of_their_share() -> None:
    """Not just one message at a time: a queue that is served gets a burst in though another has all it can take."""
    a, b, pump = pumped(inbox_max_messages=40)
    a.send("b", b"known")
    pump.run()
    b.finish(b.take(), HANDLED)
    a.send("b", *[b"x"] * 100, queue="nobody")
    pump.pass_s(2)
    a.send("b", *[b"y"] * 10)
    pump.pass_s(0.2)
    assert len(list(iter(lambda: next_row(b), None))) == 10
    assert b.engine.stats()["inbox_messages"] == 40


def test_f6_an_acknowledgement_of_the_session_before_does_not_undo_a_rewind() -> None:
    """A session begins at a lower floor, and a stale ACK says that more was received: it names another session."""
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    stored = host.send("puppet", b"1", b"2", b"3")
    before = puppet.session
    puppet.dial(b"rewound_", floors=[[stored.lane.id, 1]])
    puppet.forget()
    puppet.say(frames.ACK, [[stored.lane.id, 3, 10**6, 2**40, False]], session=before)
    host.time.pass_s(10)
    host.turn()
    resent = puppet.last(frames.DATA).fields[0]
    assert (resent.first_seq, resent.runs) == (2, [2])


def test_f9_who_ran_beside_a_killer_is_not_exhausted_by_it() -> None:
    """Two run when the process dies, both at their last attempt: a crash exhausts only what ran alone."""
    a, b, pump = pumped()
    b.serve(QUEUE, Policy(Retry.fixed(1.0, max_attempts=1)))
    a.send("b", b"killer", b"innocent", b"third")
    pump.run()
    b.take(), b.take()
    b.reopen()
    row = next_row(b)
    assert row is not None
    assert bytes(row.body) == b"killer"
    assert next_row(b) is None, "suspects are handed over one at a time, and nothing else meanwhile"
    b.reopen()
    rest = []
    while (row := next_row(b)) is not None:
        rest.append((bytes(row.body), row.redelivered))
        b.finish(row, HANDLED)
    assert rest == [(b"innocent", True), (b"third", False)]
    pump.connect()
    pump.pass_s(1)
    assert sorted(a.outcomes()) == [(1, "EXHAUSTED", "crash"), (2, "HANDLED", None), (3, "HANDLED", None)]


@pytest.mark.parametrize("taken", ["before", "at the commit"])
def test_f9_a_pop_at_the_commit_of_recalled(taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes a message while its RECALLED is being committed: taking it is one step, who does it decides."""
    a, b, pump = pumped()
    stored = a.send("b", b"1")
    pump.run()
    rows: list[Row] = []
    commit = b.store.commit

    def take() -> None:
        row = b.buffers[QUEUE].take(b.now().store_us)
        if row is not None:
            rows.append(row)

    def take_at_commit() -> bool:
        take()
        wrote = commit()
        take()
        return wrote

    if taken == "before":
        take()
    monkeypatch.setattr(b.store, "commit", take_at_commit)
    a.recall(stored)
    pump.run()
    monkeypatch.undo()
    if taken == "at the commit":
        assert rows == []
        assert a.outcomes() == [(1, "RECALLED", "recalled")]
        return
    assert [row.withdrawn for row in rows] == [Cause.RECALL]
    assert too_late(a)
    b.finish(rows[0], HANDLED)
    pump.run()
    assert a.outcomes() == [(1, "HANDLED", None)]


def test_f12_a_worker_that_wakes_before_the_loop_does_takes_nothing_that_is_overdue() -> None:
    """A suspended machine wakes up, and a worker is faster than the loop: the deadline is judged as a row is taken."""
    a, b, pump = pumped()
    a.send("b", b"1", deadline_us=a.now().store_us + 10_000_000)
    pump.run()
    assert len(b.buffers[QUEUE]) == 1
    b.time.pass_s(20)
    assert b.buffers[QUEUE].take(b.now().store_us) is None
    pump.pass_s(1)
    assert a.outcomes() == [(1, "EXPIRED", "deadline")]


def test_f12_a_pong_that_waited_for_an_hour_is_not_believed() -> None:
    """A PONG waits in a socket, and the other's clock seems half an hour slow: the best round trip counts."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    late_us = host.now().store_us
    host.time.pass_s(3600)
    now_us = host.now().store_us
    puppet.say(frames.PONG, now_us, now_us, now_us)
    puppet.say(frames.PONG, late_us, late_us, late_us)
    puppet.data(1, message(host, b"1", ttl_s=10), message(host, b"2", ttl_s=20))
    host.time.pass_s(15)
    row = next_row(host)
    assert row is not None
    assert bytes(row.body) == b"2"
    assert puppet.settlements() == [(1, "EXPIRED", "deadline", False)]


def test_f12_a_reading_that_echoes_nothing_is_no_reading() -> None:
    """A HELLO with a reading an hour old is taken for the sender's time: only what echoes one's own reading counts."""
    host = Host("b", Time(), **PATIENT)
    host.serve()
    puppet = Puppet(host, dial=False)
    now_us = host.now().store_us
    puppet.say(frames.HELLO, puppet.identity(), now_us - 3_600_000_000)
    puppet.session = puppet.last(frames.WELCOME).session
    not_said_yet_us = now_us + 5_000_000
    puppet.say(frames.OPEN, puppet.identity(), [not_said_yet_us] * 3, puppet.info())
    puppet.data(1, message(host, b"1", ttl_s=10), message(host, b"2"))
    row = next_row(host)
    assert row is not None
    assert bytes(row.body) == b"2", "what has a deadline waits until its sender's clock is known"
    puppet.say(frames.PONG, now_us, now_us + 3_600_000_000, now_us + 3_600_000_000)
    assert next_row(host) is None, "its sender is an hour ahead, so it is overdue"
    assert puppet.settlements() == [(1, "EXPIRED", "deadline", False)]


def test_f13_a_recall_is_told_only_after_a_flush() -> None:
    """RECALLED is told, the power fails, and the message is there again and is sent: nothing is told unflushed."""
    a, b, pump = pumped(durability="relaxed")
    a.turn([], c.Disconnect("b"))
    stored = a.send("b", b"1")
    a.turn(flush=True)
    a.turn([], c.Recall([(stored.lane.no, 1)]))
    assert a.answers == {}
    assert a.outcomes() == []
    a.store.lose_unflushed()
    a.reopen("rebooted")
    pump.connect()
    pump.pass_s(1)
    row = next_row(b)
    assert row is not None
    b.finish(row, HANDLED)
    pump.pass_s(1)
    assert a.outcomes() == [(1, "HANDLED", None)]


def test_f13_a_settlement_leaves_only_after_a_flush() -> None:
    """A receiver settles RECALLED, its power fails, and it hands the message over: a SETTLE leaves when flushed."""
    a, b, pump = pumped(durability="relaxed")
    stored = a.send("b", b"1")
    pump.run()
    for host in (a, b):
        host.turn(flush=True)
    a.turn([], c.Recall([(stored.lane.no, 1)]))
    a.turn(flush=True)
    pump.run()
    assert b.engine.stats()["inbox_messages"] == 0, "it was settled"
    a.turn(flush=True)
    assert a.outcomes() == []
    b.store.lose_unflushed()
    b.reopen("rebooted")
    row = next_row(b)
    assert row is not None, "what is flushed is all that is known"
    pump.connect()
    pump.pass_s(3)
    b.finish(row, HANDLED)
    pump.pass_s(3)
    assert a.outcomes() == [(1, "HANDLED", None)]


def test_f14_a_damaged_withdrawal_is_said_again() -> None:
    """A WITHDRAW is damaged before it was received, and the recall is pending for ever: what is in force is said
    again."""
    a, b, pump = pumped()
    stored = a.send("b", b"1", b"2", queue="nobody")
    pump.run()
    a.recall(stored)
    pump.run(lambda host, frame: False)
    control = a.engine.channels["b"].out[(CONTROL, "")]
    [entry] = a.store.keys(*tables.lane_bounds(tables.OUTBOX, control.no, control.next_seq - 1), 2)
    a.store.damage(entry, 8)
    a.reopen()
    pump.connect()
    pump.pass_s(60)
    assert "damaged" in a.kinds()
    assert a.outcomes() == [(1, "RECALLED", "recalled")]
    b.serve("nobody")
    row = next_row(b, "nobody")
    assert row is not None
    assert bytes(row.body) == b"2"
