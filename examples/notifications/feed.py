"""Sends notifications that are worth something for a moment only, and counts what became of each."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmqrel
from examples.books import book
from nodes.program import Parser, Stop, above_zero, peer_of, reported, run, whole

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS promised (ttl_s REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS sent (id TEXT PRIMARY KEY, at REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ended (id TEXT PRIMARY KEY, outcome TEXT NOT NULL, times INTEGER NOT NULL DEFAULT 1)",
)


def noted(name: str) -> float:
    """When a notification came up. Noted before it is sent, so that a repeated send is the same one."""
    with book("feed") as db:
        db.execute("INSERT OR IGNORE INTO sent VALUES (?, ?)", (name, time.time()))
        at: float = db.execute("SELECT at FROM sent WHERE id = ?", (name,)).fetchone()[0]
    return at


def note_end(name: str, outcome: zmqrel.Outcome) -> None:
    """Note an outcome; told twice after a crash, it is one row all the same."""
    with book("feed") as db:
        db.execute(
            "INSERT INTO ended (id, outcome) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET times = times + 1",
            (name, outcome.name),
        )


def ended(receipt: zmqrel.Receipt) -> None:
    """Called with every outcome, also of an earlier life."""
    assert receipt.outcome is not None
    note_end(receipt.id, receipt.outcome)


def notify(peer: zmqrel.Peer, to: str, n: int, ttl: float) -> None:
    """Send a notification, which is of use until `ttl` seconds after it came up."""
    name = f"notification:{n}"
    at = noted(name)
    body = {"at": at, "text": f"machine {n % 7} wants attention"}
    try:
        # Dropped when it is stale: a notification of a minute ago is nobody's business.
        peer.send(to, body, queue="notifications", id=name, deadline=at + ttl, on_expiry="drop")
    except zmqrel.DeadlinePassed:
        # Noted by an earlier life that did not come to send it.
        note_end(name, zmqrel.Outcome.EXPIRED)


def all_ended() -> bool:
    with book("feed") as db:
        return bool(db.execute("SELECT (SELECT count(*) FROM sent) = (SELECT count(*) FROM ended)").fetchone()[0])


def main(argv: Sequence[str] | None = None) -> int:
    made = Parser("examples.notifications.feed", __doc__ or "", "--to screen --peer screen=tcp://127.0.0.1:7001")
    made.add_argument("--to", required=True, metavar="PEER", help="who gets them")
    made.add_argument("--count", type=whole, default=240, help="how many [%(default)s]")
    made.add_argument("--rate", type=above_zero, default=60.0, help="how many a second [%(default)s]")
    made.add_argument("--ttl", type=above_zero, default=0.5, help="seconds for which each is of use [%(default)s]")
    args = made.parsed(argv)
    with book("feed", SCHEMA) as db:
        db.execute("DELETE FROM promised")
        db.execute("INSERT INTO promised VALUES (?)", (args.ttl,))
    stop = Stop()
    peer = peer_of(args)
    peer.on_outcome()(ended)
    with reported(peer), peer:
        for n in range(args.count):
            notify(peer, args.to, n, args.ttl)
            if stop.wait(1 / args.rate):
                return 0
        while not all_ended():
            if stop.wait(0.1):
                return 0
    return 0


if __name__ == "__main__":
    run(main)
