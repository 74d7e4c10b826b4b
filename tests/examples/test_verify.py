"""The verifier of the orders: silent on right books, and loud on every fault that is planted in them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from examples.orders import payments, shop_book, verify, warehouse
from nodes import sink

# Orders: P is paid, L was paid too late, N never. Line 2 was cancelled too late, line 4 belongs to a cancelled
# order and was dispatched before that was known: both came back.
ROWS = {
    "f:1": "line", "f:2": "line", "f:3": "line", "f:4": "line", "f:5": "line", "f:6": "line",
    "f:7": "cancellation", "f:8": "cancellation", "f:9": "cancellation", "f:10": "refused",
}  # fmt: skip
ORDERS = [
    ("P", "paid", "paid", None),
    ("L", "cancelled", "paid", "done"),
    ("N", "cancelled", "declined", None),
]
LINES = [
    ("f:1", "P", "dispatched", 0),
    ("f:2", "P", "dispatched", 1),
    ("f:3", "P", "recalled", 1),
    ("f:4", "L", "dispatched", 1),
    ("f:5", "L", "recalled", 1),
    ("f:6", "N", "recalled", 1),
]
CANCELLATIONS = [("f:7", "f:2", "TOO_LATE"), ("f:8", "f:3", "RECALLED"), ("f:9", None, None)]
PLANS = [("P", "close"), ("L", "late"), ("N", "never")]


def made(file: Path, *schema: str) -> sqlite3.Connection:
    db = sqlite3.connect(file)
    for statement in schema:
        db.execute(statement)
    return db


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The books of a run in which everything went right."""
    with closing(made(tmp_path / "shop.sqlite", *shop_book.SCHEMA)) as db, db:
        db.execute("INSERT INTO input VALUES (10)")
        db.executemany("INSERT INTO rows VALUES (?, ?)", ROWS.items())
        db.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", ORDERS)
        db.executemany("INSERT INTO lines VALUES (?, ?, 'customer', 'stock', 1, ?, ?)", LINES)
        db.executemany("INSERT INTO cancellations VALUES (?, ?, ?)", CANCELLATIONS)
    with closing(made(tmp_path / "warehouse.sqlite", *warehouse.SCHEMA)) as db, db:
        gone = [(line, order) for line, order, state, _ in LINES if state == "dispatched"]
        db.executemany("INSERT INTO dispatched VALUES (?, ?, 'stock', 1, 1)", gone)
        db.executemany("INSERT INTO cancelled VALUES (?, 1)", [("L",), ("N",)])
    with closing(made(tmp_path / "payments.sqlite", *payments.SCHEMA)) as db, db:
        db.executemany("INSERT INTO plans VALUES (?, ?)", PLANS)
        db.execute("INSERT INTO refunds VALUES ('L', 1)")
    with closing(made(tmp_path / "ledger.sqlite", sink.SCHEMA)) as db, db:
        events = [(f"order {state}", order) for order, state, _, _ in ORDERS] + [("order refunded", "L")]
        events += [(f"line {state}", line) for line, _, state, _ in LINES]
        events += [("line returned", "f:2"), ("line returned", "f:4")]
        for kind, subject in events:
            tell(db, kind, subject)
        db.execute("INSERT INTO messages (sender, id, sent_at, body) VALUES ('shop', 'end', '', 'null')")
    return tmp_path


def tell(db: sqlite3.Connection, kind: str, subject: str) -> None:
    body = json.dumps({"kind": kind, "subject": subject})
    row = (f"{kind}:{subject}", body)
    db.execute("INSERT INTO messages (sender, id, sent_at, body) VALUES ('shop', ?, '', ?)", row)


