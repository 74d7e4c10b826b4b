"""Peers on hosts of their own: a network that is slow, loses packets, is cut and heals, and hosts that vanish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.net import until
from tests.real.processes import Child, Nursery
from tests.real.wan import Host, Wan

pytestmark = [pytest.mark.usefixtures("hosts_possible"), pytest.mark.long]

PORT = 7000
SHOP, BILLING, ELSEWHERE = 1, 2, 3


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


class Far:
    """One peer in its lives, each a process on some host; what all of them have told."""

    def __init__(self, nursery: Nursery, wan: Wan, store: Path, name: str, dials: str | None, knows: str) -> None:
        self._nursery = nursery
        self._wan = wan
        self._name = name
        self._options: dict[str, Any] = {"store": str(store / name), "heartbeat_s": 0.2, "liveness_s": 1.0}
        self._options["peers"] = {knows: dials}
        self._binds = dials is None
        self.handled: list[tuple[str, int, bool]] = []
        self.outcomes: dict[str, str] = {}
        self.host: Host
        self.child: Child

    def start(self, number: int) -> Far:
        """Begin a life on a new host; who had its number is gone."""
        self.host = self._wan.host(number)
        options = {**self._options, "bind": f"tcp://{self.host.address}:{PORT}" if self._binds else []}
        self.child = self._nursery.start("far_peer", name=self._name, options=options, namespace=self.host.namespace)
        self._hear("ready")
        return self

    def vanish(self) -> None:
        """The host is gone from the network at once, and its process after it: no FIN, no BYE."""
        self._wan.remove(self.host.address)
        self.child.kill()

    def _hear(self, word: str) -> Any:
        while word not in (said := self.child.hear()):
            self._note(said)
        return said[word]

    def _note(self, said: dict[str, Any]) -> None:
        assert "ended" not in said, f"{self._name} ended by itself"
        if "handled" in said:
            self.handled.append(tuple(said["handled"]))
        elif "outcome" in said:
            name, outcome = said["outcome"]
            assert self.outcomes.setdefault(name, outcome) == outcome, f"{name} has two outcomes"

    def ask(self, word: str, **fields: Any) -> Any:
        """Ask the process, and note what it tells meanwhile."""
        self.child.say(do=word, **fields)
        return self._hear(word)

    def stat(self, key: str) -> int:
        """A figure of `stats`."""
        return int(self.ask("stats")[key])

    def wait_for(self, names: Iterable[str]) -> None:
        """Hear it until it has told of the outcomes of these messages."""
        wanted = set(names)
        while not wanted <= self.outcomes.keys():
            self._note(self.child.hear())

    def wait_handed_over(self, name: str) -> None:
        """Hear it until this message was handed over."""
        while name not in [each for each, _, _ in self.handled]:
            self._note(self.child.hear())

    def is_empty(self) -> bool:
        """Whether no message lies in its store."""
        stats = self.ask("stats")
        return not (stats["outbox_messages"] or stats["inbox_messages"])


class Pair:
    """A peer "billing" that binds, and a peer "shop" that dials it, on hosts 2 and 1."""

    def __init__(self, nursery: Nursery, wan: Wan, folder: Path) -> None:
        self.wan = wan
        self.billing = Far(nursery, wan, folder, "billing", None, "shop").start(BILLING)
        at = f"tcp://{self.billing.host.address}:{PORT}"
        self.shop = Far(nursery, wan, folder, "shop", at, "billing").start(SHOP)
        until(lambda: self.shop.stat("peers_connected"))


@pytest.fixture
def wan() -> Iterator[Wan]:
    with Wan() as wan:
        yield wan


@pytest.fixture
def pair(nursery: Nursery, wan: Wan, tmp_path: Path) -> Pair:
    return Pair(nursery, wan, tmp_path)


def ids(first: int, last: int) -> list[str]:
    return [f"m{number}" for number in range(first, last + 1)]


def first_attempts(names: list[str]) -> list[tuple[str, int, bool]]:
    """Each handed over once, in this order."""
    return [(name, 1, False) for name in names]


def test_delay_and_a_fifth_of_all_packets_lost(pair: Pair) -> None:
    """Until both had to resend, for TCP makes up for most of it."""
    shop, billing, wan = pair.shop, pair.billing, pair.wan
    wan.delay_s, wan.loss = 0.02, 0.2
    sent: list[str] = []
    while len(sent) < 400 or not (shop.stat("resent") and billing.stat("resent")):
        names = ids(len(sent) + 1, len(sent) + 100)
        sent += names
        shop.ask("send", to="billing", ids=names)
        billing.ask("send", to="shop", ids=names)
        shop.wait_for(names)
        billing.wait_for(names)
    for sender, receiver in ((shop, billing), (billing, shop)):
        assert sender.outcomes == dict.fromkeys(sent, "HANDLED")
        assert receiver.handled == first_attempts(sent)
    assert wan.lost


@pytest.mark.parametrize(
    ("ways", "find_out"),
    [({}, ["shop", "billing"]), ({"to_it": False}, ["shop"]), ({"from_it": False}, ["billing"])],
    ids=["both ways", "billing is not heard", "billing hears nothing"],
)
def test_a_partition_that_heals(pair: Pair, ways: dict[str, bool], find_out: list[str]) -> None:
    shop, billing, wan = pair.shop, pair.billing, pair.wan
    wan.delay_s = 0.01
    shop.ask("send", to="billing", ids=["shelved"], queue="shelf")
    until(lambda: shop.ask("state", id="shelved") == "RECEIVED")
    shop.ask("send", to="billing", ids=ids(1, 50))
    shop.wait_for(ids(1, 50))

    wan.cut(billing.host, **ways)
    shop.ask("send", to="billing", ids=ids(51, 100))
    billing.ask("send", to="shop", ids=ids(51, 100))
    shop.ask("send", to="billing", ids=["late"], queue="shelf", ttl=0.3)
    assert shop.ask("recall", id="shelved") == "PENDING"
    until(lambda: not (shop.stat("peers_connected") or billing.stat("peers_connected")))
    assert all({"shop": shop, "billing": billing}[who].stat("silent") for who in find_out)
    assert shop.ask("state", id="shelved") == "RECALLING"
    shop.ask("send", to="billing", ids=["never left"], ttl=0.1)
    shop.wait_for(["never left"])

    wan.heal(billing.host)
    shop.wait_for([*ids(1, 100), "shelved", "late"])
    billing.wait_for(ids(51, 100))
    assert shop.ask("verdict", id="shelved") == "RECALLED"
    assert shop.outcomes == dict.fromkeys(ids(1, 100), "HANDLED") | {
        "shelved": "RECALLED", "late": "EXPIRED", "never left": "EXPIRED",
    }  # fmt: skip
    assert billing.ask("serve_shelf")
    assert billing.handled == first_attempts(ids(1, 100))
    assert shop.handled == first_attempts(ids(51, 100))
    assert shop.stat("resent")
    until(lambda: shop.is_empty() and billing.is_empty())


@pytest.mark.parametrize(("who", "back"), [("billing", BILLING), ("shop", SHOP), ("shop", ELSEWHERE)])
def test_a_peer_that_vanishes_without_a_word(pair: Pair, who: str, back: int) -> None:
    """Its host is gone, a message at work; it comes back with its store where it was, or dials from another host."""
    gone, left = (pair.billing, pair.shop) if who == "billing" else (pair.shop, pair.billing)
    to_gone, to_left = {"to": who}, {"to": "shop" if who == "billing" else "billing"}
    left.ask("send", ids=["shelved"], queue="shelf", **to_gone)
    left.ask("send", ids=["quick", "slow"], **to_gone)
    gone.wait_handed_over("slow")
    left.wait_for(["quick"])
    until(lambda: left.ask("state", id="shelved") == "RECEIVED")
    gone.ask("send", ids=ids(1, 20), **to_left)
    gone.vanish()

    left.ask("send", ids=["into the void"], **to_gone)
    left.ask("send", ids=["late"], queue="shelf", ttl=0.2, **to_gone)
    assert left.ask("recall", id="shelved") == "PENDING"
    until(lambda: not left.stat("peers_connected"))
    assert left.stat("silent")
    assert left.ask("state", id="shelved") == "RECALLING"
    left.ask("send", ids=["never left"], ttl=0.1, **to_gone)
    left.wait_for(["never left"])

    gone.start(back)
    left.wait_for(["slow", "into the void", "late", "shelved"])
    gone.wait_for(ids(1, 20))
    assert left.ask("verdict", id="shelved") == "RECALLED"
    assert left.outcomes == {
        "quick": "HANDLED", "slow": "HANDLED", "into the void": "HANDLED",
        "shelved": "RECALLED", "late": "EXPIRED", "never left": "EXPIRED",
    }  # fmt: skip
    assert gone.ask("serve_shelf")
    assert gone.handled == [*first_attempts(["quick", "slow"]), ("slow", 2, True), ("into the void", 1, False)]
    assert left.handled == first_attempts(ids(1, 20))
    until(lambda: gone.is_empty() and left.is_empty())
