"""How far a source has read, and what of it may not be sent yet: one SQLite file, each step one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nodes.log_file import Line, Position

SCHEMA = """
CREATE TABLE IF NOT EXISTS inputs (
    label TEXT PRIMARY KEY,
    rows INTEGER NOT NULL,          -- read so far
    position TEXT NOT NULL,         -- in a log: JSON, null for its very beginning
    ended INTEGER NOT NULL          -- the end of a log was read
);
CREATE TABLE IF NOT EXISTS unsent (label TEXT NOT NULL, n INTEGER NOT NULL, id TEXT NOT NULL, line TEXT NOT NULL);
"""


class Journal:
    """The part of the file that is about one input."""

    def __init__(self, file: Path, label: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, timeout=30)
        self._db.executescript(SCHEMA)
        self._label = label
        row = self._db.execute("SELECT rows, position, ended FROM inputs WHERE label = ?", (label,)).fetchone()
        self.is_new = row is None
        self.rows: int = row[0] if row else 0
        self.ended: bool = bool(row and row[2])
        position: str = row[1] if row else "null"
        self.position = _position(json.loads(position))
        found = self._db.execute("SELECT id, line FROM unsent WHERE label = ? ORDER BY n", (label,))
        self.unsent = [Line(*each) for each in found]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def write(
        self, rows: int, position: Position | None = None, unsent: Sequence[Line] = (), ended: bool = False
    ) -> None:
        """So many rows are read, to this position; all are sent but these last ones."""
        with self._db:
            self._db.execute("DELETE FROM unsent WHERE label = ?", (self._label,))
            lines = [(self._label, n, *line) for n, line in enumerate(unsent)]
            self._db.executemany("INSERT INTO unsent VALUES (?, ?, ?, ?)", lines)
            row = (self._label, rows, _text(position), ended)
            self._db.execute("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?)", row)
        self.rows = rows


def _text(position: Position | None) -> str:
    if position is None:
        return "null"
    return json.dumps(asdict(position) | {"head": position.head.hex(), "tail": position.tail.hex()})


def _position(said: dict[str, object] | None) -> Position | None:
    if said is None:
        return None
    marks = {mark: bytes.fromhex(str(said[mark])) for mark in ("head", "tail")}
    return Position(**(said | marks))  # type: ignore[arg-type]
