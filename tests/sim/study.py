"""Frequencies of what becomes of messages that have a channel to themselves, from the simulator.

Each message is sent when the one before it is through and nothing of it is on its way any more, no timer either: that
is the one message of which `zmqrel.testing.model` speaks. The faults are those of its settings and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, lgamma, log
from random import Random

from zmqrel import Outcome, Reject
from zmqrel.core import tables
from zmqrel.testing import Delivery, LinkFaults, Network, SimulatedReceipt
from zmqrel.testing.grid import mean_s
from zmqrel.testing.model import Settings


@dataclass
class Frequencies:
    """What was counted."""

    count: int
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    attempts: list[int] = field(default_factory=list)
    sends: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Study:
    """Messages from `shop` to `bank` under some settings."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._chance = Random(seed).random
        self._handed_over = 0
        piece = settings.travel[0]
        self._network = Network(seed, faults=LinkFaults(delay_s=(piece.low_s, piece.high_s)))
        # A link that loses pings is dialled anew now and then: that is not of the model.
        options = {"heartbeat_s": 3600.0, "liveness_s": 36_000.0, "resend": settings.resend}
        self._network.peer("shop", {"bank": True}, **options)
        self._network.peer("bank", {"shop": False}, **options)
        shop, bank = self._peers = (self._network.peers["shop"], self._network.peers["bank"])
        assert self._network.until(lambda: shop.connected("bank") and bank.connected("shop"), 5)
        self._faulty = False
        self._network.handler("bank", "default", self._handle, duration=settings.lasts_s, retry=settings.retry)
        self._network.advance(1)
        self._through(self._network.send("shop", "bank", None))
        self._learn_ack_time()
        self._faulty = True
        self._network.links.censor = self._loses
        bank.disk.refuses = lambda: self._chance() < settings.store_failure

    def run(self, count: int) -> Frequencies:
        """Send so many messages."""
        found = Frequencies(count)
        for _ in range(count):
            self._one(found)
        return found

    def _one(self, found: Frequencies) -> None:
        network, ttl_s = self._network, self._settings.ttl_s
        self._handed_over = 0
        began, sent_before = network.now, self._sent()
        at_deadline: list[int] = []
        receipt = network.send("shop", "bank", b"x" * 64, ttl=ttl_s, on_expiry="drop")
        if ttl_s is not None:
            network.after(ttl_s, lambda: at_deadline.append(self._sent()))
        assert network.until(lambda: receipt.outcome is not None, 100_000)
        assert receipt.outcome is not None
        found.outcomes[receipt.outcome] += 1
        found.attempts.append(self._handed_over)
        found.sends.append((at_deadline[0] if at_deadline else self._sent()) - sent_before)
        found.seconds.append(network.now - began)
        self._through(receipt)
        self._learn_ack_time()

    def _learn_ack_time(self) -> None:
        """Let the lanes think that an acknowledgement takes what it takes on average.

        They smooth what they see; and after a store that failed they have to learn it again, in the new session.
        """
        for peer in self._peers:
            for lane in peer.engine.shared.out_lanes.values():
                lane.ack_us = int(2e6 * mean_s(self._settings.travel))

    def _through(self, receipt: SimulatedReceipt) -> None:
        """Until both ends have heard all of it, and no timer of it is set any more."""
        network = self._network
        assert network.until(lambda: receipt.outcome is not None and not self._under_way(), 100_000)
        first_s = max(self._settings.resend.schedule(1))
        network.advance(0.2 + 10 * mean_s(self._settings.travel) + first_s)
        assert network.until(lambda: not self._under_way(), 100_000)

    def _under_way(self) -> bool:
        lanes = [lane for peer in self._peers for lane in peer.engine.shared.out_lanes.values()]
        return any(lane.acked < lane.next_seq - 1 for lane in lanes) or not self._connected()

    def _connected(self) -> bool:
        shop, bank = self._peers
        return shop.connected("bank") and bank.connected("shop")

    def _sent(self) -> int:
        return self._peers[0].engine.shared.counters["sent"]

    # ------------------------------------------------------------------------------------------------- faults

    def _loses(self, sender: str, _receiver: str, _parts: list[bytes]) -> bool:
        return self._chance() < (self._settings.loss if sender == "shop" else self._settings.loss_back)

    def _handle(self, _delivery: Delivery) -> None:
        self._handed_over += 1
        if not self._faulty:
            return
        drawn = self._chance()
        if drawn < self._settings.handler_rejection:
            raise Reject("no")
        if drawn < self._settings.handler_rejection + self._settings.handler_failure:
            if self._chance() < self._settings.store_damage:
                self._damage()
            raise RuntimeError("no luck")

    def _damage(self) -> None:
        """The message's record, which is read back for the next attempt."""
        disk = self._peers[1].disk
        ((key, value),) = disk.scan(*tables.table_bounds(tables.INBOX), 2)
        disk.damage(key, len(value) - 6)


def interval(hits: int, count: int, error: float) -> tuple[float, float]:
    """The exact interval (Clopper and Pearson, 1934) of a chance, wrong with at most this chance `error`."""
    low = 0.0 if not hits else _root(lambda p: _at_least(hits, count, p) - error / 2)
    high = 1.0 if hits == count else _root(lambda p: error / 2 - (1 - _at_least(hits + 1, count, p)))
    return low, high


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def _at_least(hits: int, count: int, p: float) -> float:
    """The chance of at least so many hits."""
    if p <= 0 or p >= 1:
        return float(p >= 1 or hits <= 0)

    def chance(k: int) -> float:
        return exp(lgamma(count + 1) - lgamma(k + 1) - lgamma(count - k + 1) + k * log(p) + (count - k) * log(1 - p))

    if hits > count * p:
        return sum(chance(k) for k in range(hits, count + 1))
    return 1 - sum(chance(k) for k in range(hits))
