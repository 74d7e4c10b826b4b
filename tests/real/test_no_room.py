"""Processes whose store has no room left: in its map, on its disk, or in a file of limited size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.net import Net, until
from tests.real.processes import Child, Nursery

pytestmark = pytest.mark.long

MIB = 1024 * 1024
ROOM = 6 * MIB


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


class Narrow:
    """One peer whose store has no more than ROOM for some reason, in its lives."""

    def __init__(self, nursery: Nursery, net: Net, name: str, dials: str | None, **options: Any) -> None:
        self._nursery = nursery
        knows = "billing" if name == "shop" else "shop"
        self._arguments: dict[str, Any] = {"name": name, "most_file_bytes": options.pop("most_file_bytes", 0)}
        self._arguments["options"] = {
            "store": net.store(name),
            "bind": net.endpoint(name),
            "peers": {knows: dials},
            **options,
        }
        self.handled: list[tuple[str, int, bool]] = []
        self.child: Child

    def start(self) -> Narrow:
        """Begin a life."""
        self.child = self._nursery.start("narrow_peer", **self._arguments)
        self.child.expect("ready")
        return self

    def ask(self, word: str, **fields: Any) -> Any:
        """Ask it, and note what it hands over meanwhile."""
        self.child.say(do=word, **fields)
        while word not in (said := self.child.hear()):
            assert "ended" not in said, "it ended by itself"
            self.handled.append(tuple(said["handled"]))
        return said[word]

    def idles(self, while_waiting: Any) -> None:
        """It has nothing to do during a wait, and does nothing."""
        before = self.ask("cpu")
        while_waiting()
        after = self.ask("cpu")
        busy_s, passed_s = (now - then for now, then in zip(after, before, strict=True))
        assert busy_s < 0.1 + 0.2 * passed_s, f"it was busy for {busy_s:.2f} s of {passed_s:.2f}"


@pytest.fixture(params=["map fsync", "file fsync", "disk fsync", "disk relaxed"])
def narrow(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options that leave a store ROOM, or a disk of its own that is not much larger."""
    what, durability = request.param.split()
    if what == "map":
        return {"map_size_bytes": ROOM, "durability": durability}
    if what == "file":
        return {"most_file_bytes": ROOM, "durability": durability}
    disk: Path = request.getfixturevalue("small_disk")
    return {"store": str(disk / "store"), "durability": durability}


def test_a_sender_without_room(nursery: Nursery, narrow: dict[str, Any]) -> None:
    """It refuses, recalls, is killed, comes back with all that it took, and takes again when that is settled."""
    with Net("ipc") as net:
        shop = Narrow(nursery, net, "shop", net.endpoint("billing"), **narrow).start()
        shop.ask("send", to="billing", ids=["short"], size=10_000, ttl=3.0)
        accepted, why = shop.ask("fill", to="billing", size=10_000)
        assert accepted > 100
        assert "full" in why
        assert str(narrow.get("store", net.store("shop"))) in why
        shop.idles(lambda: shop.ask("outcome", id="short"))
        assert shop.ask("outcome", id="short") == "EXPIRED"
        assert {shop.ask("verdict", id=f"m{number}") for number in range(5)} == {"RECALLED"}
        shop.child.kill()
        shop.start()
        assert shop.ask("stats")["outbox_messages"] == accepted - 5
        assert {shop.ask("verdict", id=f"m{number}") for number in range(5, 10)} == {"RECALLED"}
        billing = Narrow(nursery, net, "billing", None).start()
        billing.ask("serve")
        names = [f"m{number}" for number in range(10, accepted)]
        assert shop.ask("outcomes", ids=names) == ["HANDLED"]
        billing.ask("stats")
        assert billing.handled == [(name, 1, False) for name in names]
        until(lambda: shop.ask("takes"))
        for peer in (shop, billing):
            peer.ask("close")


def test_a_receiver_without_room(nursery: Nursery, narrow: dict[str, Any]) -> None:
    """It takes what fits, lets recall and expire what it took, is killed, and hands over each of the others once."""
    with Net("ipc") as net:
        billing = Narrow(nursery, net, "billing", None, **narrow).start()
        shop = Narrow(nursery, net, "shop", net.endpoint("billing")).start()
        shop.ask("send", to="billing", ids=["short"], size=10_000, ttl=3.0)
        names = [f"m{number}" for number in range(2400)]
        shop.ask("send", to="billing", ids=names, size=10_000)
        until(lambda: billing.ask("stats")["inbox_messages"] > 100)
        billing.idles(lambda: shop.ask("outcome", id="short"))
        assert shop.ask("outcome", id="short") == "EXPIRED"
        taken = billing.ask("stats")["inbox_messages"]
        assert 100 < taken < 2300
        assert {shop.ask("verdict", id=name) for name in names[:5]} == {"RECALLED"}
        billing.child.kill()
        billing.start()
        assert billing.ask("stats")["inbox_messages"] >= taken - 5
        assert {shop.ask("verdict", id=name) for name in names[5:10]} == {"RECALLED"}
        billing.ask("serve")
        assert shop.ask("outcomes", ids=names[10:]) == ["HANDLED"]
        billing.ask("stats")
        assert billing.handled == [(name, 1, False) for name in names[10:]]
        for peer in (shop, billing):
            peer.ask("close")
