"""The table of transitions is what running engines do: every entry, with the stage read from both ends' stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.core.pump import QUEUE, Host, Pump, Time, keep_all
from zmqrel.core import commands as c
from zmqrel.core import frames, tables
from zmqrel.core.buffer import HANDLED, Failed, MoveTo, Rejected
from zmqrel.core.frames import Frame
from zmqrel.core.lane import DATA
from zmqrel.core.row import Place, Row
from zmqrel.core.rows import decode_state
from zmqrel.core.transitions import TRANSITIONS, Event, Stage
from zmqrel.outcome import Outcome
from zmqrel.permissions import Permissions

TTL_S = 10
GIVE_UP_S = 5.0
BODY = bytes(70_000)
"""More than a peer takes whose bodies have one byte, with all that may come with them."""
ENTRIES = [(stage, event) for stage, events in TRANSITIONS.items() for event in events]


class Case:
    """Two hosts and one message between them, which is brought into a stage. `event` says what is to happen next."""

    def __init__(self, stage: Stage, event: Event) -> None:
        time = Time()
        given_up = {"give_up_after_s": GIVE_UP_S} if event is Event.GIVEN_UP else {}
        self.a, self.b = Host("a", time, **given_up), Host("b", time)
        self.pump = Pump(self.a, self.b)
        self.keep: Callable[[Host, Frame], bool] = keep_all
        self.event = event
        self.row: Row | None = None
        if event is Event.TOO_LARGE and stage is Stage.STORED:
            self.b.options = replace(self.b.options, max_body_bytes=1)
            self.b.reopen()
        getattr(self, f"be_{stage.name.lower()}")()

    # ------------------------------------------------------------------------------------------------- stages

    def be_stored(self) -> None:
        self.a.turn([], c.Connect("b", None))
        self._send()

    def be_sent(self) -> None:
        self.pump.connect()
        self.keep = lambda _host, frame: not _is_message(frame)
        self._send()
        self._run()

    def be_waiting(self) -> None:
        self.b.serve()
        self.pump.connect()
        if self.event is Event.GIVEN_UP:
            # Received, and its sender does not know.
            self.keep = lambda _host, frame: frame.type != frames.ACK
        self._send()
        self._run()

    def be_running(self) -> None:
        self.be_waiting()
        self.row = self.b.take()

    def be_doomed(self) -> None:
        if self.event is Event.GIVEN_UP:
            self.be_running()
            self.happen_given_up()
        else:
            self.be_running()
            self.happen_recalled()

    def be_retrying(self) -> None:
        self.be_running()
        self.happen_failed()

    def _send(self) -> None:
        given: dict[str, Any] = {}
        if self.event is Event.DEADLINE:
            given["deadline_us"] = self.a.now().store_us + TTL_S * 1_000_000
        if self.event is Event.FAILED_LAST:
            given["max_attempts"] = 1
        self.stored = self.a.send("b", BODY, **given)

    def _run(self) -> None:
        self.pump.run(self.keep)

    # ------------------------------------------------------------------------------------------------- events

    def happen_transmitted(self) -> None:
        sent_before = self.a.engine.shared.counters["sent"]
        self.keep = lambda _host, frame: not _is_message(frame)
        if self.a.engine.channels["b"].sessions.open:
            self.pump.pass_s(1.5, self.keep)
        else:
            self._meet()
        assert self.a.engine.shared.counters["sent"] > sent_before

    def happen_received(self) -> None:
        self.keep = keep_all
        self.pump.pass_s(1.5)

    def happen_not_taken(self) -> None:
        self.b.engine.set_accepting(False)
        self.keep = keep_all
        self.pump.pass_s(1.5)
        assert self.a.engine.shared.counters["resent"]

    def happen_not_permitted(self) -> None:
        self.b.engine.permit(Permissions())
        self.keep = keep_all
        self.pump.pass_s(1.5)

    def happen_handed_over(self) -> None:
        self.pump.pass_s(1.5)
        self.row = self.b.take()

    def happen_acknowledged(self) -> None:
        self._finish(HANDLED)

    def happen_rejected(self) -> None:
        self._finish(Rejected("no"))

    def happen_refused(self) -> None:
        self.pump.pass_s(1.5)
        buffer = self.b.buffers[QUEUE]
        row = buffer.ask(self.b.now().store_us)
        assert row is not None
        buffer.refuse(row)
        self.b.turn()
        self._run()

    def happen_failed(self) -> None:
        self._finish(Failed("no luck"))

    def happen_failed_last(self) -> None:
        self._finish(Failed("no luck"))

    def happen_moved(self) -> None:
        self._finish(MoveTo("another"))

    def happen_recalled(self) -> None:
        self.a.recall(self.stored)
        self._run()

    def happen_deadline(self) -> None:
        self.pump.pass_s(TTL_S + 1, self.keep)

    def happen_given_up(self) -> None:
        self.pump.pass_s(GIVE_UP_S + 1, self.keep)

    def happen_damaged(self) -> None:
        """The record is read back from the store: by a resend, a new session or a new life."""
        received = self.b.engine.shared.in_lanes and self._inbox_floor() >= self.stored.first
        host, table = (self.b, tables.INBOX) if received else (self.a, tables.OUTBOX)
        (key, record), *_ = (
            (key, value) for key, value in host.store.scan(*tables.table_bounds(table), 2**31) if len(value) > len(BODY)
        )
        assert isinstance(key, bytes)
        host.store.damage(key, len(record) - 6)
        if received:
            self._restart_receiver("clean")
        if not self.a.engine.channels["b"].sessions.open:
            self._meet()
        self.pump.pass_s(12)

    def happen_too_large(self) -> None:
        if self.a.engine.channels["b"].sessions.open:
            self.b.options = replace(self.b.options, max_body_bytes=1)
            self._restart_receiver("crashed")
            self.pump.pass_s(12, self.keep)
        else:
            self._meet()

    def happen_forgotten(self) -> None:
        self.a.turn([], c.Forget("b"))
        while not self.a.outcomes():
            self.a.turn()

    def _restart_receiver(self, previous: str) -> None:
        self.b.reopen(previous)
        self.b.turn([], c.Connect("a", None))

    def _finish(self, result: Any) -> None:
        assert self.row is not None
        self.b.finish(self.row, result)
        self._run()

    def _meet(self) -> None:
        self.a.turn([], c.Connect("b", "there"))
        self.b.turn([], c.Connect("a", None))
        self._run()

    # ------------------------------------------------------------------------------------------------- looking

    def _inbox_floor(self) -> int:
        return next((lane.floor for lane in self.b.engine.shared.in_lanes.values() if lane.queue), 0)

    def found(self) -> Stage | Outcome:
        """The outcome that the sender was told; else what marks, tables and the worker's row say."""
        ended = self.a.outcomes()
        if ended:
            [(_, outcome, _)] = ended
            return Outcome[outcome]
        seq = self.stored.first
        if seq > self.stored.lane.sent_upto:
            return Stage.STORED
        if seq > self._inbox_floor():
            return Stage.SENT
        if self.row is not None and self.row.place in (Place.RUNNING, Place.DONE):
            return Stage.RUNNING if self.row.withdrawn is None else Stage.DOOMED
        (lane,) = (lane for lane in self.b.engine.shared.in_lanes.values() if lane.queue)
        assert self.b.engine.shared.inbox_runs.has(lane.no, seq)
        state = self.b.store.get(tables.lane_seq(tables.ROW_STATE, lane.no, seq))
        return Stage.RETRYING if state is not None and decode_state(state).first_handed_us else Stage.WAITING


