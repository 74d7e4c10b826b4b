"""Dead letters that are retried while processes die: one message for one letter, never none, never two."""

from __future__ import annotations

import pytest

from tests.sim.helpers import Seen, leftovers, outcomes, pair, settled
from zmqrel import Reject, Retry
from zmqrel.core import commands as c
from zmqrel.core import tables
from zmqrel.core.dead import decode_dead
from zmqrel.testing import Delivery
from zmqrel.testing.disk import CrashPoint

LETTERS = 5


@pytest.mark.parametrize("point", ["before commit", "after commit", "while sending"])
@pytest.mark.parametrize("commits", range(6))
def test_a_letter_is_there_or_was_retried_once(point: CrashPoint, commits: int) -> None:
    network, seen = pair(commits), Seen()

    def once_bitten(delivery: Delivery) -> None:
        if delivery.origin_id is None:
            raise Reject("no")
        seen(delivery)

    network.handler("bank", "default", once_bitten, retry=Retry.fixed(0.1))
    receipts = network.peers["shop"].send("bank", list(range(LETTERS)), key="k")
    assert settled(network, receipts)
    network.advance(1)
    bank = network.peers["bank"]
    network.crash("bank", point, commits)
    for number in range(1, LETTERS + 1):
        bank.command(c.RetryDead(number))
        network.advance(0.01)
        if not bank.running:
            network.restart("bank")
    network.advance(5)
    network.restart("bank")
    assert network.until(lambda: not bank.engine.stats()["inbox_messages"], 30)
    left = {decode_dead(data).id for _, data in bank.disk.scan(*tables.table_bounds(tables.DEAD), 99)}
    retried = [delivery.origin_id for delivery in seen.deliveries]
    assert len(retried) == len(set(retried)) or any(delivery.redelivered for delivery in seen.deliveries)
    assert left | set(retried) == {receipt.id for receipt in receipts}
    assert not left & set(retried)
    assert bank.engine.stats()["dead_messages"] == len(left)
    assert set(outcomes(receipts)) == {"REJECTED"}
    network.advance(1)
    assert leftovers(network) == {}
