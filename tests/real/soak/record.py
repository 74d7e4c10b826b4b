"""What one node of a triangle saw and did, in its own SQLite database: all that the judge has of it.

What is about to be done is recorded before (a send, a recall, a handler's return), what was done to it after (an
acceptance, a hand-over, an outcome): so a record never claims more than is true, whenever its process is killed.
Times are microseconds by the boot-time clock, which all processes of one machine share. `serial` is a node's own order.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

SCHEMA = """
CREATE TABLE IF NOT EXISTS sent (
    n INTEGER PRIMARY KEY,      -- the message's id is NODE:n, and so is its body
    serial INTEGER NOT NULL, at_us INTEGER NOT NULL,
    recipient TEXT NOT NULL, queue TEXT NOT NULL, key TEXT,
    deadline_us INTEGER NOT NULL, not_before_us INTEGER NOT NULL, max_attempts INTEGER,
    arguments TEXT NOT NULL     -- of the call, as JSON
);
CREATE TABLE IF NOT EXISTS event (
    serial INTEGER PRIMARY KEY, at_us INTEGER NOT NULL,
    what TEXT NOT NULL, message TEXT,
    more TEXT NOT NULL          -- as JSON
);
"""


class Intent(NamedTuple):
    """A message that is about to be sent."""

    n: int
    at_us: int
    recipient: str
    queue: str
    key: str | None
    deadline_us: int
    not_before_us: int
    max_attempts: int | None
    arguments: dict[str, Any]


class Seen(NamedTuple):
    """A row of the record."""

    serial: int
    at_us: int
    node: str
    what: str
    message: str
    more: dict[str, Any]


class Hold(NamedTuple):
    """A time in which a node was stopped, or the link of two stalled: what they exchanged meanwhile took that long."""

    from_us: int
    to_us: int
    nodes: frozenset[str]


def now_us() -> int:
    """The boot-time clock."""
    return time.clock_gettime_ns(_BOOT_CLOCK) // 1000


def wall_ahead_us() -> int:
    """By how much the wall clock is ahead of it, by the best of some readings: one may be interrupted in the middle."""
    readings = [(now_us(), time.time_ns() // 1000, now_us()) for _ in range(9)]
    before_us, wall_us, after_us = min(readings, key=lambda reading: reading[2] - reading[0])
    return wall_us - (before_us + after_us) // 2


class Record:
    """The writing end, for all threads of a node. What a call wrote has survived the process when it returns."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        # What SIGKILL leaves is what was written; only power loss would need more.
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.executescript(SCHEMA)
        self._guard = threading.Lock()
        self._serial = max(self._one("SELECT max(serial) FROM sent"), self._one("SELECT max(serial) FROM event"))

    def _one(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0] or 0)

    def event(self, what: str, message: str | None = None, **more: Any) -> int:
        """Something happened just now; returns when that was."""
        return self.events([(what, message, more)])

    def events(self, rows: Iterable[tuple[str, str | None, dict[str, Any]]]) -> int:
        """Likewise, several at once."""
        packed = [(what, message, json.dumps(more)) for what, message, more in rows]
        with self._guard:
            at_us = now_us()
            first = self._serial + 1
            self._serial += len(packed)
            numbered = [(serial, at_us, *row) for serial, row in enumerate(packed, first)]
            self._write("INSERT INTO event VALUES (?, ?, ?, ?, ?)", numbered)
        return at_us

    def sending(self, intents: list[Intent]) -> None:
        """These are about to be sent, in this order."""
        with self._guard:
            first = self._serial + 1
            self._serial += len(intents)
            rows = [(i.n, serial, *i[1:-1], json.dumps(i.arguments)) for serial, i in enumerate(intents, first)]
            self._write("INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if len(rows) == 1:
            self._database.execute(statement, rows[0])
            return
        self._database.execute("BEGIN")
        self._database.executemany(statement, rows)
        self._database.execute("COMMIT")

    # ------------------------------------------------------------------------------ what a new life has to know

    def last_sent(self) -> int:
        """The number of the last message that was about to be sent."""
        with self._guard:
            return self._one("SELECT max(n) FROM sent")

    def unanswered(self) -> list[Intent]:
        """What an earlier life was about to send, and did not live to see accepted."""
        with self._guard:
            last = self._database.execute(
                "SELECT json_extract(more, '$.last') FROM event WHERE what = 'accepted' ORDER BY serial DESC LIMIT 1"
            ).fetchone()
            rows = self._database.execute("SELECT * FROM sent WHERE n > ? ORDER BY n", (last[0] if last else 0,))
            return [Intent(row[0], *row[2:-1], json.loads(row[-1])) for row in rows]

    def untold(self) -> int:
        """How many messages were sent, and no callback was told what became of them."""
        with self._guard:
            told = self._one("SELECT count(DISTINCT message) FROM event WHERE what = 'outcome'")
            refused = self._one("SELECT count(*) FROM event WHERE what = 'not accepted'")
            return self._one("SELECT count(*) FROM sent") - refused - told

    def recalled(self) -> list[str]:
        """What was to be recalled by its id."""
        with self._guard:
            rows = self._database.execute("SELECT DISTINCT message FROM event WHERE what = 'recalling'").fetchall()
        return [row[0] for row in rows]

    def accepted(self, node: str) -> list[str]:
        """The ids of all that was accepted."""
        with self._guard:
            refused = {row[0] for row in self._database.execute("SELECT message FROM event WHERE what='not accepted'")}
            numbers = self._database.execute("SELECT n FROM sent ORDER BY n").fetchall()
        return [name for (n,) in numbers if (name := f"{node}:{n}") not in refused]

    def close(self) -> None:
        """Nothing more is written."""
        with self._guard:
            self._database.close()


def read(path: Path, node: str) -> Iterator[Seen]:
    """The whole record of a node, in its own order."""
    database = sqlite3.connect(path)
    try:
        rows = database.execute(
            "SELECT serial, at_us, 'sending', n, json_object('to', recipient, 'queue', queue, 'key', key,"
            " 'deadline_us', deadline_us, 'not_before_us', not_before_us, 'max_attempts', max_attempts) FROM sent"
            " UNION ALL SELECT serial, at_us, what, message, more FROM event ORDER BY 1"
        )
        for serial, at_us, what, message, more in rows:
            name = f"{node}:{message}" if what == "sending" else message or ""
            yield Seen(serial, at_us, node, what, name, json.loads(more))
    finally:
        database.close()
