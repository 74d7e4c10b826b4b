"""Peers with keys: who gets in, who does not, and what changes while they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import zmqrel
from tests.real.keyed import Keyring, Stranger
from tests.real.net import LIMIT_S, Got, Net, connected, until
from zmqrel import Outcome, Peer, State


@pytest.fixture(params=["tcp", "ipc"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Over both transports: with keys they are guarded alike."""
    with Net(request.param) as net:
        yield net


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def pair(net: Net, keyring: Keyring, **options: Any) -> tuple[Peer, Peer, Got]:
    """Shop, who dials, and billing, who binds and handles; both with keys and connected."""
    keyring.introduce("shop", "billing")
    got = Got()
    billing = net.receiver(keys=keyring.of("billing"), **options)
    billing.handler()(got)
    billing.start()
    shop = net.sender(keys=keyring.of("shop"), **options)
    connected(shop, billing)
    return shop, billing, got


# ------------------------------------------------------------------------------------------------ who belongs


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_messages_both_ways(net: Net, keyring: Keyring, durability: str) -> None:
    shop, billing, got = pair(net, keyring, durability=durability)
    back = Got()
    shop.handler()(back)
    receipts = [shop.send("billing", n) for n in range(100)] + [billing.send("shop", -n) for n in range(100)]
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    assert got.next_bodies(100) == list(range(100))
    assert back.next_bodies(100) == [-n for n in range(100)]
    for peer in (shop, billing):
        stats = peer.stats()
        assert [stats[each] for each in ("connections_refused", "impostors", "unheard_frames")] == [0, 0, 0]


def test_both_dial_each_other(net: Net, keyring: Keyring) -> None:
    keyring.introduce("shop", "billing")
    got = Got()
    billing = net.peer("billing", "shop", keys=keyring.of("billing")).start()
    billing.handler()(got)
    shop = net.peer("shop", "billing", keys=keyring.of("shop")).start()
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
    assert got.next().sender == "shop"


def test_accept_any_takes_everybody_who_has_a_key_file(net: Net, keyring: Keyring) -> None:
    keyring.introduce("shop", "billing")
    got = Got()
    billing = net.peer("billing", keys=keyring.of("billing"), accept="any")
    billing.handler()(got)
    billing.start()
    shop = net.sender(keys=keyring.of("shop"))
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED


def test_with_keys_any_endpoint_may_be_bound(keyring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    with Peer("a", zmqrel.MEMORY, bind="tcp://0.0.0.0:*", keys=keyring.of("a")) as peer:
        assert peer.endpoints[0].startswith("tcp://0.0.0.0:")
    assert "insecure" not in caplog.text


def test_insecure_is_followed_by_a_warning_that_says_what_it_means(caplog: pytest.LogCaptureFixture) -> None:
    with Peer("a", zmqrel.MEMORY, bind=["tcp://0.0.0.0:*", "tcp://127.0.0.1:*"], insecure=True) as peer:
        assert len(peer.endpoints) == 2
    (warning,) = [record.getMessage() for record in caplog.records if "insecure" in record.getMessage()]
    assert "tcp://0.0.0.0:*" in warning
    assert "127.0.0.1" not in warning
    for word in ("encrypted", "read", "recall"):
        assert word in warning


# -------------------------------------------------------------------------------------------- who does not belong


@pytest.mark.parametrize("accept", ["listed", "any"])
@pytest.mark.parametrize(
    "kind", ["null", "plain", "unknown key", "another server's key", "a secret that is not its own"]
)
def test_a_stranger_does_not_get_in(net: Net, keyring: Keyring, kind: str, accept: str) -> None:
    """Next to an honest pair, which goes on."""
    shop, billing, got = pair(net, keyring, accept=accept)
    before = billing.stats()
    server = keyring.public("mallory" if kind.startswith("another") else "billing")
    with ExitStack() as stack:
        if kind in ("null", "plain"):
            stranger = Stranger(billing.endpoints[0], kind)
        else:
            public = keyring.public("shop" if kind.startswith("a secret") else "mallory")
            own = {"public": public, "secret": keyring.secret("mallory")}
            stranger = Stranger(billing.endpoints[0], "curve", server=server, **own)
        stack.enter_context(stranger)
        for _ in range(3):
            stranger.hello("shop")
        until(lambda: billing.stats()["connections_refused"] > before["connections_refused"])
        assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
        assert not stranger.socket.poll(0)
    after = billing.stats()
    assert [after[each] for each in ("received", "sessions", "malformed")] == [1, before["sessions"], 0]
    assert got.next_bodies(1) == [1]
    assert got.rest() == []


@pytest.mark.parametrize("kind", ["none", "another's"])
def test_a_peer_with_keys_does_not_talk_to_who_has_not_the_right_one(net: Net, keyring: Keyring, kind: str) -> None:
    """Somebody else sits at the endpoint."""
    keyring.introduce("shop", "billing")
    keyring.introduce("shop", "mallory")
    got = Got()
    options: dict[str, Any] = {} if kind == "none" else {"keys": keyring.of("mallory")}
    if kind != "none":
        keyring.give("mallory", "shop")
    false = net.peer("billing", hears="shop", accept="any", **options)
    false.handler()(got)
    false.start()
    shop = net.sender(keys=keyring.of("shop"))
    receipt = shop.send("billing", "the secret plan")
    until(lambda: shop.stats()["connections_failed"] >= 2)  # it tries again and again
    net.log.wait("dialling billing failed", "no keys" if kind == "none" else "")
    assert receipt.state is State.STORED
    assert false.stats()["sessions"] == 0
    assert got.rest() == []
