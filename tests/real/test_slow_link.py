"""Bodies that are on their way for longer than `liveness_s`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import zmqrel
from tests.real.slow_link import SlowLink
from zmqrel.runtime.connections import cut

BODY = 3 << 20
DESCRIPTORS = Path("/proc/self/fd")


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


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="descriptors are counted in /proc")
def test_a_number_that_is_another_files_by_now_costs_no_descriptor(tmp_path: Path) -> None:
    """A stranger who is gone before its frame was read: the number of its connection may be given again."""
    with (tmp_path / "file").open("wb") as file:
        before = len(list(DESCRIPTORS.iterdir()))
        for _ in range(10):
            cut(file.fileno(), set())
        assert len(list(DESCRIPTORS.iterdir())) == before
