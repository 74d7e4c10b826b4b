"""Sends commands to devices that it cannot reach by itself: they connect to it, when they are there.

Some commands are for now or never, some are taken back at once; each has one end, and this keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmqrel
from examples.books import PATIENT, book
from nodes.program import Parser, Stop, above_zero, peer_of, reported, run, whole

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS commands (id TEXT PRIMARY KEY, device TEXT NOT NULL, kind TEXT NOT NULL, verdict TEXT)",
    """CREATE TABLE IF NOT EXISTS ended (
        id TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT, times INTEGER NOT NULL DEFAULT 1,
        PRIMARY KEY (id, outcome))""",
    "CREATE TABLE IF NOT EXISTS reports (id TEXT PRIMARY KEY, device TEXT NOT NULL, times INTEGER NOT NULL DEFAULT 1)",
)
KINDS = ("plain", "plain", "short", "plain", "recalled")
SHORT_S = 0.5
DONE = """
SELECT NOT EXISTS (SELECT * FROM commands WHERE id NOT IN (SELECT id FROM ended))
    AND NOT EXISTS (SELECT * FROM ended WHERE outcome = 'HANDLED' AND id NOT IN (SELECT id FROM reports))
"""


def command(peer: zmqrel.Peer, device: str, n: int) -> None:
    """Send a device its n-th command, of which the hub's book knows first."""
    name, kind = f"{device}:{n}", KINDS[n % len(KINDS)]
    with book("hub") as db:
        db.execute("INSERT OR IGNORE INTO commands (id, device, kind) VALUES (?, ?, ?)", (name, device, kind))
    options: dict[str, Any] = {"ttl": SHORT_S, "on_expiry": "drop"} if kind == "short" else {}
    receipt = peer.send(device, {"n": n, "kind": kind}, queue="commands", id=name, **options)
    if kind == "recalled":
        # It stays in force; what it came to is asked for when the outcome is known.
        receipt.recall()


def ended(receipt: zmqrel.Receipt) -> None:
    """Called with every outcome."""
    assert receipt.outcome is not None
    verdict = receipt.recall().verdict.name
    with book("hub") as db:
        db.execute(
            "INSERT INTO ended (id, outcome, reason) VALUES (?, ?, ?)"
            " ON CONFLICT (id, outcome) DO UPDATE SET times = times + 1",
            (receipt.id, receipt.outcome.name, receipt.reason),
        )
        db.execute("UPDATE commands SET verdict = ? WHERE id = ? AND kind = 'recalled'", (verdict, receipt.id))


def report(message: zmqrel.Message) -> None:
    """A device has obeyed."""
    with book("hub") as db:
        db.execute(
            "INSERT INTO reports (id, device) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET times = times + 1",
            (message.body["command"], message.sender),
        )


def main(argv: Sequence[str] | None = None) -> int:
    made = Parser("examples.edge.hub", __doc__ or "", "--bind tcp://127.0.0.1:7001 --peer device-1 --peer device-2")
    made.add_argument("--rounds", type=whole, default=10, help="commands for each device [%(default)s]")
    made.add_argument("--pause", type=above_zero, default=0.4, help="seconds between two rounds [%(default)s]")
    args = made.parsed(argv)
    with book("hub", SCHEMA):
        pass
    stop = Stop()
    peer = peer_of(args)
    peer.on_outcome(queue="commands")(ended)
    peer.handler("reports", retry=PATIENT)(report)
    with reported(peer), peer:
        for n in range(args.rounds):
            for device in args.peers:
                command(peer, device, n)
            if stop.wait(args.pause):
                return 0
        while not stop.wait(0.1):
            with book("hub") as db:
                if db.execute(DONE).fetchone()[0]:
                    break
    return 0


if __name__ == "__main__":
    run(main)
