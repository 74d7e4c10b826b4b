"""Bodies that are on their way for longer than `liveness_s`."""

from __future__ import annotations

import sys

import pytest

import zmqrel
from tests.real.slow_link import SlowLink

BODY = 3 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells when something came over a connection")
@pytest.mark.parametrize("sender", ["edge", "hub"])
def test_a_body_that_takes_longer_than_liveness_arrives(sender: str) -> None:
    """Nothing else can be heard meanwhile: heartbeats travel behind it."""
    receiver = {"edge": "hub", "hub": "edge"}[sender]
    options = {"heartbeat_s": 0.3, "liveness_s": 1.0}
    with zmqrel.Peer("hub", zmqrel.MEMORY, bind="tcp://127.0.0.1:*", peers={"edge": None}, **options) as hub:
        port = int(hub.endpoints[0].rpartition(":")[2])
        with (
            SlowLink(port, 1 << 20) as link,
            zmqrel.Peer("edge", zmqrel.MEMORY, peers={"hub": link.endpoint}, **options) as edge,
        ):
            peers = {"hub": hub, "edge": edge}
            peers[receiver].handler()(lambda message: None)
            assert peers[sender].send(receiver, bytes(BODY)).wait(100) is zmqrel.Outcome.HANDLED
