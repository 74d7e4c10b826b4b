"""The shop: opens orders, tells warehouse and payments, and learns from outcomes what became of what it said.

For every order it sends the warehouse "cancel this, it was not paid", delayed to the payment's deadline. A
payment recalls that message by the order's number, and one of three verdicts comes back: RECALLED, the
order is paid; TOO_LATE, the warehouse has it, the payment is refunded; UNCERTAIN, the warehouse has lost
its memory, so the shop says "cancel" once more, for certain, and refunds. Every order line is a message of
its own, delayed by the time that packing takes. A cancelled order, or a cancellation in the input, recalls
it; a line that is too late to recall comes back as a return.

Any process may be killed at any time. What makes that harmless: this one writes its book first, and sends
under ids made of what it speaks of, so that doing it again is the same as doing it once.
"""

from __future__ import annotations

import contextlib

import zmqrel
from examples.books import PATIENT, seconds
from examples.orders import shop_book as books
from examples.orders.shop_book import open_book
from zmqrel import Outcome, Verdict

VERDICT_TIMEOUT_S = 5.0


def setup(peer: zmqrel.Peer) -> None:
    """Called by nodes.worker before the peer is started."""
    books.create()
    shop = Shop(peer)
    # The source gives rows the customer as key: the rows of one customer are taken in their order.
    peer.handler("rows", workers=2, retry=PATIENT)(shop.row)
    peer.handler("payments", workers=4, retry=PATIENT)(shop.payment)
    peer.on_outcome(to="warehouse", queue="unpaid")(shop.order_ended)
    peer.on_outcome(to="warehouse", queue="cancel")(shop.order_ended)
    peer.on_outcome(to="warehouse", queue="lines")(shop.line_ended)
    peer.on_outcome(to="payments", queue="bills")(shop.bill_ended)
    peer.on_outcome(to="payments", queue="refunds")(shop.refund_ended)


