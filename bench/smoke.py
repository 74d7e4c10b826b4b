"""Counts per message that do not depend on the machine's speed, held against recorded ones.

Two scenes on the simulated network, whose peers run the production core: a stream in batches, and one message at a
time. One seed gives one run, so the counts are exact: function calls and memory blocks (which differ between versions
of Python), commits and frames. System calls are counted by strace on two real processes, where it is installed.
"""

from __future__ import annotations

import gc
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

import zmqrel
from zmqrel.testing import Network

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
RECORDED = Path(__file__).with_name("counts.json")
_MOST = 1.1
_MOST_SYSTEM_CALLS = 1.25
"""How threads meet decides how often they wait: these are no exact counts."""
_NOT_COUNTED = ("futex", "total")
_MESSAGES = {"stream": 2_000, "one at a time": 30}
_BATCH = 1_000
_BODY = "x" * 100
_OF_PYTHON = ("calls", "blocks")

Counts = dict[str, float]
"""Per message, by "scene: what"."""


def compare(console: Console, counts: Counts, *, record: bool = False) -> int:
    """Show counts, and return 1 if a count is more than a tenth above the recorded one; or record them."""
    recorded: dict[str, Counts] = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    if record:
        recorded[VERSION] = counts
        RECORDED.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n", encoding="utf-8")
    before = recorded.get(VERSION)
    if before is None:
        console.print(f"no counts are recorded for Python {VERSION}: python -m bench --smoke --record", style="red")
        return 1
    risen = [name for name, value in counts.items() if name in before and value > before[name] * _most(name)]
    _show(console, counts, before, risen)
    for name in sorted(before.keys() - counts.keys()):
        console.print(f"not counted here: {name}; strace (Debian package strace) is not installed or not allowed")
    for name in risen:
        rise = f"from {before[name]:.3f} to {counts[name]:.3f}"
        console.print(f"{name} rose {rise}: to more than {_most(name):g} times what was recorded", style="red")
    return int(bool(risen))


def _most(name: str) -> float:
    return _MOST_SYSTEM_CALLS if name.endswith("system calls") else _MOST


def _show(console: Console, counts: Counts, before: Counts, risen: list[str]) -> None:
    table = Table("per message", title=f"Counts, Python {platform.python_version()}")
    for heading in ("counted", "recorded", "of recorded"):
        table.add_column(heading, justify="right")
    for name, value in counts.items():
        known = before.get(name)
        cells = ("", "") if known is None else (f"{known:,.3f}", f"{value / known:.2f}")
        table.add_row(name, f"{value:,.3f}", *cells, style="red" if name in risen else None)
    console.print(table)


def counted() -> Counts:
    """All counts."""
    return simulated() | _system_calls()


def simulated() -> Counts:
    """Those that are the same in each run."""
    return _simulated("stream", _stream) | _simulated("one at a time", _singly)


# --------------------------------------------------------------------------------------------- simulated


def _simulated(scene: str, play: Callable[[Network, int], None]) -> Counts:
    network = Network(1)
    sender = network.peer("sender", {"receiver": True}, prefetch=_BATCH)
    receiver = network.peer("receiver", {"sender": False}, prefetch=_BATCH)
    network.handler("receiver", "default", lambda _delivery: None, workers=_BATCH, duration=0.0)
    network.advance(1)
    messages = _MESSAGES[scene]
    frames = network.links.frames
    commits = [peer.stats()["commits"] for peer in (sender, receiver)]
    with _profiled() as counts:
        play(network, messages)
    for peer, name, before in zip((sender, receiver), ("sender", "receiver"), commits, strict=True):
        counts[f"{name} commits"] = peer.stats()["commits"] - before
    counts["frames"] = network.links.frames - frames
    return {f"{scene}: {name}": count / messages for name, count in counts.items()}


def _stream(network: Network, messages: int) -> None:
    peer = network.peers["sender"]
    receipts = [receipt for _ in range(0, messages, _BATCH) for receipt in peer.send("receiver", [_BODY] * _BATCH)]
    network.until(lambda: receipts[-1].outcome is not None)


def _singly(network: Network, messages: int) -> None:
    for _ in range(messages):
        receipt = network.send("sender", "receiver", _BODY)
        network.until(lambda receipt=receipt: receipt.outcome is not None)  # type: ignore[misc]


@contextmanager
def _profiled() -> Iterator[Counts]:
    """Function calls, and blocks of memory as they are taken between one call or return and the next."""
    calls = taken = last = 0
    blocks = sys.getallocatedblocks

    def look(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls, taken, last
        now = blocks()
        if now > last:
            taken += now - last
        if event in ("call", "c_call"):
            calls += 1
        last = blocks()

    counts: Counts = {}
    gc.collect()
    gc.disable()
    last = blocks()
    sys.setprofile(look)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        gc.enable()
    counts |= {"calls": calls, "blocks": taken}


# ------------------------------------------------------------------------------------------- system calls


def _system_calls() -> Counts:
    """Of a sender that waits for each outcome, in all its threads; empty where strace cannot count.

    Without futex, by which threads wait for the interpreter: how often they do hangs on how they meet.
    """
    if shutil.which("strace") is None:
        return {}
    few, many = (_calls_for(messages) for messages in (100, 500))
    return {} if few is None or many is None else {"one at a time: system calls": (many - few) / 400}


def _calls_for(messages: int) -> int | None:
    with tempfile.TemporaryDirectory(prefix="zmqrel-smoke-") as place:
        counts = Path(place) / "counts"
        command = ["strace", "-f", "-c", "-U", "calls,name", "-o", str(counts), sys.executable, "-m", "bench.smoke"]
        done = subprocess.run([*command, place, str(messages)], capture_output=True, check=False)
        if done.returncode or not counts.exists():
            return None
        rows = [line.split() for line in counts.read_text(encoding="utf-8").splitlines()]
        counted = [row for row in rows if len(row) == 2 and row[0].isdigit()]
        return sum(int(count) for count, name in counted if name not in _NOT_COUNTED)


def _send_singly(place: str, messages: int) -> None:
    """Both peers in one process, over ipc, with nothing flushed: what is counted is what they ask of the system."""
    endpoint = f"ipc://{place}/receiver.ipc"
    receiver = zmqrel.Peer(
        "receiver", zmqrel.MEMORY, bind=endpoint, peers={"sender": None}, heartbeat_s=3600, liveness_s=7200
    )
    receiver.handler()(lambda _message: None)
    with (
        receiver,
        zmqrel.Peer("sender", zmqrel.MEMORY, peers={"receiver": endpoint}, heartbeat_s=3600, liveness_s=7200) as sender,
    ):
        for _ in range(messages):
            sender.send("receiver", _BODY).wait(60)


if __name__ == "__main__":
    _send_singly(sys.argv[1], int(sys.argv[2]))
