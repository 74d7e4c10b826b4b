"""The warehouse: dispatches order lines when they are due, and cancels orders whose payment did not come.

Both are delayed messages of the shop. The shop may recall either until this process has taken it in hand; a
message that arrives here was not recalled, so nothing needs to be asked.
"""

from __future__ import annotations

import zmqrel
from examples.books import PATIENT, book

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS dispatched (
        line TEXT PRIMARY KEY, order_no TEXT NOT NULL, stock TEXT NOT NULL, quantity INTEGER NOT NULL,
        times INTEGER NOT NULL DEFAULT 1)""",
    """CREATE TABLE IF NOT EXISTS cancelled (
        order_no TEXT PRIMARY KEY, times INTEGER NOT NULL DEFAULT 1)""",
)


def setup(peer: zmqrel.Peer) -> None:
    """Called by nodes.worker before the peer is started."""
    with book("warehouse", SCHEMA):
        pass
    peer.handler("lines", workers=2, retry=PATIENT)(dispatch)
    peer.handler("unpaid", retry=PATIENT)(cancel)
    # What the shop says again when it could not learn what became of an "unpaid".
    peer.handler("cancel", retry=PATIENT)(cancel)


def dispatch(message: zmqrel.Message) -> None:
    """Send the goods of one order line out of the house."""
    line = message.body
    with book("warehouse") as db:
        db.execute(
            "INSERT INTO dispatched (line, order_no, stock, quantity) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (line) DO UPDATE SET times = times + 1",
            (line["line"], line["order"], line["stock"], line["quantity"]),
        )


def cancel(message: zmqrel.Message) -> None:
    """Give up the reservation of an order that was not paid."""
    with book("warehouse") as db:
        db.execute(
            "INSERT INTO cancelled (order_no) VALUES (?) ON CONFLICT (order_no) DO UPDATE SET times = times + 1",
            (message.body["order"],),
        )
