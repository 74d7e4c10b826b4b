"""Thousands of TCP connections that never say a word are freed, and an honest peer gets in meanwhile and after."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

from tests.real.net import LIMIT_S
from tests.store.processes import Child
from zmqrel import Outcome, Peer

WANTED = 5_000
SPARED = 64
"""Descriptors of a process that are not for these connections."""

PEER = """
import resource, sys
from zmqrel import Peer
store, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
bank = Peer("bank", store, bind="tcp://127.0.0.1:*", peers={"shop": None, "other": None})
bank.handler()(lambda message: None)
bank.start()
print(bank.endpoints[0], flush=True)
sys.stdin.read()
"""

SILENT = """
import resource, selectors, socket, sys
port, wanted = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
waiting, opened, freed = selectors.DefaultSelector(), 0, 0
def connect():
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(("127.0.0.1", port))
    waiting.register(connection, selectors.EVENT_WRITE | selectors.EVENT_READ)
began = 0
told = False
while freed < wanted:
    while began < wanted and began - opened < 64:
        connect()
        began += 1
    for key, events in waiting.select():
        connection = key.fileobj
        if key.data is None and events & selectors.EVENT_WRITE:
            opened += 1
            waiting.modify(connection, selectors.EVENT_READ, "open")
            continue
        try:
            ended = not connection.recv(4096)
        except BlockingIOError:
            continue
        except OSError:
            ended = True
        if ended:
            if key.data is None:
                opened += 1
            waiting.unregister(connection)
            connection.close()
            freed += 1
    if opened >= wanted and not told:
        told = True
        print("open", flush=True)
print("freed", flush=True)
"""


def possible(wanted: int) -> int:
    """So many connections as two processes can have here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - SPARED)


def talks(shop: Peer) -> bool:
    return shop.send("bank", "hello").wait(LIMIT_S) is Outcome.HANDLED


@pytest.mark.long
@pytest.mark.parametrize("room", ["enough", "too few"])
def test_silent_connections_are_freed_and_an_honest_peer_connects(
    tmp_path: Path, room: str, record_property: pytest.RecordProperty
) -> None:
    """Once with descriptors for all of them, and once for a quarter: then the doors are shut for a while."""
    number = possible(WANTED)
    if number < WANTED:
        record_property("connections", f"{number}: the hard limit of descriptors is {number + SPARED}")
        print(f"{number} connections, for the hard limit of descriptors is {number + SPARED}", file=sys.stderr)
    limit = number + SPARED if room == "enough" else number // 4
    with Child(PEER, str(tmp_path / "bank"), str(limit)) as bank:
        endpoint = bank.line()
        with (
            Peer("shop", tmp_path / "shop", peers={"bank": endpoint}) as shop,
            Child(SILENT, endpoint.rpartition(":")[2], str(number)) as silent,
        ):
            assert talks(shop)
            if room == "enough":
                assert silent.line() == "open"
            with Peer("other", tmp_path / "other", peers={"bank": endpoint}) as other:
                assert talks(other), "who comes meanwhile gets in"
            assert talks(shop), "who was there stays"
            if room == "too few":
                assert silent.line() == "open"
            assert silent.line() == "freed"
            assert talks(shop)
            assert shop.stats()["sessions"] == 1
