"""The relay's own code on the simulated network, killed at any moment: what it sends on arrives once for each."""

from __future__ import annotations

import argparse
import itertools
from random import Random

import pytest

from nodes import relay
from tests.examples.simulated import LATEST_S, Program, World
from zmqrel import Retry
from zmqrel.testing import Delivery

COUNT = 20


def relayed(seed: int, deaths: int) -> tuple[list[int], World]:
    """What came out of the relay for each of the numbers that went in, as the receiver saw it, and where."""
    world = World(seed, deaths)
    # A function whose result is another each time: the first that was sent is the one that counts.
    versions, rng = itertools.count(), Random(seed)
    came: dict[str, int] = {}

    def change(message: Delivery) -> dict[str, int]:
        if rng.random() < 0.1:
            raise RuntimeError("try again")
        return {"version": next(versions), "n": message.body}

    def relaying(program: Program) -> None:
        args = argparse.Namespace(function=change, to="sink", queue="rows", send_queue="rows")
        program.handler("rows", workers=2, retry=Retry.fixed(0.1))(relay.relaying(program, args))

    def sink(program: Program) -> None:
        def take(message: Delivery) -> None:
            body = (message.body["n"], message.body["version"])
            assert came.setdefault(message.id, body) == body, "one id with two bodies"

        program.handler("rows", retry=Retry.fixed(0.1))(take)

    world.add("source", {"relay": True}, lambda _: None)
    world.add("relay", {"source": False, "sink": True}, relaying)
    world.add("sink", {"relay": False}, sink)
    world.start()
    network = world.network
    sent = 0
    while sent < COUNT:
        if network.peers["source"].running:
            receipt = network.send("source", "relay", sent, queue="rows", id=f"row:{sent}")
            network.until(lambda receipt=receipt: receipt.accepted or receipt.error is not None)  # type: ignore[misc]
            sent += receipt.accepted
        network.advance(0.1)
    source = network.peers["source"]
    # Each arrived, and the relay is done with each: it does not try again for ever what it has sent.
    assert network.until(
        lambda: len(came) >= COUNT and source.running and not source.engine.stats()["outbox_messages"], LATEST_S
    )
    # Whatever may still come a second time has come by then.
    network.advance(10)
    return sorted(n for n, _ in came.values()), world


def check(seeds: range) -> None:
    deaths = 0
    for seed in seeds:
        numbers, world = relayed(seed, deaths=8)
        assert numbers == list(range(COUNT)), seed
        deaths += world.deaths
    assert deaths > 2 * len(seeds)


def test_each_once_over_schedules_of_kills() -> None:
    check(range(10))


@pytest.mark.long
@pytest.mark.parametrize("first", range(10, 310, 50))
def test_each_once_over_300_schedules_of_kills(first: int) -> None:
    check(range(first, first + 50))
