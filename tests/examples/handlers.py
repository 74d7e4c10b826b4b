"""Functions that nodes under test are told to call."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Any

import zmqrel


def note(message: zmqrel.Message) -> None:
    """Write a row down under the message's id, in the SQLite file that NOTES names."""
    with closing(sqlite3.connect(os.environ["NOTES"], timeout=30)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS notes (id TEXT PRIMARY KEY, times INTEGER NOT NULL DEFAULT 1)")
        db.execute("INSERT INTO notes (id) VALUES (?) ON CONFLICT (id) DO UPDATE SET times = times + 1", (message.id,))


def doubled(message: zmqrel.Message) -> dict[str, Any]:
    """A row with its number doubled."""
    return {"n": 2 * int(message.body["n"])}
