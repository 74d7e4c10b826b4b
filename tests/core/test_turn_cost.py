"""What a turn costs does not grow with the queues, lanes and peers that it has nothing to do with.

Counted are the lines of the core that it runs, which no other process can make slower.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from tests.core.pump import Host, Pump, Time
from zmqrel.core import commands as c
from zmqrel.core.buffer import HANDLED

FEW, MANY = 2, 60
Cost = Callable[[int, str, bool], int]


def lines(action: Callable[[], Any]) -> int:
    """How many lines of the core an action runs; a line that goes through a list counts for each of its items."""
    counted = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal counted
        if "/core/" not in frame.f_code.co_filename or "tests" in frame.f_code.co_filename:
            return None
        counted += event in ("call", "line")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return counted


def world(number: int, durability: str, tight: bool) -> tuple[Host, Host, Pump]:
    """Two hosts that know so many others, and have sent each other a message in each of so many queues."""
    time = Time()
    options = {"durability": durability} | ({"inbox_max_messages": 4 * MANY} if tight else {})
    a, b = Host("a", time, **options), Host("b", time, **options)
    for host in (a, b):
        for other in range(number):
            host.turn([], c.Connect(f"other-{other}", None))
        for queue in range(number):
            host.serve(f"served-{queue}")
    pump = Pump(a, b)
    pump.connect()
    for queue in range(number):
        a.send("b", b"x", queue=f"served-{queue}")
        a.send("b", b"x", queue=f"left-{queue}")
    pump.run()
    for queue in range(number):
        b.finish(b.take(f"served-{queue}"), HANDLED)
    pump.run()
    pump.pass_s(3)
    for host in (a, b):
        host.buffers = {"served-0": host.buffers["served-0"]}  # the others have nothing to tell
    return a, b, pump


def cost_of_message(number: int, durability: str, tight: bool) -> int:
    """Of a message and all that follows from it, at both ends."""
    a, b, pump = world(number, durability, tight)

    def whole_life() -> None:
        a.send("b", b"y", queue="served-0")
        pump.run()
        b.finish(b.take("served-0"), HANDLED)
        pump.run()
        for host in (a, b):
            host.turn(flush=True)
            host.engine.next_wake_us(host.now())
        pump.run()

    whole_life()
    return lines(whole_life)


def cost_of_nothing(number: int, durability: str, tight: bool) -> int:
    """Of a turn in which nothing comes in."""
    a, _, _ = world(number, durability, tight)

    def turn() -> None:
        a.turn(flush=True)
        a.engine.next_wake_us(a.now())

    turn()
    return lines(turn)


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
@pytest.mark.parametrize("cost", [cost_of_message, cost_of_nothing])
def test_a_turn_costs_the_same_with_few_and_with_many(cost: Cost, durability: str) -> None:
    few, many = cost(FEW, durability, False), cost(MANY, durability, False)
    assert many < few + MANY, f"{few} lines with {FEW} queues and peers, {many} with {MANY}"


def test_lanes_that_are_short_of_credit_are_asked_one_by_one_and_not_each_about_all() -> None:
    few, many = cost_of_message(FEW, "fsync", True), cost_of_message(MANY, "fsync", True)
    assert many < few + 400 * MANY, f"{few} lines with {FEW} lanes that are short of credit, {many} with {MANY}"
    few, many = cost_of_nothing(FEW, "fsync", True), cost_of_nothing(MANY, "fsync", True)
    assert many < few + MANY, "and not at all when nothing happened"
