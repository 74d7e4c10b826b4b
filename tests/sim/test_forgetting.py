"""A peer is forgotten while processes die; and it returns all the same."""

from __future__ import annotations

import pytest

from tests.sim.helpers import Seen, leftovers, outcomes, pair, settled
from zmqrel import Outcome, UnknownPeer
from zmqrel.core import commands as c
from zmqrel.core import forgetting
from zmqrel.testing import Network
from zmqrel.testing.disk import CrashPoint

COUNT = 40


def forgotten(network: Network, name: str, other: str) -> list[object]:
    """What the command was answered, once it was."""
    answers: list[object] = []
    network.peers[name].peers.pop(other)
    network.peers[name].command(c.Forget(other), answers.append)
    return answers


@pytest.mark.parametrize("point", ["before commit", "after commit", "while sending"])
@pytest.mark.parametrize("commits", range(12))
@pytest.mark.parametrize("connected", [False, True])
def test_whenever_the_process_dies_all_messages_end_and_stay_so(
    monkeypatch: pytest.MonkeyPatch, point: CrashPoint, commits: int, connected: bool
) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", 4)
    network, seen = pair(commits), Seen()
    if connected:
        network.handler("bank", "default", seen, duration=0.05)
    else:
        network.partition("shop", "bank")
        network.advance(5)
    receipts = network.peers["shop"].send("bank", list(range(COUNT)))
    network.advance(0.1)
    answers = forgotten(network, "shop", "bank")
    network.crash("shop", point, commits)
    network.advance(1)
    died = not network.peers["shop"].running
    network.restart("shop")
    network.advance(1)
    if died and not isinstance(answers[0], int):
        answers = forgotten_again(network)
        network.advance(1)
    assert settled(network, receipts, 10)
    stats = network.peers["shop"].engine.stats()
    assert (stats["outbox_messages"], stats["outbox_bytes"]) == (0, 0)
    assert isinstance(answers[0], int | UnknownPeer)
    if not connected:
        assert set(outcomes(receipts)) == {"RECALLED"}
        assert seen.bodies == []
    told = outcomes(receipts)
    network.heal()
    network.advance(10)
    assert outcomes(receipts) == told, "an outcome is never reversed"
    handled = {body for body in seen.bodies if body is not None}
    assert not handled & {body for body, outcome in enumerate(told) if outcome == "RECALLED"}


def forgotten_again(network: Network) -> list[object]:
    """The application asks again after the crash: it may have been through already."""
    answers: list[object] = []
    network.peers["shop"].command(c.Forget("bank"), answers.append)
    return answers


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("who", ["shop", "bank", "both", "bank twice", "bank, after a restart"])
@pytest.mark.parametrize("both_dial", [False, True])
def test_one_that_returns_all_the_same_is_served_again(seed: int, who: str, both_dial: bool) -> None:
    """What was not settled comes again, and says so; outcomes stand; nothing is left."""
    network = pair(seed, both_dial=both_dial)
    seen = {"bank": Seen(), "shop": Seen()}
    for name, handler in seen.items():
        network.handler(name, "default", handler, duration=0.01)
    sent = {"bank": network.peers["shop"].send("bank", list(range(COUNT)))}
    sent["shop"] = network.peers["bank"].send("shop", list(range(COUNT)))
    network.advance(0.15)
    for name in {"shop": ["shop"], "both": ["shop", "bank"], "bank twice": ["bank", "bank"]}.get(who, ["bank"]):
        forget_and_connect(network, name, "bank" if name == "shop" else "shop")
        if "restart" in who:
            network.crash(name)
            network.restart(name)
        network.advance(0.1)
    network.advance(1)
    after = network.peers["shop"].send("bank", [f"new {n}" for n in range(10)])
    assert settled(network, [*sent["bank"], *sent["shop"], *after], 120)
    assert {f"new {n}" for n in range(10)} <= set(seen["bank"].bodies)
    network.advance(20)
    assert leftovers(network) == {}
    for name, receipts in sent.items():
        assert set(outcomes(receipts)) <= {"HANDLED", "UNCERTAIN", "RECALLED"}
        handled = [delivery for delivery in seen[name].deliveries if isinstance(delivery.body, int)]
        again = [d for n, d in enumerate(handled) if d.body in {before.body for before in handled[:n]}]
        assert all(delivery.redelivered for delivery in again)
        recalled = {receipt.body for receipt in receipts if receipt.outcome is Outcome.RECALLED}
        assert not recalled & {delivery.body for delivery in handled}


def forget_and_connect(network: Network, name: str, other: str) -> None:
    endpoint = network.peers[name].peers[other]
    forgotten(network, name, other)
    network.peers[name].peers[other] = endpoint
    network.peers[name].command(c.Connect(other, endpoint))


def test_what_came_from_a_forgotten_peer_is_handled() -> None:
    network, seen = pair(), Seen()
    receipts = network.peers["shop"].send("bank", list(range(COUNT)), ttl=600)
    network.advance(1)
    forgotten(network, "bank", "shop")
    network.advance(1)
    network.crash("bank")
    network.restart("bank")
    network.handler("bank", "default", seen)
    network.advance(5)
    assert sorted(seen.bodies) == list(range(COUNT))
    assert [receipt.outcome for receipt in receipts] == [None] * COUNT
    assert network.peers["bank"].engine.stats()["inbox_messages"] == 0
    assert "shop" not in network.peers["bank"].engine.channels
