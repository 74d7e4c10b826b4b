"""What a backlog costs: opening and draining it, recalling out of it, and passing by a key that is blocked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

import zmqrel
from zmqrel.bench import ours
from zmqrel.bench.measure import Case, Contestant, Sample, percentiles_us
from zmqrel.bench.processes import Line, cpu_s, now_s, part

_BODY = b"x" * 100
_WAIT_S = 600.0
_SMALL = 10_000
_TENTHS = 10


def backlogs(stored: int, waiting: int, recalls: int, passing: int) -> list[Case]:
    """`stored` messages to open and drain, `waiting` to recall from and behind a blocked key, `passing` beside them."""
    return [
        Case(
            "backlog",
            "opening and draining a store, 100 B",
            "open s",
            tuple(Contestant(f"{number:,} stored", partial(_backlog, number)) for number in (_SMALL, stored)),
            f"{_SMALL:,} stored",
            rounds=1,
        ),
        Case(
            "recall",
            "recall out of the receiver's inbox",
            "p99 us",
            tuple(Contestant(f"{number:,} there", partial(_recall, number, recalls)) for number in (_SMALL, waiting)),
            f"{_SMALL:,} there",
            rounds=1,
        ),
        Case(
            "blocked",
            "a queue with a blocked key: the others",
            "per second",
            tuple(Contestant(f"{number:,} blocked", partial(_blocked, number, passing)) for number in (0, waiting)),
            "0 blocked",
            rounds=3,
        ),
    ]


def _batches(number: int) -> Iterator[int]:
    for first in range(0, number, ours.BATCH):
        yield min(ours.BATCH, number - first)


# ----------------------------------------------------------------------------------------- opening, draining


def _backlog(number: int, place: Path) -> Sample:
    with part(_fill, str(place), number) as filler:
        filler.ask()
    with (
        part(ours.serve, str(place), "fsync", 1) as receiver,
        part(_open_and_drain, str(place), receiver.ask(), number) as drainer,
    ):
        sample: Sample = drainer.ask()
        return sample


def _fill(line: Line, place: str, number: int) -> None:
    """Accept so many for a peer that is not there."""
    peers = {"receiver": None}
    with zmqrel.Peer("sender0", Path(place) / "sender0", peers=peers, durability="relaxed") as peer:
        for batch in _batches(number):
            peer.send_many("receiver", [_BODY] * batch)
    line.tell("filled")


def _open_and_drain(line: Line, place: str, endpoint: str, number: int) -> None:
    """Start on that store, then meet the receiver."""
    started_s = now_s()
    with zmqrel.Peer("sender0", Path(place) / "sender0", peers={"receiver": None}) as peer:
        sample = {"open s": now_s() - started_s} | memory()
        peer.connect("receiver", endpoint)
        passed = [now_s(), *(_when_left(peer, number * at // _TENTHS) for at in reversed(range(_TENTHS)))]
        times = [end - start for start, end in pairwise(passed)]
        sample |= {
            "per second": number / (passed[-1] - passed[0]),
            "first per second": number / _TENTHS / times[0],
            "last per second": number / _TENTHS / times[-1],
            "sender us": cpu_s() / number * 1e6,
        }
    line.tell(sample)


def _when_left(peer: zmqrel.Peer, number: int) -> float:
    """The point in time at which no more than so many messages are unsettled."""
    while peer.stats()["outbox_messages"] > number:
        time.sleep(0.005)
    return now_s()


def memory() -> Sample:
    """Of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return {
        "private MB": int(status["RssAnon"].split()[0]) / 1024,
        "resident MB": int(status["VmRSS"].split()[0]) / 1024,
    }


# -------------------------------------------------------------------------------------------------- recall


def _recall(number: int, recalls: int, place: Path) -> Sample:
    with (
        part(ours.serve, str(place), "fsync", 1) as receiver,
        part(_recall_some, str(place), receiver.ask(), number, recalls) as recaller,
    ):
        return percentiles_us(recaller.ask())


def _recall_some(line: Line, place: str, endpoint: str, number: int, recalls: int) -> None:
    """Have so many stored in a queue that nobody serves, then take some back, one after the other."""
    rng = Random(1)
    every = max(1, number // recalls)
    chosen: list[zmqrel.Receipt] = []
    with zmqrel.Peer("sender0", Path(place) / "sender0", peers={"receiver": endpoint}) as peer:
        for batch in _batches(number):
            receipts = peer.send_many("receiver", [_BODY] * batch, queue="waiting")
            chosen += receipts[rng.randrange(every) :: every]
        receipts[-1].wait_received(_WAIT_S)
        rng.shuffle(chosen)
        taken_s = []
        for receipt in chosen[:recalls]:
            started_s = now_s()
            recall = peer.recall(receipt, timeout=_WAIT_S)
            taken_s.append(now_s() - started_s)
            if recall.verdict is not zmqrel.Verdict.RECALLED:
                raise RuntimeError(f"a message that nobody can have taken: {recall.verdict}")
        line.tell(taken_s)


# ------------------------------------------------------------------------------------------------- blocked


def _blocked(number: int, passing: int, place: Path) -> Sample:
    with (
        part(_serve_blocked, str(place)) as receiver,
        part(_pass_by, str(place), receiver.ask(), number, passing) as sender,
    ):
        started_s, ended_s = sender.ask()
        return {"per second": passing / (ended_s - started_s)}


def _serve_blocked(line: Line, place: str) -> None:
    """A handler that puts off whatever has the key "blocked"."""
    peer = zmqrel.Peer("receiver", Path(place) / "receiver", bind="tcp://127.0.0.1:*", peers={"sender0": None})

    @peer.handler()
    def handle(message: zmqrel.Message) -> None:
        if message.key == "blocked":
            raise zmqrel.RetryLater(3600)

    with peer:
        line.tell(peer.endpoints[0])
        line.hear()


def _pass_by(line: Line, place: str, endpoint: str, number: int, passing: int) -> None:
    """Block so many, then send others with keys of their own."""
    with zmqrel.Peer("sender0", Path(place) / "sender0", peers={"receiver": endpoint}) as peer:
        for batch in _batches(number):
            blocked = peer.send_many("receiver", [_BODY] * batch, key="blocked")
        if number:
            blocked[-1].wait_received(_WAIT_S)
        peer.send("receiver", None).result(_WAIT_S)
        started_s = now_s()
        receipts = [
            receipt
            for at, batch in enumerate(_batches(passing))
            for receipt in peer.send_many("receiver", [_BODY] * batch, key=f"key {at}")
        ]
        for receipt in receipts:
            receipt.result(_WAIT_S)
        line.tell((started_s, now_s()))
