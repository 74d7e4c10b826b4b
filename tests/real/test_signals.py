"""SIGINT and SIGTERM at any time: the store opens again and nothing that was accepted is lost."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest

from tests.real.net import LIMIT_S, Got, Net
from tests.real.processes import Nursery
from zmqrel import Outcome


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_ends_with_a_signal_when_its_handlers_are_through(
    nursery: Nursery, local: Net, number: signal.Signals
) -> None:
    shop = local.sender()
    options = {"store": local.store("billing"), "bind": local.endpoint("billing"), "peers": {"shop": None}}
    child = nursery.start("running_sink", options=options)
    assert shop.send("billing", "quick").wait(LIMIT_S) is Outcome.HANDLED
    slow, behind = shop.send("billing", "slow"), shop.send("billing", "behind")
    assert behind.wait_received(LIMIT_S)
    while child.expect("begun") != "slow":
        pass
    child.signal(number)
    child.say(go="on")
    assert child.expect("stopped")
    assert child.join() == 0
    assert slow.wait(LIMIT_S) is Outcome.HANDLED
    child = nursery.start("running_sink", options=options)
    assert behind.wait(LIMIT_S) is Outcome.HANDLED
    assert shop.send("billing", "again").wait(LIMIT_S) is Outcome.HANDLED
    child.signal(number)
    assert child.join() == 0


@pytest.mark.parametrize(("way", "number"), [("with", signal.SIGINT), ("run", signal.SIGINT), ("run", signal.SIGTERM)])
@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_a_signal_at_any_time_loses_nothing(
    nursery: Nursery, local: Net, way: str, number: signal.Signals, durability: str
) -> None:
    """Signals after a number of words drawn by chance, the first of them said before the peer is started."""
    rng = random.Random(5)
    options = {
        "store": local.store("shop"), "peers": {"billing": local.endpoint("billing")}, "durability": durability,
    }  # fmt: skip
    accepted = 0
    for turn in range(8):
        child = nursery.start("interrupted_source", options=options, first=accepted + 1, way=way)
        words = 1 if turn % 4 == 0 else rng.randrange(2, 60)
        while "ended" not in (said := child.hear()):
            accepted = said.get("accepted", accepted)
            words -= 1
            if not words:
                child.signal(number)
        # Before Python or `run` has taken the signal, it ends the process as it does any other.
        assert child.join() in (0, 1, -number)
    assert accepted
    billing = local.receiver()
    got = Got()
    billing.handler()(got)
    billing.start()
    shop = local.sender()
    assert {shop.receipt(f"m{n}").wait(LIMIT_S) for n in range(1, accepted + 1)} == {Outcome.HANDLED}
    bodies = got.next_bodies(accepted)
    assert sorted(set(bodies)) == sorted(bodies)
    assert set(range(1, accepted + 1)) <= {*bodies, *got.rest()}
