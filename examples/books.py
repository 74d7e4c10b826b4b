"""The book that each process of an example keeps: a SQLite file of its own, which nobody else writes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import zmqrel

# No limit of attempts: what a handler waits for, a verdict or a lock, comes when the other side is back.
PATIENT = zmqrel.Retry.exponential(0.1, max_interval=2, jitter="full")


@contextlib.contextmanager
def book(name: str, schema: Sequence[str] = ()) -> Iterator[sqlite3.Connection]:
    """One transaction in the book `name`: committed when left, undone by an exception.

    Every handler writes what it does under the id of what it was told: being told twice changes nothing.
    """
    file = Path(os.environ.get("EXAMPLE_DATA", ".")) / f"{name}.sqlite"
    with contextlib.closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        for statement in schema:
            db.execute(statement)
        yield db
        db.execute("COMMIT")


def seconds(variable: str, default: float) -> float:
    """A time from the environment, where the topology puts it."""
    return float(os.environ.get(variable, default))
