"""STATE: what each side still holds of the lanes between them, told after one of them lost memory, and the comparison.

A STATE may be about millions of scattered messages, so it is told in parts, entries of the control lane like any other:
they come in order, each once, whatever connections and processes do meanwhile. Each part speaks of some numbers of a
lane only and is true by itself: its reader applies it and forgets it. What a part says is limited, so that reading one
takes no longer than other frames do, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from zmqrel.core.entries import MOST_IN_STATE, InLaneState, OutLaneState, Range, Settled, State
from zmqrel.core.inbox import Inbox
from zmqrel.core.lane import InLane, OutLane
from zmqrel.core.outbox import Outbox
from zmqrel.core.shared import Shared
from zmqrel.core.transitions import WITHDRAWN, Stage, outcome_of
from zmqrel.outcome import Cause, Outcome

_T = TypeVar("_T")


class States:
    """Tells and compares for one channel."""

    def __init__(self, shared: Shared, outbox: Outbox, inbox: Inbox) -> None:
        self._shared = shared
        self._outbox = outbox
        self._inbox = inbox

    # ---------------------------------------------------------------------------------------------- telling

    def tell(
        self, store_id: int, peer_store_id: int, received: Iterable[InLane], sent: Iterable[OutLane]
    ) -> Iterator[State]:
        """What is held now of these lanes, part by part. Parts are made as they are asked for, nothing is gathered."""
        part = State(store_id, peer_store_id, [], [], False)
        room = MOST_IN_STATE
        for piece in self._pieces(received, sent):
            size = _size(piece)
            if size > room:
                yield part
                part, room = State(store_id, peer_store_id, [], [], False), MOST_IN_STATE
            room -= size
            if isinstance(piece, InLaneState):
                part.received.append(piece)
            else:
                part.sent.append(piece)
        yield part._replace(final=True)

    def _pieces(self, received: Iterable[InLane], sent: Iterable[OutLane]) -> Iterator[InLaneState | OutLaneState]:
        for theirs in received:
            yield from self._of_received(theirs)
        for own in sent:
            yield from self._of_sent(own)

    def _of_received(self, lane: InLane) -> Iterator[InLaneState]:
        for first, last, held in _stretches(self._shared.inbox_runs.spans(lane.no), lane.floor):
            yield InLaneState(lane.id, first, last, held, [])
        for tombstones, _ in _chunks(self._inbox.tombstones(lane)):
            if tombstones:
                yield InLaneState(lane.id, 1, 0, [], tombstones)

    def _of_sent(self, lane: OutLane) -> Iterator[OutLaneState]:
        unsettled = self._outbox.unsettled(lane, lane.sent_upto)
        for first, last, ranges in _stretches(unsettled, lane.sent_upto):
            yield OutLaneState(lane.id, first, last, lane.sent_upto, lane.closed, ranges)

    # -------------------------------------------------------------------------------------------- comparing

    def compare_sent(self, lane: OutLane, told: InLaneState) -> None:
        """End what they neither hold nor will settle: the store that knew is gone. Tombstones say their outcome."""
        now_us = self._shared.now.store_us
        for first, last in _gaps(told.held, told.first, min(told.last, lane.sent_upto)):
            self._outbox.end(lane, Settled(first, last, Outcome.UNCERTAIN, "store lost", 0, 0, now_us, False))
        for seq, cause_value in told.tombstones:
            if seq <= lane.sent_upto:
                cause = Cause(cause_value)
                doubt = seq <= lane.doubt_upto
                outcome = Outcome.UNCERTAIN if doubt else outcome_of(Stage.SENT, WITHDRAWN[cause])
                self._outbox.end(lane, Settled(seq, seq, outcome, cause.reason, 0, 0, now_us, False))

    def compare_received(self, lane: InLane, told: OutLaneState, may_drop: bool) -> None:
        """Drop rows whose outcome they know, unless they may not, and tombstones that would kill a later message."""
        for first, last in _gaps(told.unsettled, told.first, min(told.last, told.mark)) if may_drop else ():
            for start, stop in self._shared.inbox_runs.spans(lane.no, first, last):
                for seq in range(start, stop + 1):
                    self._inbox.drop(lane, seq)
        if told.closed:
            lane.doubt_upto = max(lane.doubt_upto, lane.floor)
        self._inbox.drop_tombstones(lane, told.mark)


def _size(piece: InLaneState | OutLaneState) -> int:
    if isinstance(piece, InLaneState):
        return 1 + len(piece.held) + len(piece.tombstones)
    return 1 + len(piece.unsettled)


def _stretches(ranges: Iterable[Range], last: int) -> Iterator[tuple[int, int, list[Range]]]:
    """The numbers 1 to `last` in stretches that have few of the ascending ranges each: first, last, ranges."""
    first = 1
    for chunk, more in _chunks(ranges):
        upto = chunk[-1][1] if more else last
        yield first, upto, chunk
        first = upto + 1


def _chunks(items: Iterable[_T]) -> Iterator[tuple[list[_T], bool]]:
    """The items in lists that fit a part, at least one, and whether more follow."""
    iterator = iter(items)
    following = list(islice(iterator, MOST_IN_STATE - 1))
    more = True
    while more:
        chunk, following = following, list(islice(iterator, MOST_IN_STATE - 1))
        more = bool(following)
        yield chunk, more


def _gaps(ranges: list[Range], first: int, last: int) -> Iterator[Range]:
    """What of the numbers first to last is in none of the ranges."""
    for start, stop in sorted(ranges):
        if first > last:
            return
        if start > first:
            yield first, min(start - 1, last)
        first = max(first, stop + 1)
    if first <= last:
        yield first, last