class Shop:
    """The handlers, and the peer that they send with."""

    def __init__(self, peer: zmqrel.Peer) -> None:
        self._peer = peer
        self._deadline = seconds("ORDERS_DEADLINE", 1.5)
        self._packing = seconds("ORDERS_PACKING", 3.0)

    # Rows of the input

    def row(self, message: zmqrel.Message) -> None:
        """A row of the input, or its end."""
        if "end" in message.headers:
            with open_book() as db:
                db.execute("DELETE FROM input")
                db.execute("INSERT INTO input VALUES (?)", (message.headers["end"],))
        elif str(message.body.get("InvoiceNo")).startswith("C"):
            self._cancel_line(message)
        else:
            self._open_line(message)
        self._publish()

    def _open_line(self, message: zmqrel.Message) -> None:
        line = message.id
        row = books.checked(message.body)
        with open_book() as db:
            db.execute("INSERT OR IGNORE INTO rows VALUES (?, ?)", (line, "line" if row else "refused"))
            if row:
                books.add_line(db, line, row)
        if row is None:
            self._publish()
            raise zmqrel.Reject("not an order line: InvoiceNo, StockCode and a Quantity above 0 are needed")
        self._send_order(row["InvoiceNo"])
        self._send_line(line, f"line:{line}", self._packing)
        with open_book() as db:
            wanted_back = db.execute("SELECT wanted_back FROM lines WHERE id = ?", (line,)).fetchone()[0]
        if wanted_back:
            self._recall_line(line)

    def _send_order(self, order: str) -> None:
        """Tell warehouse and payments of an order; again for each line of it, which the ids make harmless."""
        body = {"order": order}
        name = f"unpaid:{order}"
        self._peer.send("warehouse", body, queue="unpaid", id=name, key=order, delay=self._deadline)
        self._peer.send("payments", body, queue="bills", id=f"bill:{order}", key=order)

    def _send_line(self, line: str, name: str, delay: float | None) -> None:
        with open_book() as db:
            columns = "order_no, customer, stock, quantity"
            found = db.execute(f"SELECT {columns} FROM lines WHERE id = ?", (line,)).fetchone()
        order, customer, stock, quantity = found
        body = {"line": line, "order": order, "stock": stock, "quantity": quantity}
        key = f"{customer}/{stock}"
        self._peer.send("warehouse", body, queue="lines", id=name, key=key, delay=delay)

    def _cancel_line(self, message: zmqrel.Message) -> None:
        with open_book() as db:
            db.execute("INSERT OR IGNORE INTO rows VALUES (?, 'cancellation')", (message.id,))
            line = books.line_to_cancel(db, message.id, message.body)
            if line is not None:
                books.want_back(db, "id", line)
        if line is None:
            return
        verdict = told(self._peer.recall(f"line:{line}", timeout=VERDICT_TIMEOUT_S))
        with open_book() as db:
            db.execute("UPDATE cancellations SET verdict = ? WHERE id = ?", (verdict.name, message.id))

    # Payments

    def payment(self, message: zmqrel.Message) -> None:
        """A customer has paid, or said that nothing will come."""
        order, paid = message.body["order"], message.body["paid"]
        late = paid and self._recall_deadline(order) is not Verdict.RECALLED
        answer = "paid" if paid else "declined"
        with open_book() as db:
            db.execute("UPDATE orders SET answer = ? WHERE order_no = ?", (answer, order))
            if late:
                db.execute("UPDATE orders SET refund = coalesce(refund, 'owed') WHERE order_no = ?", (order,))
        if late:
            self._peer.send("payments", {"order": order}, queue="refunds", id=f"refund:{order}", key=order)
        self._publish()

    def _recall_deadline(self, order: str) -> Verdict:
        recalls = self._peer.recall_where(to="warehouse", queue="unpaid", key=order, timeout=VERDICT_TIMEOUT_S)
        if recalls:
            return told(recalls[0])
        # What has ended is not found by its key any more; by its id, the verdict is told again.
        return told(self._peer.recall(f"unpaid:{order}", timeout=VERDICT_TIMEOUT_S))

    # Outcomes of what was sent

    def order_ended(self, receipt: zmqrel.Receipt) -> None:
        """The order to cancel was carried out, or recalled by a payment; else nobody knows: say it again."""
        order = str(receipt.key)
        if receipt.outcome is Outcome.RECALLED:
            with open_book() as db:
                books.end_order(db, order, "paid")
        elif receipt.outcome is Outcome.HANDLED:
            with open_book() as db:
                lines = books.end_order(db, order, "cancelled")
            for line in lines:
                self._recall_line(line)
        else:
            self._peer.send("warehouse", {"order": order}, queue="cancel", id=f"{receipt.id}+", key=order)
        self._publish()

    def line_ended(self, receipt: zmqrel.Receipt) -> None:
        """The line has left the house, or was recalled; else nobody knows: have it sent, for certain."""
        line = receipt.id.removeprefix("line:").rstrip("+")
        if receipt.outcome in (Outcome.HANDLED, Outcome.RECALLED):
            with open_book() as db:
                state = "dispatched" if receipt.outcome is Outcome.HANDLED else "recalled"
                books.end_line(db, line, state)
        else:
            self._send_line(line, f"{receipt.id}+", None)
        self._publish()

    def bill_ended(self, receipt: zmqrel.Receipt) -> None:
        """A bill that may not have been read is sent again."""
        if receipt.outcome is not Outcome.HANDLED:
            self._again(receipt)

    def refund_ended(self, receipt: zmqrel.Receipt) -> None:
        """The customer has the money back."""
        if receipt.outcome is not Outcome.HANDLED:
            self._again(receipt)
            return
        with open_book() as db:
            db.execute("UPDATE orders SET refund = 'done' WHERE order_no = ?", (receipt.key,))
            books.event(db, "order refunded", str(receipt.key))
        self._publish()

    def _again(self, receipt: zmqrel.Receipt) -> None:
        body = {"order": receipt.key}
        self._peer.send(receipt.to, body, queue=receipt.queue, id=f"{receipt.id}+", key=receipt.key)

    def _recall_line(self, line: str) -> None:
        # A line that is not sent yet is recalled by the one who is about to send it.
        with contextlib.suppress(zmqrel.UnknownMessage):
            self._peer.recall(f"line:{line}")

    # The ledger

    def _publish(self) -> None:
        """Tell the ledger what it has not been told yet, and the end when there is nothing more to come."""
        with open_book() as db:
            events = db.execute("SELECT kind, subject FROM events WHERE NOT sent ORDER BY rowid").fetchall()
        for kind, subject in events:
            body = {"kind": kind, "subject": subject}
            self._peer.send("ledger", body, queue="events", id=f"{kind}:{subject}")
        with open_book() as db:
            db.executemany("UPDATE events SET sent = 1 WHERE kind = ? AND subject = ?", events)
            count = db.execute("SELECT count(*) FROM events").fetchone()[0]
            ended = db.execute(books.ALL_ENDED).fetchone()[0]
        if ended:
            self._peer.send("ledger", None, queue="events", id=f"end:{count}", headers={"end": count})


def told(recall: zmqrel.Recall) -> Verdict:
    """The verdict; while there is none, the handler is to come back."""
    if recall.verdict is Verdict.PENDING:
        # The warehouse cannot be asked now. The recall stays in force meanwhile.
        raise zmqrel.RetryLater(0.5)
    return recall.verdict
