"""One at a time: from `send` to RECEIVED, beside a plain round trip and a commit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zmqrel.bench import ours, plain
from zmqrel.bench.measure import Case, Contestant, Sample, percentiles_us
from zmqrel.bench.processes import part
from zmqrel.bench.streams import DURABILITIES

_SIZE = 100


def singles(times: int) -> list[Case]:
    """The only case."""
    contestants = (
        Contestant("plain round trip", partial(_round_trip, times)),
        Contestant("one commit", partial(_commit, times)),
        *(Contestant(f"zmqrel {kind}", partial(_zmqrel, kind, times)) for kind in DURABILITIES),
    )
    return [Case("single", "one at a time, send to RECEIVED, 100 B", "p50 us", contestants, "plain round trip")]


def _round_trip(times: int, _place: Path) -> Sample:
    with part(plain.answer_plain) as answerer, part(plain.ask_plain, answerer.ask(), times, _SIZE) as asker:
        return percentiles_us(asker.ask())


def _commit(times: int, place: Path) -> Sample:
    with part(plain.commit_alone, str(place), times, _SIZE) as writer:
        return percentiles_us(writer.ask())


def _zmqrel(kind: str, times: int, place: Path) -> Sample:
    with (
        part(ours.serve, str(place), kind, 1) as receiver,
        part(ours.one_at_a_time, str(place), kind, [receiver.ask()], times, _SIZE) as sender,
    ):
        return percentiles_us(sender.ask())