def _is_message(frame: Frame) -> bool:
    return frame.type == frames.DATA and bool(frame.fields[0].kind == DATA)


@pytest.mark.parametrize("stage", Stage)
def test_a_message_is_in_the_stage_that_it_was_brought_to(stage: Stage) -> None:
    assert Case(stage, next(iter(TRANSITIONS[stage]))).found() is stage


@pytest.mark.parametrize(("stage", "event"), ENTRIES, ids=lambda each: each.name)
def test_an_event_makes_of_it_what_the_table_says(stage: Stage, event: Event) -> None:
    case = Case(stage, event)
    getattr(case, f"happen_{event.name.lower()}")()
    assert case.found() is TRANSITIONS[stage][event]


def test_every_stage_leads_to_an_outcome() -> None:
    """No entry leads to a stage that has none, and from each there is a way out."""
    for stage in Stage:
        seen, waiting = set[Stage](), [stage]
        ends = set[Outcome]()
        while waiting:
            at = waiting.pop()
            seen.add(at)
            following = TRANSITIONS[at].values()
            ends |= {each for each in following if isinstance(each, Outcome)}
            waiting += [each for each in following if isinstance(each, Stage) and each not in seen]
        assert ends >= {Outcome.HANDLED, Outcome.REJECTED, Outcome.EXHAUSTED}


def test_only_what_was_never_handed_over_ends_recalled_or_expired() -> None:
    for stage in (Stage.RUNNING, Stage.DOOMED, Stage.RETRYING):
        assert not {Outcome.RECALLED, Outcome.EXPIRED} & set(TRANSITIONS[stage].values())
