"""The life of a message, put together from what the stores at its two ends remember.

What happens is told of the peer where it happened, in the order of cause and effect: the clocks of two peers may
differ, so times decide only where cause and effect do not. What must have happened, though nobody kept when, has no
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from zmqrel.core import history

Shape = dict[str, Any]
MADE_ANEW = "made anew"

_ON_THE_WAY = (history.STORED, history.SENT, history.RECEIVED)
_ATTEMPTED = (history.HANDED_OVER, history.ATTEMPT_FAILED, history.MOVED)
_SURELY_HANDED_OVER = ("HANDLED", "REJECTED")
_LEFT_BY_STATE = {
    "STORED": _ON_THE_WAY[:1],
    "SENT": _ON_THE_WAY[:2],
    "RECALLING": _ON_THE_WAY[:2],  # what never left ends at once
    "EXPIRING": _ON_THE_WAY[:2],
    "RECEIVED": _ON_THE_WAY,
}


@dataclass
class _Told:
    """What both ends tell of one message. Ids are each sender's own: two messages may have one id."""

    by_sender: list[Shape] = field(default_factory=list)
    by_receiver: list[Shape] = field(default_factory=list)
    implied: set[str] = field(default_factory=set)
    """What must have happened."""
    attempts: int = 0
    """Hand-overs that the sender knows of."""


def life(ends: Iterable[Shape]) -> list[Shape]:
    """What happened to a message: {"peer", "at", "what", "detail"}, of what `zmqrel show` found at its ends."""
    known = [end for end in ends if "error" not in end]
    events = [event for pair, told in _told(known).items() for event in _merged(*pair, told)]
    for end in known:
        for item in end["successors"]:
            detail = f"as {item['id']}, {item['cause']}" if item["cause"] else f"as {item['id']}"
            events.append({"peer": end["peer"], "at": item["made_at"], "what": MADE_ANEW, "detail": detail})
    return events


def _told(ends: list[Shape]) -> dict[tuple[str, str], _Told]:
    """By sender and receiver."""
    found: dict[tuple[str, str], _Told] = {}
    for end in ends:
        sent = end["sent"]
        if sent is not None:
            told = found.setdefault((end["peer"], sent["to"]), _Told())
            told.by_sender += sent["history"]
            told.implied.update(_implied_by(sent))
            told.attempts = sent["attempts"]
        for item in (*end["received"], *end["dead"]):
            told = found.setdefault((item["sender"], item.get("to", end["peer"])), _Told())
            if end["peer"] == item["sender"] != item.get("to", end["peer"]):
                told.by_sender += item["history"]  # it died in the outbox
                told.implied.add(history.STORED)
            else:
                told.by_receiver += item["history"]
                told.implied.update(_ON_THE_WAY)
    return found


def _implied_by(sent: Shape) -> Iterable[str]:
    if sent["outcome"] is None:
        return _LEFT_BY_STATE.get(sent["state"], ())
    handed_over = sent["attempts"] or sent["handed_over_at"] or sent["outcome"] in _SURELY_HANDED_OVER
    return _ON_THE_WAY if handed_over else _ON_THE_WAY[:1]


def _merged(sender: str, receiver: str, told: _Told) -> list[Shape]:
    here, there = told.by_sender, told.by_receiver
    if any(event["what"] in _ATTEMPTED for event in there):
        # The receiver knows each attempt, the sender one time at most.
        here = [event for event in here if event["what"] != history.HANDED_OVER]
    elif told.attempts and not any(event["what"] == history.HANDED_OVER for event in here):
        counted = "attempt 1" if told.attempts == 1 else f"{told.attempts} attempts"
        here = [*here, {"at": None, "what": history.HANDED_OVER, "detail": counted}]
    own = sender == receiver
    start = [
        *_once(history.STORED, sender, here, there, told, None if own else f"by the clock of {receiver}"),
        *([] if own else _once(history.SENT, sender, here, there, told, None)),
    ]
    came = [] if own else list(_once(history.RECEIVED, receiver, there, here, told, f"as {sender} learnt"))
    others = (history.SETTLED, history.HANDED_OVER, *_ON_THE_WAY)
    mine = [event for event in here if event["what"] not in others]
    theirs = [event for event in there if event["what"] not in (history.SETTLED, *_ON_THE_WAY)]
    theirs += [event for event in here if event["what"] == history.HANDED_OVER]
    judged, learnt = ([event for event in events if event["what"] == history.SETTLED][:1] for events in (there, here))
    if judged and learnt:
        learnt = [{**learnt[0], "detail": f"learnt: {learnt[0]['detail']}"}]
    return _in_order(
        start,
        [{"peer": sender, **event} for event in _by_time(mine)],
        [*came, *({"peer": receiver, **event} for event in (*_by_time(theirs), *judged))],
        [{"peer": sender, **event} for event in learnt],
    )


def _once(
    what: str, peer: str, where: list[Shape], elsewhere: list[Shape], told: _Told, second_hand: str | None
) -> Iterator[Shape]:
    """What happens once, as the peer tells it where it happened, else as the other one knows it."""
    for events, detail in ((where, None), (elsewhere, second_hand)):
        for event in events:
            if event["what"] == what:
                yield {"peer": peer, **event, "detail": event["detail"] or detail}
                return
    if what in told.implied:
        yield {"peer": peer, "at": None, "what": what, "detail": None}


def _by_time(events: list[Shape]) -> list[Shape]:
    """By the clock of one peer."""
    return sorted(events, key=lambda event: event["at"] or "")


def _in_order(start: list[Shape], at_sender: list[Shape], at_receiver: list[Shape], end: list[Shape]) -> list[Shape]:
    """`start` before all else, `end` behind it; what is between by time, none before its predecessor at its peer."""
    left_at = max((event["at"] or "" for event in start), default="")
    placed = [*_placed(at_sender, left_at, 0), *_placed(at_receiver, left_at, 1)]
    placed.sort(key=lambda item: item[:2])
    return [*start, *(event for _, _, event in placed), *end]


def _placed(events: list[Shape], at: str, side: int) -> Iterator[tuple[str, int, Shape]]:
    for event in events:
        at = max(at, event["at"] or "")
        yield at, side, event
