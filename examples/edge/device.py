"""A device behind a NAT: nobody can connect to it, so it connects to the hub, obeys, and reports."""

from __future__ import annotations

import zmqrel
from examples.books import PATIENT, book

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS obeyed (id TEXT PRIMARY KEY, kind TEXT NOT NULL, times INTEGER NOT NULL DEFAULT 1)",
)


def setup(peer: zmqrel.Peer) -> None:
    """Called by nodes.worker before the peer is started."""
    with book(peer.name, SCHEMA):
        pass

    @peer.handler("commands", retry=PATIENT)
    def obey(message: zmqrel.Message) -> None:
        with book(peer.name) as db:
            db.execute(
                "INSERT INTO obeyed (id, kind) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET times = times + 1",
                (message.id, message.body["kind"]),
            )
        # By the way back of the connection that this device has made. Again after a crash: it is the same report.
        peer.send(message.sender, {"command": message.id}, queue="reports", id=f"obeyed:{message.id}")
