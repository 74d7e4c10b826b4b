"""One-way streams: bodies of several sizes, and blocking sends from several threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from zmqrel.bench import ours, plain
from zmqrel.bench.measure import Case, Contestant, Sample
from zmqrel.bench.processes import Part, part

DURABILITIES = ("fsync", "relaxed", "memory")
SIZES = {100: 1.0, 1_000: 0.1, 10_000: 0.02, 1_000_000: 0.0004}
"""Bytes in a body, and how many messages of it in proportion."""


def streams(messages: int, sizes: dict[int, float] | None = None) -> list[Case]:
    """A case for each size of body."""
    return [_stream(size, at_least(messages * share)) for size, share in (sizes or SIZES).items()]


def at_least(messages: float) -> int:
    """So many messages, but enough for a rate."""
    return max(50, int(messages))


def _stream(size: int, messages: int) -> Case:
    by_hand = plain.receive_acknowledging, plain.send_acknowledged
    contestants = (
        Contestant("plain", partial(_plain, plain.receive_plain, plain.send_plain, messages, size)),
        Contestant("acknowledged", partial(_plain, *by_hand, messages, size)),
        *(Contestant(f"zmqrel {kind}", partial(zmqrel_stream, kind, messages, size)) for kind in DURABILITIES),
    )
    return Case(f"stream-{size}", f"one-way, {size:,} B", "per second", contestants, "plain")


def threads(messages: int) -> list[Case]:
    """Blocking `send` from 1, 4 and 16 threads, for each durability."""
    return [
        Case(
            f"threads-{kind}",
            f"blocking send, {kind}",
            "per second",
            tuple(
                Contestant(f"{number} threads", partial(_threads, kind, max(200, messages * number // 320), number))
                for number in (1, 4, 16)
            ),
            "1 threads",
        )
        for kind in DURABILITIES
    ]


# ------------------------------------------------------------------------------------------------ runs


def figures(messages: int, size: int, elapsed_s: float, sender_cpu_s: float, receiver_cpu_s: float) -> Sample:
    """Of one stream."""
    return {
        "per second": messages / elapsed_s,
        "bytes per second": messages / elapsed_s * size,
        "sender us": sender_cpu_s / messages * 1e6,
        "receiver us": receiver_cpu_s / messages * 1e6,
    }


def _plain(receive: Callable[..., None], send: Callable[..., None], messages: int, size: int, _place: Path) -> Sample:
    with part(receive, messages) as receiver, part(send, receiver.ask(), messages, size) as sender:
        started_s, ended_s, sender_cpu_s = sender.ask()
        received_s, receiver_cpu_s = receiver.ask()
        return figures(messages, size, max(ended_s, received_s) - started_s, sender_cpu_s, receiver_cpu_s)


def zmqrel_stream(kind: str, messages: int, size: int, place: Path) -> Sample:
    """Send so many from one peer to another; "memory" instead of a durability: with no store."""
    with (
        part(ours.serve, str(place), kind, 1) as receiver,
        part(ours.stream, str(place), kind, [receiver.ask()], messages, size) as sender,
    ):
        return timed(sender, receiver, messages, size)


def timed(sender: Part, receiver: Part, messages: int, size: int) -> Sample:
    """Have so many messages of so many bytes sent, and read the clocks of both processes."""
    sender.ask()
    receiver.tell("processor seconds")
    used_before_s = receiver.ask()
    sender.tell("go")
    started_s, ended_s, sender_cpu_s = sender.ask()
    receiver.tell("processor seconds")
    return figures(messages, size, ended_s - started_s, sender_cpu_s, receiver.ask() - used_before_s)


def _threads(kind: str, messages: int, number: int, place: Path) -> Sample:
    with (
        part(ours.serve, str(place), kind, 1) as receiver,
        part(ours.send_from_threads, str(place), kind, [receiver.ask()], messages, 100, number) as sender,
    ):
        return timed(sender, receiver, messages, 100)
