"""What the shop knows, and the questions that it asks of it; nothing of messages here."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import AbstractContextManager
from typing import Any

from examples.books import book

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS input (expected INTEGER NOT NULL)",
    # kind: line, cancellation or refused
    "CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, kind TEXT NOT NULL)",
    # state: open, paid, cancelled; answer of the customer: paid, declined; refund: owed, done
    """CREATE TABLE IF NOT EXISTS orders (
        order_no TEXT PRIMARY KEY, state TEXT NOT NULL DEFAULT 'open', answer TEXT, refund TEXT)""",
    # state: open, dispatched, recalled; wanted_back: the line or its order was cancelled
    """CREATE TABLE IF NOT EXISTS lines (
        id TEXT PRIMARY KEY, order_no TEXT NOT NULL, customer TEXT NOT NULL, stock TEXT NOT NULL,
        quantity INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'open', wanted_back INTEGER NOT NULL)""",
    # line: the one that is cancelled, if there is one; verdict: of its recall
    "CREATE TABLE IF NOT EXISTS cancellations (id TEXT PRIMARY KEY, line TEXT, verdict TEXT)",
    # what the ledger is told, written in the transaction that makes it so
    """CREATE TABLE IF NOT EXISTS events (
        kind TEXT NOT NULL, subject TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (kind, subject))""",
    "CREATE INDEX IF NOT EXISTS unsent ON events (sent) WHERE NOT sent",
    "CREATE INDEX IF NOT EXISTS lines_of_order ON lines (order_no)",
    "CREATE INDEX IF NOT EXISTS open_lines ON lines (state) WHERE state = 'open'",
)
ALL_ENDED = """
SELECT (SELECT sum(expected) FROM input) = (SELECT count(*) FROM rows)
    AND NOT EXISTS (SELECT * FROM orders WHERE state = 'open' OR answer IS NULL OR refund = 'owed')
    AND NOT EXISTS (SELECT * FROM lines WHERE state = 'open')
    AND NOT EXISTS (SELECT * FROM cancellations WHERE line IS NOT NULL AND verdict IS NULL)
    AND NOT EXISTS (SELECT * FROM events WHERE NOT sent)
"""


def create() -> None:
    """Make the book if there is none."""
    with book("shop", SCHEMA):
        pass


def open_book() -> AbstractContextManager[sqlite3.Connection]:
    """One transaction in the shop's book."""
    return book("shop")


def checked(row: dict[str, Any]) -> dict[str, Any] | None:
    """The row with its quantity as a number, or None if it is not an order line."""
    with contextlib.suppress(KeyError, ValueError):
        quantity = int(row["Quantity"])
        if row["InvoiceNo"] and row["StockCode"] and quantity > 0:
            return {**row, "Quantity": quantity}
    return None


def add_line(db: sqlite3.Connection, line: str, row: dict[str, Any]) -> None:
    """A line, and its order if it is the first; a line that comes after its order's end is wanted back."""
    order = row["InvoiceNo"]
    db.execute("INSERT OR IGNORE INTO orders (order_no) VALUES (?)", (order,))
    db.execute(
        "INSERT OR IGNORE INTO lines (id, order_no, customer, stock, quantity, wanted_back)"
        " SELECT ?, order_no, ?, ?, ?, state = 'cancelled' FROM orders WHERE order_no = ?",
        (line, row.get("CustomerID", ""), row["StockCode"], row["Quantity"], order),
    )


def line_to_cancel(db: sqlite3.Connection, cancellation: str, row: dict[str, Any]) -> str | None:
    """The latest line of that customer and article that is not wanted back yet; chosen once and kept."""
    db.execute(
        "INSERT OR IGNORE INTO cancellations (id, line) SELECT ?,"
        " (SELECT id FROM lines WHERE customer = ? AND stock = ? AND customer <> '' AND NOT wanted_back"
        "  ORDER BY rowid DESC LIMIT 1)",
        (cancellation, row.get("CustomerID", ""), row.get("StockCode", "")),
    )
    line: str | None = db.execute("SELECT line FROM cancellations WHERE id = ?", (cancellation,)).fetchone()[0]
    return line


def want_back(db: sqlite3.Connection, column: str, value: str) -> list[str]:
    """Note that lines are wanted back; returns which of them have not ended."""
    found = db.execute(f"SELECT id, state FROM lines WHERE {column} = ?", (value,)).fetchall()
    db.execute(f"UPDATE lines SET wanted_back = 1 WHERE {column} = ?", (value,))
    for line, _ in found:
        note_return(db, line)
    return [line for line, state in found if state == "open"]


def end_line(db: sqlite3.Connection, line: str, state: str) -> None:
    """A line was dispatched or recalled."""
    db.execute("UPDATE lines SET state = ? WHERE id = ?", (state, line))
    event(db, f"line {state}", line)
    note_return(db, line)


def end_order(db: sqlite3.Connection, order: str, state: str) -> list[str]:
    """An order was paid or cancelled; returns the lines that are to be recalled for that."""
    db.execute("UPDATE orders SET state = ? WHERE order_no = ?", (state, order))
    event(db, f"order {state}", order)
    return want_back(db, "order_no", order) if state == "cancelled" else []


def note_return(db: sqlite3.Connection, line: str) -> None:
    """A line that has left the house and is wanted back is a return, whichever of the two was first."""
    db.execute(
        "INSERT OR IGNORE INTO events (kind, subject) SELECT 'line returned', id FROM lines"
        " WHERE id = ? AND state = 'dispatched' AND wanted_back",
        (line,),
    )


def event(db: sqlite3.Connection, kind: str, subject: str) -> None:
    """Something that the ledger is to be told."""
    db.execute("INSERT OR IGNORE INTO events (kind, subject) VALUES (?, ?)", (kind, subject))
