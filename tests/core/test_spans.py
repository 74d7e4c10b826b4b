"""Messages that came together: whatever is done with single ones of them, it is as if each had come alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.core.pump import QUEUE, Host, Positions, Pump, acknowledge, pair
from zmqrel.core import commands as c
from zmqrel.core.buffer import HANDLED, Buffer, Failed, MoveTo, Rejected, RetryAt, one_by_one
from zmqrel.core.row import Place, Row, Span
from zmqrel.outcome import Cause

RESULTS: list[Any] = [HANDLED, HANDLED, HANDLED, Rejected("no"), Failed("oops"), RetryAt(0, None), MoveTo("other")]
STEPS = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 4)),
    st.tuples(st.just("finish"), st.integers(0, 6)),
    st.tuples(st.just("recall"), st.integers(1, 12)),
    st.tuples(st.just("list"), st.just(0)),
    st.tuples(st.just("send"), st.integers(1, 4)),
    st.tuples(st.just("reopen"), st.just(0)),
)


class Run:
    """Two peers, one of which sends in batches or one by one; workers take from spans with or without the lock."""

    def __init__(self, together: bool, locked: bool) -> None:
        self.a, self.b, self.pump = pair()
        self.b.serve("other")
        self.together = together
        self.locked = locked
        self.running: list[tuple[Row, Positions | None]] = []
        self.sent: list[tuple[int, int]] = []
        self.told: list[object] = []
        self.results = iter(RESULTS * 100)
        self.send(8)

    def send(self, count: int) -> None:
        bodies = [b"%d" % (len(self.sent) + number) for number in range(count)]
        for batch in [bodies] if self.together else [[body] for body in bodies]:
            stored = self.a.send("b", *batch)
            self.sent += [(stored.lane.no, stored.first + at) for at in range(len(batch))]
        # Once: a row that waits for another attempt may be claimed between two arrivals, and is before one of them.
        self.settle()

    def settle(self) -> None:
        self.pump.run()

    def step(self, what: str, number: int) -> None:
        if what == "take":
            for _ in range(number):
                row, positions = self.take()
                if row is not None:
                    self.told.append(("handed over", bytes(row.body), row.attempts, row.redelivered))
                    self.running.append((row, positions))
        elif what == "finish" and self.running:
            row, positions = self.running.pop(number % len(self.running))
            result = next(self.results)
            if positions is not None and result is HANDLED:
                acknowledge(positions)
            else:
                self.b.buffers[QUEUE].finish(row, result)
        elif what == "recall":
            self.a.turn([], c.Recall([self.sent[number % len(self.sent)]]))
        elif what == "list":
            page = self.b.turn([], c.ListInbox())[0]
            self.told.append(sorted((item.record, item.in_hand, item.attempts) for item in page.items))
        elif what == "send":
            self.send(number)
        elif what == "reopen":
            self.b.reopen()
            self.b.serve("other")
            self.running.clear()
            self.pump.connect()
        self.settle()

    def take(self) -> tuple[Row | None, Positions | None]:
        buffer, now_us = self.b.buffers[QUEUE], self.b.now().store_us
        span = None if self.locked else buffer.next_span()
        if span is None:
            return buffer.take(now_us), None
        positions = buffer.hand_out(span, lambda: now_us)
        return span.row(next(positions)), positions

    def end(self) -> tuple[object, ...]:
        for queue in (QUEUE, "other"):
            for row in [row for row, _ in self.running if row.queue == queue]:
                self.b.buffers[queue].finish(row, HANDLED)
        self.running.clear()
        for _ in range(200):
            self.pump.pass_s(1)
            for queue in (QUEUE, "other"):
                while (row := self.b.buffers[queue].take(self.b.now().store_us)) is not None:
                    self.told.append(("at the end", queue, bytes(row.body), row.attempts))
                    self.b.buffers[queue].finish(row, HANDLED)
            if not self.a.engine.stats()["outbox_messages"]:
                break
        found = [self.a.engine.found(*place) for place in self.sent]
        return self.told, [(item and item.ended and (item.ended[0], item.ended[1], item.ended[2])) for item in found]


@given(st.lists(STEPS, max_size=25))
@example([("take", 1)] * 6 + [("finish", 0)] * 6 + [("send", 2)])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_makes_no_difference_whether_messages_come_together(steps: list[tuple[str, int]]) -> None:
    ends = []
    for together, locked in ((True, False), (True, True), (False, True)):
        run = Run(together, locked)
        for step in steps:
            run.step(*step)
        ends.append(run.end())
        assert run.b.engine.stats()["inbox_messages"] == 0
        assert not any(lane.spans or lane.rows for lane in run.b.engine.shared.in_lanes.values())
    assert ends[0] == ends[1] == ends[2]


def buffer_and_span(host: Host) -> tuple[Buffer, Span]:
    """The buffer of the queue, and the span that is next in it."""
    buffer = host.buffers[QUEUE]
    span = buffer.next_span()
    assert span is not None
    return buffer, span


def with_span(count: int = 4, **options: Any) -> tuple[Host, Host, Pump]:
    a, b, pump = pair(**options)
    a.send("b", *[b"%d" % number for number in range(count)])
    pump.run()
    return a, b, pump


def span_of(host: Host) -> Any:
    [span] = [span for lane in host.engine.shared.in_lanes.values() for span in lane.spans]
    return span


def test_messages_acknowledged_in_order_are_never_looked_at_one_by_one() -> None:
    a, b, pump = with_span()
    span = span_of(b)
    for _ in range(4):
        b.buffers[QUEUE].finish(b.take(), HANDLED)
        assert not span.lane.rows
    pump.run()
    assert span.lane.spans == []
    assert a.outcomes() == [(seq, "HANDLED", None) for seq in range(1, 5)]


@pytest.mark.parametrize("taken", [0, 2, 4])
def test_a_span_that_is_broken_up_leaves_its_rows_where_they_were(taken: int) -> None:
    _, b, _ = with_span()
    span = span_of(b)
    rows = [b.take() for _ in range(taken)]
    assert b.engine._inbox.claims.find(span.lane, 99) is None
    assert span.lane.spans == [span]
    found = b.engine._inbox.claims.find(span.lane, 3)
    assert found is not None
    assert found.place is (Place.RUNNING if taken > 2 else Place.CLAIMED)
    assert span.lane.spans == []
    assert list(span.lane.rows) == [1, 2, 3, 4]
    assert [span.lane.rows[row.seq] is row for row in rows] == [True] * taken
    assert len(b.buffers[QUEUE]) == 4 - taken
    assert [b.take().seq for _ in range(4 - taken)] == list(range(taken + 1, 5))


def test_a_row_that_is_taken_while_its_span_is_broken_up_is_with_its_worker() -> None:
    a, b, pump = with_span()
    taken: list[Row] = []
    contended = False

    class Contended:
        """A lock that the loop gets after a worker has had it."""

        def __enter__(self) -> None:
            nonlocal contended
            if not contended:
                contended = True
                taken.append(b.take())

        def __exit__(self, *_error: object) -> None:
            pass

    b.buffers[QUEUE]._lock = Contended()
    stored = a.engine.shared.out_lanes
    [lane] = [lane for lane in stored.values() if lane.queue]
    a.turn([], c.Recall([(lane.no, 1)]))
    pump.run()
    found = a.engine.found(lane.no, 1)
    assert taken[0].seq == 1
    assert found is not None
    assert found.handed_at_us is not None, "the recall is too late"
    b.finish(taken[0], HANDLED)
    pump.run()
    assert a.outcomes() == [(1, "HANDLED", None)]
    assert b.engine.stats()["inbox_messages"] == 3


def test_what_a_worker_is_just_taking_is_handed_over_though_its_span_is_broken_up_meanwhile() -> None:
    a, b, pump = with_span()
    buffer, span = buffer_and_span(b)

    def now_us() -> int:
        """Asked for after a position was taken, which is the hand-over."""
        a.turn([], c.Recall([(lane.no, 1) for lane in a.engine.shared.out_lanes.values() if lane.queue]))
        pump.run()
        b.time.pass_s(1)
        return b.now().store_us

    positions = buffer.hand_out(span, now_us)
    assert next(positions) == 0
    [row] = buffer.handed_over()
    assert (row.seq, row.withdrawn, row.handed_us) == (1, Cause.RECALL, b.now().store_us)
    acknowledge(positions)
    pump.run()
    assert a.outcomes() == [(1, "HANDLED", None)]
    assert [b.take().seq for _ in range(3)] == [2, 3, 4]


def test_an_acknowledgement_that_its_breaking_up_overtakes_counts_once() -> None:
    a, b, pump = with_span()
    buffer, span = buffer_and_span(b)
    claims = b.engine._inbox.claims

    class Overtaken(set[int]):
        """The worker's step ends here, and the loop's begins."""

        def remove(self, at: int) -> None:
            super().remove(at)
            claims.break_up(span)

    span.running = Overtaken()
    positions = buffer.hand_out(span, lambda: b.now().store_us)
    at = next(positions)
    acknowledge(positions)
    assert not buffer.finish(span.row(at), Rejected("too late"))
    pump.run()
    assert a.outcomes() == [(1, "HANDLED", None)]


def test_a_message_of_a_span_is_settled_once() -> None:
    a, b, pump = with_span()
    buffer, span = buffer_and_span(b)
    positions = buffer.hand_out(span, lambda: b.now().store_us)
    row = span.row(next(positions))
    assert not row.is_settled
    assert buffer.finish(row, Rejected("no"))
    assert row.is_settled
    assert not buffer.finish(row, HANDLED)
    acknowledge(positions)
    pump.run()
    assert a.outcomes() == [(1, "REJECTED", "no")]
    assert b.take().seq == 2


def test_nothing_is_left_to_workers_of_a_buffer_that_is_closed() -> None:
    a, b, pump = with_span()
    buffer, span = buffer_and_span(b)
    positions = buffer.hand_out(span, lambda: b.now().store_us)
    assert next(positions) == 0
    buffer.close()
    assert list(span.left) == []
    assert buffer.next_span() is None
    assert list(positions) == []
    b.turn()
    pump.run()
    assert a.outcomes() == [(1, "HANDLED", None)]
    b.reopen("clean")
    pump.connect()
    assert [b.take().seq for _ in range(3)] == [2, 3, 4]


def test_what_was_acknowledged_can_be_told_one_by_one() -> None:
    _, b, _ = with_span()
    buffer = b.buffers[QUEUE]
    for result in (HANDLED, HANDLED, Rejected("no"), HANDLED):
        buffer.finish(b.take(), result)
    results = one_by_one(buffer.finished())
    assert [(row.seq, row.attempts, result) for row, result in results] == [
        (3, 1, Rejected("no")),
        (1, 1, HANDLED),
        (2, 1, HANDLED),
        (4, 1, HANDLED),
    ]
    assert all(row.place is Place.DONE for row, _ in results)


def test_two_workers_of_one_span_may_both_find_it_empty() -> None:
    _, b, _ = with_span()
    buffer, span = buffer_and_span(b)
    list(span.left)  # another worker has taken all of them and has not come further
    assert buffer.take(b.now().store_us) is None
    assert len(buffer) == 0


def test_a_failed_attempt_is_noted_though_its_peer_closes_and_the_rest_of_its_span_is_claimed() -> None:
    _, b, pump = with_span()
    buffer = b.buffers[QUEUE]
    buffer.finish(b.take(), Failed("oops"))
    results = buffer.finished()
    buffer.clear()
    b.engine.finished(results)
    b.turn()
    b.reopen("clean")
    pump.connect()
    assert [b.take().seq for _ in range(3)] == [2, 3, 4]
    pump.pass_s(1)
    again = b.take()
    assert (again.seq, again.attempts) == (1, 2)


def test_only_as_much_of_a_span_is_claimed_as_there_is_room_for() -> None:
    _, b, _ = with_span(10)  # four are claimed ahead
    assert len(b.buffers[QUEUE]) == 4
    spans = [span for lane in b.engine.shared.in_lanes.values() for span in lane.spans]
    assert [(span.place, span.first, span.last) for span in spans] == [(Place.CLAIMED, 1, 4), (Place.AHEAD, 5, 10)]


def test_spans_are_found_by_number_however_they_were_cut() -> None:
    a, b, pump = with_span(10)
    for _ in range(3):
        a.send("b", b"x", b"y")
        pump.run()
    b.finish(b.take(), HANDLED)  # makes room: more is cut off
    [lane] = [lane for lane in b.engine.shared.in_lanes.values() if lane.spans]
    firsts = [span.first for span in lane.spans]
    assert firsts == sorted(firsts)
    assert len(firsts) > 4
    assert lane.head_messages == sum(row.messages for row in lane.head)
    assert [lane.span_of(seq) for seq in (0, 17)] == [None, None]
    for seq in range(1, 17):
        span = lane.span_of(seq)
        assert span is not None
        assert span.first <= seq <= span.last


def test_hand_overs_bear_the_time_of_the_first_since_the_loop_collected() -> None:
    _, b, _ = with_span()
    buffer, span = buffer_and_span(b)
    times = iter((10, 20, 30, 40))
    positions = buffer.hand_out(span, lambda: next(times))
    assert [next(positions), next(positions), next(positions)] == [0, 1, 2]
    assert span.handed_us[:3] == [10, 20, 20]
    assert [part[1:] for part in buffer.finished()] == [(0, 2)]
    acknowledge(positions)
    assert next(buffer.hand_out(span, lambda: next(times))) == 3
    assert span.handed_us == [10, 20, 20, 30]


def test_a_message_that_nobody_speaks_of_any_more_stays_with_its_worker() -> None:
    a, b, pump = with_span()
    buffer, span = buffer_and_span(b)
    positions = buffer.hand_out(span, lambda: b.now().store_us)
    row = span.row(next(positions))
    positions.close()
    pump.run()
    assert a.outcomes() == []
    assert [row.seq for row in buffer.handed_over()] == [1]
    assert buffer.finish(row, HANDLED)
    b.turn()
    pump.run()
    assert a.outcomes() == [(1, "HANDLED", None)]
