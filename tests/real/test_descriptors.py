"""Processes that run out of file descriptors: nothing is lost, nothing ends or spins, and it is told what was short."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.net import LIMIT_S, Net, connected
from tests.real.processes import Nursery
from zmqrel import Outcome
from zmqrel.store.lmdb import LmdbStore


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


def life_before(net: Net, durability: str) -> str:
    """How the last life of shop's store ended."""
    store = LmdbStore(net.store("shop"), durability=durability, only_look=True)
    try:
        return store.previous
    finally:
        store.close()


@pytest.mark.long
@pytest.mark.parametrize(("transport", "durability"), [("tcp", "fsync"), ("ipc", "relaxed")])
def test_a_peer_that_starts_with_few_descriptors_left(nursery: Nursery, transport: Any, durability: str) -> None:
    """It starts and can then go on with none, or it says why not, leaves everything as it was and no thread behind."""
    with Net(transport, durability) as net:
        options = {
            "store": net.store("shop"),
            "bind": net.endpoint("shop"),
            "peers": {"billing": net.endpoint("billing")},
            "durability": durability,
        }
        with net.peer("shop", "billing") as shop:
            shop.send("billing", "plenty")
        started = 0
        for left in range(48):
            child = nursery.start("scarce_start", options=options, left=left)
            told = child.hear()
            assert "ended" not in told, f"{left} left: it ended, {child.join()}"
            assert not told["threads"]
            if "raised" in told:
                kind, text = told["raised"]
                assert kind == "ConfigError", f"{left} left: {text}"
                assert "Too many open files" in text
                assert "ulimit -n" in text
            else:
                started += 1
                assert told["sent"] == "STORED"
                assert told["close"] == [1 + started, 1 + started, 0]
            assert child.join() == 0
            assert life_before(net, durability) == "clean"
        assert 0 < started < 48
        assert not list((net.folder / "shop").glob("damaged-*"))


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_running_peer_without_descriptors(nursery: Nursery, transport: Any) -> None:
    """It goes on with who is connected, lets nobody in while none is left, neither ends nor spins, and then lets in."""
    with Net(transport) as net, socket.socket(socket.AF_UNIX) as asking:
        options = {
            "store": net.store("billing"),
            "bind": net.endpoint("billing"),
            "peers": {"shop": None, "late": None, "absent": net.endpoint("absent")},
        }
        child = nursery.start("scarce_server", options=options)
        child.expect("ready")
        shop = net.sender()
        assert shop.send("billing", "before").wait(LIMIT_S) is Outcome.HANDLED
        assert child.ask("exhaust")
        child.expect("door")  # asked before anybody comes
        late = net.peer("late", "billing", bind=False).start()
        receipt = late.send("billing", "late")
        asking.connect(f"{net.store('billing')}/control")
        before = child.ask("cpu")
        # While the newcomer tries again and again, the other is served: for two seconds, by the deadlines of messages.
        for number in range(4):
            assert shop.send("billing", number).wait(LIMIT_S) is Outcome.HANDLED
            assert shop.send("billing", number, queue="nobody", ttl=0.5).wait(LIMIT_S) is Outcome.EXPIRED
        after = child.ask("cpu")
        busy_s, passed_s = (now - then for now, then in zip(after, before, strict=True))
        assert busy_s < 0.15 * passed_s, f"it was busy for {busy_s:.2f} s of {passed_s:.2f}"
        assert not late.stats()["peers_connected"]
        assert child.ask("release")
        child.expect("door")
        assert receipt.wait(LIMIT_S) is Outcome.HANDLED
        connected(shop, late)
        assert child.ask("close") == [0, 0, 0]
