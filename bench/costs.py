"""What a message costs beside a backlog, with many queues, and with many connected peers: processor time, not rates."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path

import zmqrel
from bench.idle import group
from zmqrel.bench.measure import Case, Contestant, Sample
from zmqrel.bench.processes import Line, cpu_s, now_s, part
from zmqrel.bench.streams import timed

_BODY = b"x" * 100
_BATCH = 100
_MOST_UNDER_WAY = 100
_WAIT_S = 300.0


def costs(messages: int, backlog: int, peers: int) -> list[Case]:
    """A stream of so many messages, beside up to `backlog` that wait for another peer and up to `peers` idle peers."""
    backlogs = [0, backlog // 100, backlog // 10, backlog]
    connected = [0, peers // 100, peers // 10, peers]
    return [
        _case("cost-backlog", "stored for another peer", backlogs, lambda n: partial(_run, messages, backlog=n)),
        _case("cost-queues", "queues", [1, 10, 100], lambda n: partial(_run, messages, queues=n)),
        _case("cost-peers", "idle peers", connected, lambda n: partial(_run, messages, peers=n)),
    ]


def _case(name: str, of: str, numbers: list[int], run: Callable[[int], Callable[[Path], Sample]]) -> Case:
    contestants = tuple(Contestant(f"{number:,} {of}", run(number)) for number in dict.fromkeys(numbers))
    return Case(name, f"processor time of a message: {of}", "both us", contestants, contestants[0].name, rounds=1)


def _run(messages: int, place: Path, *, backlog: int = 0, queues: int = 1, peers: int = 0) -> Sample:
    with ExitStack() as stack:
        receiver = stack.enter_context(part(_serve, str(place), queues, peers))
        endpoint = receiver.ask()
        if peers:
            stack.enter_context(part(group, endpoint, range(peers), "receiver")).ask()
        receiver.ask()
        sender = stack.enter_context(part(_stream, str(place), endpoint, messages, queues, backlog))
        sample = timed(sender, receiver, messages, len(_BODY))
        return sample | {"both us": sample["sender us"] + sample["receiver us"]}


def _serve(line: Line, place: str, queues: int, peers: int) -> None:
    """Handle what comes in each queue; tells when so many peers are connected, then its processor seconds."""
    peer = zmqrel.Peer("receiver", Path(place) / "receiver", bind="tcp://127.0.0.1:*", accept="any")
    for queue in range(queues):
        peer.handler(f"queue{queue}")(_read)
    with peer:
        line.tell(peer.endpoints[0])
        while peer.stats()["peers_connected"] < peers:
            if line.waits(0.05):
                return  # nobody wants to know any more
        line.tell("connected")
        while line.hear() is not None:
            line.tell(cpu_s())


def _read(message: zmqrel.Message) -> None:
    _ = message.body


def _stream(line: Line, place: str, endpoint: str, messages: int, queues: int, backlog: int) -> None:
    """Have a backlog, then send to the queues by turns."""
    peers = {"receiver": endpoint, "absent": None}
    with zmqrel.Peer("sender", Path(place) / "sender", peers=peers) as peer:
        for first in range(0, backlog, 1000):
            peer.send_many("absent", [_BODY] * min(1000, backlog - first))
        names = [f"queue{queue}" for queue in range(queues)]
        for name in names:
            peer.send("receiver", None, queue=name).result(_WAIT_S)
        line.tell("ready")
        line.hear()
        started_s, used_s = now_s(), cpu_s()
        under_way: deque[Sequence[zmqrel.Receipt]] = deque()
        for first, name in zip(range(0, messages, _BATCH), cycle(names), strict=False):
            if len(under_way) == _MOST_UNDER_WAY:
                zmqrel.wait_all(under_way.popleft(), _WAIT_S)
            bodies = [_BODY] * min(_BATCH, messages - first)
            under_way.append(peer.send_many_nowait("receiver", bodies, queue=name))
        for receipts in under_way:
            zmqrel.wait_all(receipts, _WAIT_S)
        line.tell((started_s, now_s(), cpu_s() - used_s))