def test_right_books_have_no_faults(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.JUDGE.found(data)[0] == []
    assert verify.JUDGE.main([str(data)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "every order and every line ended once" in said
    assert "refunded 1 lines dispatched 3 ... too late to recall, returned 2" in said


CANCEL_P = "INSERT INTO cancelled VALUES ('P', 1)"
PLANTED = {
    "order both paid and cancelled": (
        "warehouse", CANCEL_P, "order paid in the shop and cancelled in the warehouse: P"
    ),
    "order neither": ("shop", "UPDATE orders SET state = 'open' WHERE order_no = 'P'", "order neither paid nor"),
    "cancelled for the shop alone": ("warehouse", "DELETE FROM cancelled", "and not in the warehouse: L"),
    "end of the order not told": (
        "ledger", "DELETE FROM messages WHERE id = 'order paid:P'", "order without exactly its one end"
    ),
    "end of the order told twice": (
        "ledger",
        "INSERT INTO messages (sender, id, sent_at, body) "
        """VALUES ('shop', 'x', '', '{"kind": "order cancelled", "subject": "P"}')""",
        "order without exactly its one end in the ledger: P",
    ),
    "row lost": ("shop", "DELETE FROM rows WHERE id = 'f:10'", "rows are missing or too many: 9 rows"),
    "row twice": ("shop", "INSERT INTO rows VALUES ('f:11', 'refused')", "rows are missing or too many: 11 rows"),
    "no end": ("shop", "DELETE FROM input", "the end of the input never came"),
    "line lost": ("shop", "DELETE FROM lines WHERE id = 'f:1'", "row is not exactly one of line, cancel"),
    "line of nothing": ("shop", "UPDATE lines SET order_no = 'X' WHERE id = 'f:1'", "line without a row or"),
    "customer not heard": ("shop", "UPDATE orders SET answer = NULL WHERE order_no = 'N'", "something else than it"),
    "paid by nobody": ("shop", "UPDATE orders SET answer = 'declined' WHERE order_no = 'P'", "customer never paid: P"),
    "refund lost": ("payments", "DELETE FROM refunds", "late payment without a refund: L"),
    "refund for nothing": ("payments", "INSERT INTO refunds VALUES ('P', 1)", "refund without a late payment: P"),
    "refund not told": (
        "ledger", "DELETE FROM messages WHERE id = 'order refunded:L'", "refund that the ledger does not know"
    ),
    "line neither": ("shop", "UPDATE lines SET state = 'open' WHERE id = 'f:1'", "line neither dispatched nor"),
    "line both": (
        "warehouse", "INSERT INTO dispatched VALUES ('f:5', 'L', 'x', 1, 1)", "line recalled and dispatched all"
    ),
    "line not dispatched": ("warehouse", "DELETE FROM dispatched WHERE line = 'f:1'", "and not in the warehouse: f:1"),
    "line from nowhere": (
        "warehouse", "INSERT INTO dispatched VALUES ('f:99', 'L', 'x', 1, 1)", "nobody ordered it: f:99"
    ),
    "end of the line not told": (
        "ledger", "DELETE FROM messages WHERE id = 'line recalled:f:5'", "line without exactly its one end"
    ),
    "recalled for nothing": ("shop", "UPDATE lines SET wanted_back = 0 WHERE id = 'f:3'", "though nobody wanted it"),
    "kept of a cancelled order": (
        "shop", "UPDATE lines SET wanted_back = 0 WHERE id = 'f:4'", "line of a cancelled order not wanted back: f:4"
    ),
    "return lost": ("ledger", "DELETE FROM messages WHERE id = 'line returned:f:2'", "a return that is missing: f:2"),
    "wrong verdict": (
        "shop", "UPDATE cancellations SET verdict = 'RECALLED' WHERE id = 'f:7'", "cancellation whose verdict"
    ),
    "no verdict": ("shop", "UPDATE cancellations SET verdict = NULL", "what became of the line: f:7"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_fault_is_found(case: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book, statement, words = PLANTED[case]
    with closing(sqlite3.connect(data / f"{book}.sqlite")) as db, db:
        assert db.execute(statement).rowcount > 0
    assert verify.JUDGE.main([str(data)]) == 1
    assert words in capsys.readouterr().out


def test_every_kind_of_fault_is_planted_above() -> None:
    assert all(any(words.split(":")[0] in fault for _, _, words in PLANTED.values()) for fault in verify.FAULTS)


@pytest.mark.parametrize("book", verify.JUDGE.books)
def test_a_book_that_is_missing_or_none_is_a_fault(book: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / f"{book}.sqlite"
    file.write_bytes(b"this is not a book, but long enough to be taken for one " * 20)
    assert verify.JUDGE.main([str(data)]) == 1
    assert "WRONG: a book cannot be read" in capsys.readouterr().out
    file.unlink()
    assert verify.JUDGE.main([str(data)]) == 1
    assert f"WRONG: {book}.sqlite is missing" in capsys.readouterr().out
