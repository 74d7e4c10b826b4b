"""Somebody harms the files of a store: it is told by a named error, or the peer goes on with what is true."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from tests.store.processes import Child
from zmqrel import ConfigError, Peer, StoreDamaged

FILES = ("data.mdb", "redo", "in-hand", "lock", "life")


def cut_to_nothing(path: Path) -> None:
    """Leave an empty file."""
    with path.open("r+b") as file:
        file.truncate(0)


def cut_short(path: Path) -> None:
    """Leave its beginning: of the data file not all pages that are in use."""
    with path.open("r+b") as file:
        file.truncate(min(5000, path.stat().st_size // 2))


def remove(path: Path) -> None:
    """Take it away, a directory with all that is in it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_directory(path: Path) -> None:
    """Put a directory in its place."""
    path.unlink()
    path.mkdir()


def overwrite(path: Path) -> None:
    """Put noise in its place, of the same length."""
    path.write_bytes(b"\x99" * path.stat().st_size)


Harm = Callable[[Path], None]
HARMS: tuple[Harm, ...] = (cut_to_nothing, cut_short, remove, make_directory, overwrite)

DURABILITIES = ("fsync", "relaxed")


def _has(file: str, durability: str) -> bool:
    return file != "redo" or durability == "relaxed"


# ------------------------------------------------------------------------------------------ while nobody uses it

NAMED = {
    ("data.mdb", cut_to_nothing): StoreDamaged,
    ("data.mdb", cut_short): StoreDamaged,
    ("data.mdb", remove): StoreDamaged,
    ("data.mdb", make_directory): StoreDamaged,
    ("data.mdb", overwrite): StoreDamaged,
    ("redo", make_directory): StoreDamaged,
    ("in-hand", make_directory): StoreDamaged,
    ("lock", make_directory): ConfigError,
    ("life", make_directory): StoreDamaged,
}
"""What starting the peer raises; nothing where it says nothing. A lost `redo` loses what a clean close had flushed."""


@pytest.mark.parametrize(
    ("file", "harm", "durability"),
    [(*each, durability) for each in product(FILES, HARMS) for durability in DURABILITIES if _has(each[0], durability)],
)
def test_a_stopped_peer(tmp_path: Path, file: str, harm: Harm, durability: str) -> None:
    with Peer("shop", tmp_path, peers={"bank": None}, durability=durability) as shop:
        shop.send_many("bank", range(100))
        kept = shop.send("bank", 1, id="kept").id
    harm(tmp_path / file)
    peer = Peer("shop", tmp_path, peers={"bank": None}, durability=durability)
    error = NAMED.get((file, harm))
    if error is not None:
        with pytest.raises(error, match=str(tmp_path)):
            peer.start()
        peer.close()
        return
    with peer:
        assert peer.receipt(kept).state is not None
        assert peer.stats()["outbox_messages"] == 101


# ---------------------------------------------------------------------------------------------- while it is used

USE = """
import logging, sys, threading
from zmqrel import Peer
logging.disable()
threading.excepthook = lambda told: print("a thread raised", repr(told.exc_value), flush=True)
shop = Peer("shop", sys.argv[1], peers={"bank": None}, durability=sys.argv[2])
shop.handler()(print)
shop.start()
shop.send_many("bank", [bytes(1000)] * 300)
print("runs", flush=True)
sys.stdin.readline()
for call in (lambda: shop.send("bank", bytes(1000)), lambda: shop.send("bank", 2), shop.close):
    try:
        call()
        print("went on", flush=True)
    except Exception as error:
        print(type(error).__name__, type(error.__cause__).__name__, error, flush=True)
print("through", flush=True)
"""


@pytest.mark.parametrize(
    ("file", "harm", "durability"),
    [
        (*each, durability)
        for each in [
            *product(("data.mdb", "redo", "in-hand", "lock"), (cut_to_nothing, cut_short, remove)),
            (".", remove),
        ]
        for durability in DURABILITIES
        if _has(each[0], durability)
    ],
)
def test_a_running_peer(tmp_path: Path, file: str, harm: Harm, durability: str) -> None:
    store = tmp_path / "store"
    harmless = file == "lock" and harm is not remove  # its name is what locks
    with Child(USE, str(store), durability) as child:
        assert child.line() == "runs"
        harm(store / file)
        child.say("go on")
        told = [child.line() for _ in range(4)]
    assert told[-1] == "through", told
    if harmless:
        assert told[:3] == ["went on"] * 3
        return
    for line in told[:3]:
        assert line.startswith("PeerClosed StoreDamaged "), told
        assert "while it was in use" in line
        assert str(store) in line
