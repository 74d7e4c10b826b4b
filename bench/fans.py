"""Several processes at once: eight senders to one receiver, one sender to eight."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from zmqrel.bench import ours
from zmqrel.bench.measure import Case, Contestant, Sample
from zmqrel.bench.processes import Part, part
from zmqrel.bench.streams import zmqrel_stream

_MANY = 8


def fans(messages: int) -> list[Case]:
    """Eight processes to one, and one to eight."""
    each = max(100, messages // _MANY)
    return [
        Case(
            "fans",
            f"{_MANY} processes to one, one to {_MANY}, 100 B",
            "per second",
            (
                Contestant("one to one", partial(zmqrel_stream, "fsync", messages, 100)),
                Contestant(f"{_MANY} to one", partial(_fan_in, each)),
                Contestant(f"one to {_MANY}", partial(_fan_out, each)),
            ),
            "one to one",
        )
    ]


def _fan_in(each: int, place: Path) -> Sample:
    with ExitStack() as stack:
        receiver = stack.enter_context(part(ours.serve, str(place), "fsync", _MANY))
        endpoint = receiver.ask()
        senders = [
            stack.enter_context(part(ours.stream, str(place), "fsync", [endpoint], each, 100, number))
            for number in range(_MANY)
        ]
        return {"per second": _together(senders, each * _MANY)}


def _fan_out(each: int, place: Path) -> Sample:
    with ExitStack() as stack:
        receivers = [
            stack.enter_context(part(ours.serve, str(place), "fsync", 1, f"receiver{at}" if at else "receiver"))
            for at in range(_MANY)
        ]
        endpoints = [receiver.ask() for receiver in receivers]
        sender = stack.enter_context(part(ours.stream, str(place), "fsync", endpoints, each, 100))
        return {"per second": _together([sender], each * _MANY)}


def _together(senders: list[Part], messages: int) -> float:
    """All start at one sign; the rate is over the time from the first start to the last end."""
    for sender in senders:
        sender.ask()
    for sender in senders:
        sender.tell("go")
    times: list[tuple[float, float, float]] = [sender.ask() for sender in senders]
    return messages / (max(ended_s for _, ended_s, _ in times) - min(started_s for started_s, _, _ in times))
