"""The parts that zmqrel plays, with nothing but its public names."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import zmqrel
from zmqrel.bench.processes import Line, cpu_s, now_s

BATCH = 1_000
_BATCH_BYTES = 1_000_000
"""Of bodies in one send call, unless one is larger."""
_MOST_UNDER_WAY = 64
"""Send calls of which the outcomes are not known."""
_WINDOW_BYTES = 8 << 20
"""What docs/sending.md says of streams: so much may be on the wire while both sides wait for their disks, and what is
under way is not much more than that, or it is read back from the store before it leaves."""
_WAIT_S = 300.0


def _store(place: str, name: str, durability: str) -> Any:
    return zmqrel.MEMORY if durability == "memory" else Path(place) / name


def _options(durability: str) -> dict[str, Any]:
    return {} if durability == "memory" else {"durability": durability}


def serve(line: Line, place: str, durability: str, senders: int, name: str = "receiver") -> None:
    """Be a peer that handles whatever comes from so many senders; tells its endpoint, later its processor seconds."""
    peers = {f"sender{number}": None for number in range(senders)}
    peer = zmqrel.Peer(
        name, _store(place, name, durability), bind="tcp://127.0.0.1:*", peers=peers, **_options(durability)
    )

    @peer.handler()
    def handle(message: zmqrel.Message) -> None:
        _ = message.body

    with peer:
        line.tell(peer.endpoints[0])
        while line.hear() is not None:
            line.tell(cpu_s())


@contextmanager
def _sender(
    place: str, durability: str, endpoints: list[str], number: int = 0, **options: Any
) -> Iterator[zmqrel.Peer]:
    """A peer that has met each receiver."""
    peers = {f"receiver{at}" if at else "receiver": endpoint for at, endpoint in enumerate(endpoints)}
    name = f"sender{number}"
    options |= _options(durability)
    with zmqrel.Peer(name, _store(place, name, durability), peers=peers, **options) as peer:
        for receiver in peers:
            peer.send(receiver, None).result(_WAIT_S)
        yield peer


def stream(
    line: Line, place: str, durability: str, endpoints: list[str], messages: int, size: int, number: int = 0
) -> None:
    """Send so many to each receiver as fast as possible; the end is when the outcome of each is known."""
    body = b"x" * size
    batch = max(1, min(BATCH, _BATCH_BYTES // size))
    window_bytes = max(_WINDOW_BYTES, 16 * size)
    calls = min(_MOST_UNDER_WAY, 3 * window_bytes // (2 * batch * size))
    with _sender(place, durability, endpoints, number, window_bytes=window_bytes) as peer:
        line.tell("ready")
        line.hear()
        started_s, used_s = now_s(), cpu_s()
        under_way: deque[Sequence[zmqrel.Receipt]] = deque()
        for first in range(0, messages, batch):
            for receiver in peer_names(endpoints):
                if len(under_way) == calls:
                    _await(under_way.popleft())
                under_way.append(peer.send_many_nowait(receiver, [body] * min(batch, messages - first)))
        for receipts in under_way:
            _await(receipts)
        line.tell((started_s, now_s(), cpu_s() - used_s))


def _await(receipts: Collection[zmqrel.Receipt]) -> None:
    """Until all have their outcome, which is to be HANDLED."""
    outcomes = zmqrel.wait_all(receipts, _WAIT_S)
    handled = outcomes.count(zmqrel.Outcome.HANDLED)
    if handled < len(receipts):
        raise RuntimeError(f"{len(receipts) - handled} of {len(receipts)} messages were not handled")


def peer_names(endpoints: list[str]) -> list[str]:
    """Names of the receivers at these endpoints."""
    return [f"receiver{at}" if at else "receiver" for at in range(len(endpoints))]


def send_from_threads(
    line: Line, place: str, durability: str, endpoints: list[str], messages: int, size: int, threads: int
) -> None:
    """So many threads call `send`, each one after the other; the end is when the outcome of each is known."""
    body = b"x" * size
    numbers = count()
    receipts: deque[zmqrel.Receipt] = deque()
    with _sender(place, durability, endpoints) as peer:

        def work() -> None:
            while next(numbers) < messages:
                receipts.append(peer.send("receiver", body))

        workers = [threading.Thread(target=work) for _ in range(threads)]
        line.tell("ready")
        line.hear()
        started_s, used_s = now_s(), cpu_s()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        _await(receipts)
        line.tell((started_s, now_s(), cpu_s() - used_s))


def one_at_a_time(line: Line, place: str, durability: str, endpoints: list[str], times: int, size: int) -> None:
    """Send and wait until the receiver has committed it, again and again; tells the seconds of each."""
    body = b"x" * size
    taken_s = []
    with _sender(place, durability, endpoints) as peer:
        for _ in range(times):
            started_s = now_s()
            peer.send("receiver", body).wait_received(_WAIT_S)
            taken_s.append(now_s() - started_s)
        line.tell(taken_s)
