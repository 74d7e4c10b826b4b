"""What the core tells of the messages that lie in a store: listings page by page, dead letters, and their history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.pump import QUEUE, START_US, Host, Pump, Time, pair
from zmqrel.core import commands as c
from zmqrel.core import dead, history, listing, tables
from zmqrel.core.buffer import HANDLED, Failed, MoveTo, Rejected, RetryAt
from zmqrel.core.entries import Meta, decode_head, encode_messages, encode_meta
from zmqrel.core.history import Happened
from zmqrel.errors import StoreFull


def all_pages(host: Host, command: Any) -> list[list[Any]]:
    pages = []
    for _ in range(1000):
        page = host.turn([], command)[0]
        pages.append(page.items)
        if not page.left:
            return pages
        command.left = page.left
    raise AssertionError("the listing never ends")


def body(record: bytes) -> bytes:
    return record[decode_head(record).body_at : -4]


def outbox(host: Host) -> list[bytes]:
    return [body(item.record) for page in all_pages(host, c.ListOutbox()) for item in page]


def inbox(host: Host, queue: str | None = None) -> list[bytes]:
    return [body(item.record) for page in all_pages(host, c.ListInbox(queue)) for item in page]


def whats(happened: history.History) -> list[tuple[str, str | None]]:
    return [(event.what, event.detail) for event in happened]


def letters(host: Host) -> list[tuple[int, dead.DeadLetter]]:
    found, more = host.turn([], c.ListDead())[0]
    assert not more
    return list(found)


def with_inbox(*bodies: bytes, **options: Any) -> tuple[Host, Host, Pump]:
    """Messages that have come and that nobody has taken."""
    a, b, pump = pair(**options)
    a.send("b", *bodies, queue="other")
    pump.run()
    return a, b, pump


# ------------------------------------------------------------------------------------------------------------ outbox


def test_an_empty_store_lists_nothing() -> None:
    a, b, _ = pair()
    assert (outbox(a), inbox(b), letters(b)) == ([], [], [])
    assert a.turn([], c.LastDead()) == [0]


def test_the_outbox_is_listed_in_the_order_of_sending_over_all_peers_and_queues() -> None:
    time = Time()
    host = Host("a", time)
    for peer in ("b", "c"):
        host.turn([], c.Connect(peer, None))
    for n in range(9):
        host.send("bc"[n % 2], b"%d" % n, queue="xyz"[n % 3])
        time.pass_s(0.001)
    assert outbox(host) == [b"%d" % n for n in range(9)]
    found = all_pages(host, c.ListOutbox())[0][1].found
    assert (found.lane.peer, found.lane.queue, found.ended) == ("c", "y", None)


@pytest.mark.parametrize("limit", ["rows", "bytes"])
def test_a_page_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    a, b, _pump = with_inbox(*[b"%03d" % n for n in range(20)])
    monkeypatch.setattr(listing, "MOST_ROWS" if limit == "rows" else "MOST_BYTES", 6 if limit == "rows" else 150)
    sent, came = all_pages(a, c.ListOutbox()), all_pages(b, c.ListInbox())
    assert [len(page) for page in came] == [6, 6, 6, 2] if limit == "rows" else max(map(len, came)) < 20
    assert [len(page) for page in sent] == [len(page) for page in came]
    assert [body(item.record) for page in came for item in page] == [b"%03d" % n for n in range(20)]


def test_what_ends_or_comes_between_two_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_ROWS", 2)
    a, b, pump = with_inbox(b"1", b"2", b"3", b"4", b"5")
    first_out, first_in = a.turn([], c.ListOutbox())[0], b.turn([], c.ListInbox())[0]
    b.serve("other")
    b.turn()
    for _ in range(3):
        b.finish(b.take("other"), HANDLED)
    a.send("b", b"6", queue="other")
    pump.run()
    assert [body(item.record) for item in first_out.items] == [b"1", b"2"]
    assert [body(item.record) for item in first_in.items] == [b"1", b"2"]
    assert [body(item.record) for page in all_pages(a, c.ListOutbox(first_out.left)) for item in page] == [b"4", b"5"]
    assert [body(item.record) for page in all_pages(b, c.ListInbox(None, first_in.left)) for item in page] == [
        b"4",
        b"5",
    ]
    assert inbox(b) == [b"4", b"5", b"6"]


@pytest.mark.parametrize(
    ("harm", "left"),
    [(lambda run: run[:-1] + bytes((run[-1] ^ 1,)), [b"1", b"2"]), (lambda run: b"short", [])],
    ids=["the last record", "all of them"],
)
def test_a_damaged_row_is_left_out_and_not_settled_by_looking(
    harm: Callable[[bytes], bytes], left: list[bytes]
) -> None:
    a, b, _pump = with_inbox(b"1", b"2", b"3")
    lane = next(lane for lane in a.engine.shared.out_lanes.values() if lane.queue == "other")
    for host, bounds in ((a, tables.lane_bounds(tables.OUTBOX, lane.no)), (b, tables.table_bounds(tables.INBOX))):
        [(key, run)] = host.store.scan(*bounds, 9)
        host.store.put(key, harm(run))
    assert (outbox(a), inbox(b)) == (left, left)
    assert b.engine.stats()["damaged"] == 0


def test_a_lane_that_is_gone_meanwhile_ends_its_part() -> None:
    a, b, _ = with_inbox(b"1")
    gone = [c.LanePart(99, 1, 5)]
    assert (a.turn([], c.ListOutbox(gone))[0].items, b.turn([], c.ListInbox(None, gone))[0].items) == ([], [])


# ------------------------------------------------------------------------------------------------------------- inbox


def test_the_inbox_of_one_queue_with_what_was_moved_there() -> None:
    a, b, pump = with_inbox(b"1", b"2", b"3")
    b.serve("other")
    a.send("b", b"4", queue="third")
    pump.run()
    b.finish(b.take("other"), MoveTo("third"))
    b.finish(b.take("other"), RetryAt(1_000_000, "later"))
    assert inbox(b, "third") == [b"1", b"4"]
    assert inbox(b, "other") == [b"2", b"3"]
    assert inbox(b) == [b"1", b"2", b"3", b"4"]
    assert inbox(b, "nowhere") == []
    moved = all_pages(b, c.ListInbox("third"))[0][0]
    assert (moved.queue, moved.attempts, moved.in_hand) == ("third", 0, False)
    assert whats(moved.history)[2:] == [("moved", "attempt 1: from other to third")]


def test_a_page_reads_only_so_many_rows_of_other_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_PASSED", 3)
    a, b, pump = with_inbox(*[b"%d" % n for n in range(9)])
    b.serve("other")
    b.turn()
    for n in range(8):
        b.finish(b.take("other"), MoveTo("third" if n == 7 else "fourth"))
    pages = all_pages(b, c.ListInbox("third"))
    assert [len(page) for page in pages] == [0, 0, 1]
    assert [body(item.record) for page in pages for item in page] == [b"7"]
    assert inbox(b, "other") == [b"8"]
    assert inbox(b, "fourth") == [b"%d" % n for n in range(7)]
    a.send("b", b"9", queue="third")
    pump.run()
    assert sorted(inbox(b, "third")) == [b"7", b"9"]
    assert inbox(b, "fourth") == [b"%d" % n for n in range(7)]


def test_what_is_told_of_a_message_of_the_inbox() -> None:
    a, b, pump = pair()
    hour_us = 3_600_000_000
    a.send("b", b"x", deadline_us=START_US + hour_us, headers={"h": 1}, key="k")
    pump.run()
    b.turn()
    waiting = all_pages(b, c.ListInbox())[0][0]
    assert (waiting.sender, waiting.queue, waiting.attempts, waiting.in_hand) == ("a", QUEUE, 0, False)
    assert abs(waiting.deadline_us - waiting.sent_us - hour_us) < 1_000_000
    assert whats(waiting.history) == [("stored", None), ("received", None)]
    row = b.take()
    held = all_pages(b, c.ListInbox())[0][0]
    assert (held.attempts, held.in_hand, held.redelivered) == (1, True, False)
    assert whats(held.history)[-1] == ("handed over", "attempt 1")
    b.finish(row, Failed("ValueError: no"))
    failed = all_pages(b, c.ListInbox())[0][0]
    assert (failed.attempts, failed.in_hand, failed.ready_us) == (1, False, b.now().store_us + 1_000_000)
    assert whats(failed.history)[-1] == ("attempt failed", "attempt 1: ValueError: no")
    b.reopen()
    assert whats(all_pages(b, c.ListInbox())[0][0].history) == whats(failed.history)


def test_history_survives_a_crash_and_says_which_attempt_it_was() -> None:
    a, b, pump = pair()
    a.send("b", b"x")
    pump.run()
    b.take()
    b.reopen()
    row = all_pages(b, c.ListInbox())[0][0]
    assert row.redelivered
    assert whats(row.history)[-1] == ("attempt failed", "attempt 1: the process ended before it was settled")


def test_when_a_delayed_message_came_is_not_kept() -> None:
    a, b, pump = pair()
    a.send("b", b"x", not_before_us=START_US + 60_000_000)
    pump.run()
    row = all_pages(b, c.ListInbox())[0][0]
    assert whats(row.history) == [("stored", None)]
    assert abs(row.ready_us - START_US - 60_000_000) < 1_000_000


def test_the_latest_happenings_are_kept() -> None:
    before: history.History = ()
    for n in range(history.MOST_KEPT + 5):
        before = history.added(before, history.failed(n, n, "x" * 1000))
    assert [event.at_us for event in before] == list(range(5, history.MOST_KEPT + 5))
    assert {len(event.detail or "") for event in before} == {200}


def test_a_message_is_found_by_the_id_that_zmqrel_made() -> None:
    a, b, pump = with_inbox(b"1", b"2")
    stored = a.send("b", b"3", queue="other", id="mine")
    pump.run()
    made = f"{stored.lane.id:016x}-2"
    assert [body(item.record) for item in b.turn([], c.FindReceived(made))[0]] == [b"2"]
    for other in ("mine", f"{stored.lane.id:016x}-9", f"{stored.lane.id:016x}-x", f"{stored.lane.id:016x}-0", "x-1"):
        assert b.turn([], c.FindReceived(other))[0] == []
    assert b.turn([], c.FindReceived(f"{'0' * 16}-1"))[0] == []


# -------------------------------------------------------------------------------------------------------------- dead


def rejected(count: int, **options: Any) -> tuple[Host, Host, Pump]:
    """Messages 0, 1, ... that were rejected, a second apart."""
    a, b, pump = pair(**options)
    for n in range(count):
        a.send("b", b"%d" % n, key="k", headers={"h": n}, max_attempts=7)
        pump.run()
        b.turn()
        b.finish(b.take(), Rejected("no good"))
        pump.run()
        pump.pass_s(1)
    return a, b, pump


def test_a_dead_letter_tells_what_happened() -> None:
    a, b, pump = pair()
    a.send("b", b"x")
    pump.run()
    b.turn()
    for n in range(3):
        b.finish(b.take(), Failed(f"reason {n}"))
        pump.pass_s(1.1)
    [(number, letter)] = letters(b)
    assert (number, letter.cause, letter.reason, letter.attempts) == (1, "exhausted", "reason 2", 3)
    assert whats(letter.history) == [
        ("stored", None),
        ("received", None),
        ("attempt failed", "attempt 1: reason 0"),
        ("attempt failed", "attempt 2: reason 1"),
        ("handed over", "attempt 3"),
        ("attempt failed", "attempt 3: reason 2"),
        ("settled", "EXHAUSTED: reason 2"),
    ]
    times = [event.at_us for event in letter.history]
    assert times == sorted(times)


def test_a_deadline_in_the_handler_is_told_in_the_history() -> None:
    a, b, pump = pair()
    a.send("b", b"x", deadline_us=START_US + 2_000_000)
    pump.run()
    b.turn()
    row = b.take()
    pump.pass_s(3)
    in_hand = [("handed over", "attempt 1"), ("expired", "while a worker had it")]
    assert whats(all_pages(b, c.ListInbox())[0][0].history)[2:] == in_hand
    b.finish(row, Failed("too late"))
    [(_, letter)] = letters(b)
    assert letter.cause == "deadline"
    assert whats(letter.history)[2:] == [*in_hand, ("settled", "EXHAUSTED: deadline")]


def test_the_sender_keeps_what_it_judged_itself() -> None:
    time = Time()
    host = Host("a", time)
    host.turn([], c.Connect("b", None))
    host.send("b", b"x", deadline_us=host.now().store_us + 5)
    time.pass_s(1)
    host.turn()
    [(_, letter)] = letters(host)
    assert (letter.sender, letter.to, letter.cause, letter.sent_us) == ("a", "b", "expired", START_US)
    assert letter.history[0] == Happened(START_US, "stored")
    assert whats(letter.history)[-1] == ("settled", "EXPIRED: deadline")


def test_dead_letters_are_listed_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    _, b, _ = rejected(5)
    monkeypatch.setattr(dead, "_MOST_LISTED", 2)
    first, more = b.turn([], c.ListDead())[0]
    assert ([number for number, _ in first], more) == ([1, 2], True)
    assert [number for number, _ in b.turn([], c.ListDead(2, 3))[0][0]] == [3]
    monkeypatch.setattr(dead, "_MOST_LISTED", 100)
    monkeypatch.setattr(dead, "_MOST_LISTED_BYTES", 1)
    first, more = b.turn([], c.ListDead())[0]
    assert ([number for number, _ in first], more) == ([1], True)


def test_a_retried_letter_is_a_new_message_of_this_peer() -> None:
    a, b, pump = rejected(2)
    [(number, letter), _] = letters(b)
    new_id = b.turn([], c.RetryDead(number))[0]
    assert new_id not in (None, letter.id)
    [message] = b.turn([], c.FindReceived(new_id))[0]
    head = decode_head(message.record)
    assert (message.sender, message.queue, body(message.record)) == ("b", QUEUE, b"0")
    assert (head.meta.key, head.meta.headers, head.meta.max_attempts) == ("k", {"h": 0}, 7)
    assert (head.meta.origin_id, head.meta.cause, head.deadline_us) == (letter.id, "rejected", 0)
    assert [n for n, _ in letters(b)] == [2]
    assert b.turn([], c.RetryDead(number)) == [None]
    b.turn()
    row = b.take()
    assert (row.attempts, row.redelivered) == (1, False)
    b.finish(row, HANDLED)
    pump.run()
    assert [outcome for _, outcome, _ in a.outcomes()] == ["REJECTED", "REJECTED"]
    stats = b.engine.stats()
    assert (stats["dead_retried"], stats["dead_messages"], stats["inbox_messages"]) == (1, 1, 0)


def test_a_letter_may_be_retried_in_another_queue() -> None:
    _, b, _ = rejected(1)
    new_id = b.turn([], c.RetryDead(1, "second"))[0]
    assert b.turn([], c.FindReceived(new_id))[0][0].queue == "second"


def test_a_full_store_retries_no_letter_and_purges() -> None:
    _, b, _ = rejected(2)
    b.engine.set_accepting(False)
    answer = b.turn([], c.RetryDead(1))[0]
    assert isinstance(answer, StoreFull)
    assert len(letters(b)) == 2
    assert b.turn([], c.PurgeDead(1, 2)) == [(2, False)]


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_letters_are_purged_in_parts(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    _, b, _ = rejected(5)
    monkeypatch.setattr(dead, "_PURGED_AT_ONCE", at_once)
    purged, more = b.turn([], c.PurgeDead(1, 4))[0]
    assert (purged, more) == (min(at_once, 4), at_once < 4)
    while more:
        count, more = b.turn([], c.PurgeDead(1, 4))[0]
        purged += count
    assert purged == 4
    assert [number for number, _ in letters(b)] == [5]
    stats = b.engine.stats()
    assert (stats["dead_messages"], stats["dead_purged"]) == (1, 4)
    assert stats["dead_bytes"] == sum(len(data) for _, data in b.store.scan(*tables.table_bounds(tables.DEAD), 9))


def test_letters_are_purged_up_to_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, b, _ = rejected(5)
    died = [letter.at_us for _, letter in letters(b)]
    assert b.turn([], c.PurgeDead(1, 5, died[0])) == [(0, False)]
    assert b.turn([], c.PurgeDead(1, 5, died[1])) == [(1, False)]
    monkeypatch.setattr(dead, "_MOST_LISTED", 2)
    assert b.turn([], c.PurgeDead(1, 5, died[4])) == [(2, True)]
    assert b.turn([], c.PurgeDead(1, 5, died[4])) == [(1, False)]
    assert [number for number, _ in letters(b)] == [5]


def test_a_lower_limit_holds_from_the_next_start_on() -> None:
    _, b, _ = rejected(3)
    size = b.engine.stats()["dead_bytes"]
    b.options = type(b.options)(dead_max_bytes=size - 1)
    b.reopen("clean")
    b.turn()
    assert [number for number, _ in letters(b)] == [2, 3]
    b.options = type(b.options)(dead_retention_s=0)
    b.reopen("clean")
    b.time.pass_s(1)
    b.turn()
    assert letters(b) == []
    assert b.engine.stats()["dead_expired"] == 2


def test_under_relaxed_durability_a_letter_is_told_after_a_flush() -> None:
    _, b, pump = rejected(1, durability="relaxed")
    a = pump.hosts[0]
    a.send("b", b"x")
    pump.run()
    b.turn()
    b.buffers[QUEUE].finish(b.take(), Rejected("no"))
    asked = c.ListDead()
    assert b.turn([], asked) == [None]
    b.turn(flush=True)
    assert len(b.answers[asked][0]) == 2


def test_a_lying_clock_gives_times_that_can_be_stored() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"x")
    assert stored
    pump.run()
    lane = next(lane for lane in b.engine.shared.in_lanes.values() if lane.queue == QUEUE)
    b.engine.channels["a"].clock.offset_us = 2**62
    record = encode_messages([b"x"], 5, 0, encode_meta(Meta()))[0]
    assert b.engine._inbox.rows.sent_us(lane, decode_head(record)) == 0


def test_a_damaged_message_becomes_no_dead_letter() -> None:
    host = Host("a", Time())
    host.turn([], c.Connect("b", None))
    stored = host.send("b", b"x", deadline_us=host.now().store_us + 5)
    [key] = host.store.keys(*tables.table_bounds(tables.OUTBOX), 9)
    record = host.store.get(key)
    assert record is not None
    host.store.put(key, record[:-1] + bytes((record[-1] ^ 1,)))
    host.time.pass_s(1)
    host.turn()
    assert host.outcomes() == [(stored.first, "EXHAUSTED", "damaged")]
    assert letters(host) == []
