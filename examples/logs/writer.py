"""Writes a log as a service would, line by line, and rotates it: renamed and created, or copied and truncated.

What it writes it also notes in a book of its own, for the judge. It is no peer, and knows nothing of who reads.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from pathlib import Path

from examples.books import book
from nodes.program import Stop, above_zero, whole

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS written (n INTEGER PRIMARY KEY, line TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ended (n INTEGER PRIMARY KEY)",
)
END = "-- end of log --"


def rotate(log: Path, copied: bool) -> None:
    """Move what the log holds to log.1, what was there to log.2, and so on."""
    for number in itertools.count(1):
        if not log.with_name(f"{log.name}.{number}").exists():
            break
    for older in range(number, 1, -1):
        log.with_name(f"{log.name}.{older - 1}").rename(log.with_name(f"{log.name}.{older}"))
    first = log.with_name(f"{log.name}.1")
    if copied:
        shutil.copyfile(log, first)
        with log.open("r+b") as file:
            file.truncate()
    else:
        log.rename(first)
        log.touch()


def append(log: Path, n: int, line: str) -> None:
    """Note a line, and write it, in two pieces as a busy service may."""
    with book("writer") as db:
        db.execute("INSERT INTO written VALUES (?, ?)", (n, line))
    for piece in (line[:20], line[20:] + "\n"):
        with log.open("a", encoding="utf-8") as file:
            file.write(piece)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.logs.writer", description=__doc__)
    parser.add_argument("input", type=Path, help="the lines to write")
    parser.add_argument("log", type=Path, help="the log")
    parser.add_argument("--rate", type=above_zero, default=60.0, help="lines per second [%(default)s]")
    parser.add_argument("--each", type=whole, default=50, help="lines after which it is rotated [%(default)s]")
    args = parser.parse_args()
    if not args.input.is_file():
        parser.error(f"argument input: {args.input} is not a file")
    stop = Stop()
    with book("writer", SCHEMA) as db:
        done: int = db.execute("SELECT count(*) FROM written").fetchone()[0]
    with args.input.open(encoding="utf-8", errors="backslashreplace") as lines:
        for n, line in enumerate(itertools.islice(lines, done, None), done + 1):
            if stop.wait(1 / args.rate):
                return 0
            append(args.log, n, line.removesuffix("\n"))
            if n % args.each == 0:
                rotate(args.log, copied=n // args.each % 2 == 0)
    with book("writer") as db:
        if db.execute("INSERT OR IGNORE INTO ended VALUES (1)").rowcount:
            with args.log.open("a", encoding="utf-8") as file:
                file.write(f"{END}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
