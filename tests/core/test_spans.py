"""Messages that came together: whatever is done with single ones of them, it is as if each had come alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.pump import QUEUE, Host, Pump, pair
from zmqrel.core import commands as c
from zmqrel.core.buffer import HANDLED, Failed, MoveTo, Place, Rejected, RetryAt, Row

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
    """Two peers, one of which sends in batches or one by one."""

    def __init__(self, together: bool) -> None:
        self.a, self.b, self.pump = pair()
        self.b.serve("other")
        self.together = together
        self.running: list[Row] = []
        self.sent: list[tuple[int, int]] = []
        self.told: list[object] = []
        self.results = iter(RESULTS * 100)
        self.send(8)

    def send(self, count: int) -> None:
        bodies = [b"%d" % (len(self.sent) + number) for number in range(count)]
        for batch in [bodies] if self.together else [[body] for body in bodies]:
            stored = self.a.send("b", *batch)
            self.sent += [(stored.lane.no, stored.first + at) for at in range(len(batch))]
            self.settle()

    def settle(self) -> None:
        self.pump.run()

    def step(self, what: str, number: int) -> None:
        if what == "take":
            for _ in range(number):
                row = self.b.buffers[QUEUE].take(self.b.now().store_us)
                if row is not None:
                    self.told.append(("handed over", bytes(row.body), row.attempts, row.redelivered))
                    self.running.append(row)
        elif what == "finish" and self.running:
            self.b.buffers[QUEUE].finish(self.running.pop(number % len(self.running)), next(self.results))
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

    def end(self) -> tuple[object, ...]:
        for queue in (QUEUE, "other"):
            for row in [row for row in self.running if row.queue == queue]:
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
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_makes_no_difference_whether_messages_come_together(steps: list[tuple[str, int]]) -> None:
    ends = []
    for together in (True, False):
        run = Run(together)
        for step in steps:
            run.step(*step)
        ends.append(run.end())
        assert run.b.engine.stats()["inbox_messages"] == 0
        assert not any(lane.spans or lane.rows for lane in run.b.engine.shared.in_lanes.values())
    assert ends[0] == ends[1]


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


def test_only_as_much_of_a_span_is_claimed_as_there_is_room_for() -> None:
    _, b, _ = with_span(10)  # four are claimed ahead
    assert len(b.buffers[QUEUE]) == 4
    spans = [span for lane in b.engine.shared.in_lanes.values() for span in lane.spans]
    assert [(span.place, span.first, span.last) for span in spans] == [(Place.CLAIMED, 1, 4), (Place.AHEAD, 5, 10)]
