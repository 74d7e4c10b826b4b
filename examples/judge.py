"""Whether a run ended right, judged from the SQLite books of its processes alone.

Each fault is a question to the books whose right answer is "none", each figure one whose answer is a number.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def _nothing(_db: sqlite3.Connection, _data: Path) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Judge:
    """What is asked of the books of one example, each attached under the name of its file."""

    example: str
    books: tuple[str, ...]
    faults: Mapping[str, str]
    figures: Mapping[str, str]
    all_is_well: str
    prepare: Callable[[sqlite3.Connection, Path], None] = _nothing
    """Called first; for what a query cannot get at, such as what is in a body."""

    def found(self, data: Path) -> tuple[list[str], dict[str, int]]:
        """Every fault that the books in `data` show, and the figures of the run."""
        missing = [f"{name}.sqlite is missing" for name in self.books if not (data / f"{name}.sqlite").is_file()]
        if missing:
            return missing, {}
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            for name in self.books:
                db.execute(f"ATTACH ? AS {name}", (str(data / f"{name}.sqlite"),))
            self.prepare(db, data)
            found = [f"{fault}: {row[0]}" for fault, query in self.faults.items() for row in db.execute(query)]
            return found, {figure: int(db.execute(query).fetchone()[0]) for figure, query in self.figures.items()}

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Say the figures and every fault; exit status 0 if there is none, 1 if there is."""
        what = "Judge a run by the books of its processes alone. Exit status 0 if all is well, 1 if not."
        parser = argparse.ArgumentParser(prog=f"python -m examples.{self.example}.verify", description=what)
        parser.add_argument("data", type=Path, help="the directory with the books of a run")
        try:
            found, figures = self.found(parser.parse_args(argv).data)
        except sqlite3.Error as error:
            found, figures = [f"a book cannot be read: {error}"], {}
        for figure, value in figures.items():
            print(f"{figure:<36}{value:>6,}")
        for fault in found:
            print(f"WRONG: {fault}")
        print(f"{len(found)} faults" if found else self.all_is_well)
        return 1 if found else 0
