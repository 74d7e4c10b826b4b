"""Writes each message of a queue into a SQLite table, once.

The id of a message goes into the table in the same transaction as the message, and is unique there. A
message that is handed over again, because this process died between that commit and the note that it is
handled, only raises the `times` of its row. That is how a database of one's own and a queue agree without a
transaction across both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmqrel
from nodes.program import Parser, peer_of, reported, run

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    n INTEGER PRIMARY KEY,          -- the order in which they were written
    sender TEXT NOT NULL,
    id TEXT NOT NULL,
    key TEXT,
    sent_at TEXT NOT NULL,
    body TEXT NOT NULL,             -- JSON; bytes are written as hexadecimal text
    expected INTEGER,               -- the header `end`: how many messages come before this one
    times INTEGER NOT NULL DEFAULT 1,
    UNIQUE (sender, id)             -- ids are the senders' own
)
"""
WRITE = """
INSERT INTO messages (sender, id, key, sent_at, body, expected) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (sender, id) DO UPDATE SET times = times + 1
"""


class Table:
    """The database of one sink, for the thread that writes and the one that counts."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, timeout=30, check_same_thread=False)
        self._lock = threading.Lock()
        try:
            with self._db:
                self._db.execute(SCHEMA)
        except sqlite3.Error:
            self._db.close()
            raise
        self._end_is_here = self.count("count(expected)") > 0

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def write(self, message: zmqrel.Message) -> None:
        """One message in one transaction."""
        body = json.dumps(plain(message.body))
        end = message.headers.get("end")
        row = (message.sender, message.id, message.key, message.sent_at.isoformat(), body, end)
        with self._lock, self._db:
            self._db.execute(WRITE, row)
        self._end_is_here |= end is not None

    def count(self, what: str) -> int:
        with self._lock:
            return int(self._db.execute(f"SELECT coalesce({what}, 0) FROM messages").fetchone()[0])

    def complete(self) -> bool:
        """Whether an end has come, and everything that it counts."""
        return self._end_is_here and self.count("count(*) - count(expected) >= sum(expected)") == 1

    def counts(self) -> dict[str, int]:
        return {"rows": self.count("count(*)"), "duplicates": self.count("sum(times - 1)")}


def plain(body: Any) -> Any:
    """A body as JSON can say it."""
    if isinstance(body, bytes):
        return body.hex()
    if isinstance(body, list):
        return [plain(each) for each in body]
    if isinstance(body, dict):
        return {plain(key): plain(value) for key, value in body.items()}
    return body


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Table]:
    made = Parser("nodes.sink", __doc__ or "", "--bind tcp://127.0.0.1:7001 --peer source --db rows.sqlite")
    made.add_argument("--queue", default="rows", help="the queue to write [%(default)s]")
    made.add_argument("--db", type=Path, required=True, metavar="FILE", help="the SQLite file")
    made.add_argument("--until-end", action="store_true", help="end when all that the header `end` counts is here")
    args = made.parsed(argv)
    try:
        return args, Table(args.db)
    except sqlite3.Error as error:
        made.error(f"argument --db: {args.db}: {error}")


def main(argv: Sequence[str] | None = None) -> int:
    args, table = arguments(argv)
    with contextlib.closing(table):
        if not (args.until_end and table.complete()):  # else an earlier life died between its last message and its end
            serve(args, table)
    return 0


def serve(args: argparse.Namespace, table: Table) -> None:
    peer = peer_of(args)

    def write(message: zmqrel.Message) -> None:
        table.write(message)
        if args.until_end and table.complete():
            # As Ctrl-C would: this handler returns, what it did is committed, and the peer is closed.
            os.kill(os.getpid(), signal.SIGTERM)

    # Without a limit of attempts: a full disk is mended, and then the message is wanted.
    peer.handler(args.queue, retry=zmqrel.Retry.exponential(0.2, max_interval=10, jitter="full"))(write)
    with reported(peer, table.counts):
        peer.run()


if __name__ == "__main__":
    run(main)
