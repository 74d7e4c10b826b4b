"""The payments: customers who pay in time, close to the deadline, late, or never; and refunds.

How a customer pays follows from the order's number alone, so that every run of the same file tells the same
story, but for those who pay close to the deadline: whether they are in time is for the messages to decide.
"""

from __future__ import annotations

import zlib

import zmqrel
from examples.books import PATIENT, book, seconds

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS plans (order_no TEXT PRIMARY KEY, kind TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS refunds (order_no TEXT PRIMARY KEY, times INTEGER NOT NULL DEFAULT 1)",
)


def plan(order: str) -> tuple[str, float]:
    """How the customer of an order pays, and after which part of the deadline."""
    roll = zlib.crc32(order.encode()) % 20
    if roll < 12:
        return "in time", 0.2 + roll / 20
    if roll < 14:
        return "close", 0.97 + (roll - 12) / 50
    if roll < 17:
        return "late", 1.5
    return "never", 0.0


def setup(peer: zmqrel.Peer) -> None:
    """Called by nodes.worker before the peer is started."""
    deadline = seconds("ORDERS_DEADLINE", 1.5)
    with book("payments", SCHEMA):
        pass

    @peer.handler("bills", retry=PATIENT)
    def bill(message: zmqrel.Message) -> None:
        order = message.body["order"]
        kind, part = plan(order)
        with book("payments") as db:
            db.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (order, kind))
        # One who never pays is told at once, so that the run knows when nothing more will come.
        answer = {"order": order, "paid": kind != "never"}
        delay = part * deadline
        peer.send(message.sender, answer, queue="payments", id=f"pay:{order}", key=order, delay=delay)

    @peer.handler("refunds", retry=PATIENT)
    def refund(message: zmqrel.Message) -> None:
        with book("payments") as db:
            db.execute(
                "INSERT INTO refunds (order_no) VALUES (?) ON CONFLICT (order_no) DO UPDATE SET times = times + 1",
                (message.body["order"],),
            )
