"""Whether a run of the orders ended right, judged from the books of its processes alone."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

from examples.judge import Judge

FAULTS = {
    "the end of the input never came, or rows are missing or too many": """
        SELECT n || ' rows' FROM (SELECT count(*) AS n FROM rows)
        WHERE n IS NOT (SELECT sum(expected) FROM input)""",
    "row is not exactly one of line, cancellation and refused": """
        SELECT id FROM rows WHERE kind <> CASE
            WHEN id IN (SELECT id FROM lines) THEN 'line'
            WHEN id IN (SELECT id FROM cancellations) THEN 'cancellation' ELSE 'refused' END""",
    "line without a row or without an order": """
        SELECT id FROM lines
        WHERE id NOT IN (SELECT id FROM rows) OR order_no NOT IN (SELECT order_no FROM orders)""",
    "order neither paid nor cancelled": """
        SELECT order_no FROM orders WHERE state NOT IN ('paid', 'cancelled')""",
    "order paid in the shop and cancelled in the warehouse": """
        SELECT order_no FROM orders JOIN cancelled USING (order_no) WHERE state = 'paid'""",
    "order cancelled in the shop and not in the warehouse": """
        SELECT order_no FROM orders
        WHERE state = 'cancelled' AND order_no NOT IN (SELECT order_no FROM cancelled)""",
    "order without exactly its one end in the ledger": """
        SELECT order_no FROM orders WHERE 'order ' || state IS NOT (SELECT group_concat(kind) FROM told
            WHERE subject = order_no AND kind IN ('order paid', 'order cancelled'))""",
    "order whose customer said something else than it was planned": """
        SELECT order_no FROM orders LEFT JOIN plans USING (order_no)
        WHERE answer IS NOT CASE kind WHEN 'never' THEN 'declined' ELSE 'paid' END OR kind IS NULL""",
    "order paid though its customer never paid": """
        SELECT order_no FROM orders WHERE state = 'paid' AND answer IS NOT 'paid'""",
    "late payment without a refund": """
        SELECT order_no FROM orders WHERE state = 'cancelled' AND answer = 'paid'
            AND (order_no NOT IN (SELECT order_no FROM refunds) OR refund IS NOT 'done')""",
    "refund without a late payment": """
        SELECT order_no FROM refunds WHERE order_no NOT IN
            (SELECT order_no FROM orders WHERE state = 'cancelled' AND answer = 'paid')""",
    "refund that the ledger does not know, or that only the ledger knows": """
        SELECT order_no FROM refunds
        WHERE order_no NOT IN (SELECT subject FROM told WHERE kind = 'order refunded')
        UNION SELECT subject FROM told
        WHERE kind = 'order refunded' AND subject NOT IN (SELECT order_no FROM refunds)""",
    "line neither dispatched nor recalled": """
        SELECT id FROM lines WHERE state NOT IN ('dispatched', 'recalled')""",
    "line recalled and dispatched all the same": """
        SELECT id FROM lines JOIN dispatched ON line = id WHERE state = 'recalled'""",
    "line dispatched for the shop and not in the warehouse": """
        SELECT id FROM lines WHERE state = 'dispatched' AND id NOT IN (SELECT line FROM dispatched)""",
    "dispatched, and nobody ordered it": """
        SELECT line FROM dispatched WHERE line NOT IN (SELECT id FROM lines)""",
    "line without exactly its one end in the ledger": """
        SELECT id FROM lines WHERE 'line ' || state IS NOT (SELECT group_concat(kind) FROM told
            WHERE subject = id AND kind IN ('line dispatched', 'line recalled'))""",
    "line recalled though nobody wanted it back": """
        SELECT id FROM lines WHERE state = 'recalled' AND NOT wanted_back""",
    "line of a cancelled order not wanted back": """
        SELECT id FROM lines JOIN orders USING (order_no)
        WHERE orders.state = 'cancelled' AND NOT wanted_back""",
    "return that is none, or a return that is missing": """
        SELECT id FROM lines WHERE (state = 'dispatched' AND wanted_back)
            IS NOT (id IN (SELECT subject FROM told WHERE kind = 'line returned'))""",
    "cancellation whose verdict is not what became of the line": """
        SELECT cancellations.id FROM cancellations JOIN lines ON line = lines.id
        WHERE state IS NOT CASE verdict WHEN 'RECALLED' THEN 'recalled' WHEN 'TOO_LATE' THEN 'dispatched'
            WHEN 'UNCERTAIN' THEN 'dispatched' END""",
}
FIGURES = {
    "orders paid": "SELECT count(*) FROM orders WHERE state = 'paid'",
    "orders cancelled": "SELECT count(*) FROM orders WHERE state = 'cancelled'",
    "... after a late payment, refunded": "SELECT count(*) FROM refunds",
    "lines dispatched": "SELECT count(*) FROM lines WHERE state = 'dispatched'",
    "... too late to recall, returned": "SELECT count(*) FROM told WHERE kind = 'line returned'",
    "lines recalled before dispatch": "SELECT count(*) FROM lines WHERE state = 'recalled'",
    "cancellations in the input": "SELECT count(*) FROM cancellations",
    "... of no line that is known": "SELECT count(*) FROM cancellations WHERE line IS NULL",
    "rows refused": "SELECT count(*) FROM rows WHERE kind = 'refused'",
    "handed over again after a crash": """
        SELECT (SELECT total(times - 1) FROM dispatched) + (SELECT total(times - 1) FROM cancelled)
            + (SELECT total(times - 1) FROM refunds) + (SELECT total(times - 1) FROM messages)""",
}


def tell(db: sqlite3.Connection, _data: Path) -> None:
    """What the ledger was told, taken out of the bodies of its messages."""
    db.execute("CREATE TEMP TABLE told (kind TEXT, subject TEXT)")
    bodies = [json.loads(body) for (body,) in db.execute("SELECT body FROM ledger.messages")]
    db.executemany("INSERT INTO told VALUES (:kind, :subject)", [body for body in bodies if body])


JUDGE = Judge(
    example="orders",
    books=("shop", "warehouse", "payments", "ledger"),
    faults=FAULTS,
    figures=FIGURES,
    all_is_well="every order and every line ended once, and in one way",
    prepare=tell,
)

if __name__ == "__main__":
    sys.exit(JUDGE.main())
