"""Sends each row of a CSV or JSON lines file to a queue of a peer: every row once, whatever interrupts it.

Two things together see to that. The id of a message is made of the file's name and the row's number, so
that a row that is sent a second time is the same message to zmqrel, and is not sent again. And the number
of rows that are safe in the store is kept beside it, so that a restart need not go through the whole file.
Last comes a message whose header `end` holds the number of rows before it; the node ends when every message
has its outcome.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import zmqrel
from nodes.common import parser, peer_of, replace, reported, run, stop_event

BATCH = 500
FULL_WAIT_S = 1.0

# Body, id and headers of a message.
Named = tuple[Any, str, dict[str, int] | None]


class Progress:
    """How many rows of each file are committed to the store."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._rows: dict[str, int] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Never there, or lost: the ids keep what is sent again from being sent twice.
            self._rows = {}

    def rows(self, label: str) -> int:
        return self._rows.get(label, 0)

    def advance(self, label: str, rows: int) -> None:
        self._rows[label] = rows
        replace(self._file, self._rows)


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, each a dict; JSON lines by the ending of its name, else CSV with a header line."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        if file.suffix in (".jsonl", ".ndjson"):
            yield from (json_row(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip())
            return
        reader = csv.DictReader(lines, restkey="rest", restval="")
        try:
            yield from reader
        except csv.Error as error:
            sys.exit(f"{file}:{reader.line_num}: {error}")


def json_row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        sys.exit(f"{place}: not JSON: {error}")
    if not isinstance(row, dict):
        sys.exit(f"{place}: not a JSON object")
    return row


def feed(peer: zmqrel.Peer, args: argparse.Namespace, progress: Progress, stop: threading.Event) -> None:
    """Send the rows that are not in the store yet, and the end when all are."""
    sent = progress.rows(args.label)
    size = max(1, int(args.rate / 10)) if args.rate else BATCH
    rows = itertools.islice(rows_of(args.file), sent, None)
    while not stop.is_set():
        batch = list(itertools.islice(rows, size))
        if not batch:
            end = (None, f"{args.label}:end:{sent}", {"end": sent})
            commit(peer, args, [end], stop)
            return
        commit(peer, args, [(row, f"{args.label}:{number}", None) for number, row in enumerate(batch, sent + 1)], stop)
        sent += len(batch)
        progress.advance(args.label, sent)
        stop.wait(len(batch) / args.rate if args.rate else 0)


def commit(peer: zmqrel.Peer, args: argparse.Namespace, messages: list[Named], stop: threading.Event) -> None:
    """Have messages committed to the store, together; again, under the same ids, while the store is full."""
    while True:
        for body, name, headers in messages:
            key = str(body.get(args.key) or "") if body else ""
            peer.send_nowait(args.to, body, queue=args.queue, id=name, key=key or None, headers=headers)
        try:
            peer.flush()
            return
        except zmqrel.OutboxFull:
            if stop.wait(FULL_WAIT_S):
                raise


def not_handled(receipt: zmqrel.Receipt) -> None:
    """Say which row the other side did not take; the log is the place where it is looked for."""
    print(f"{receipt.id}: {receipt.outcome}: {receipt.reason}", file=sys.stderr)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser("source", __doc__ or "", "rows.csv --to shop --peer shop=tcp://127.0.0.1:7001")
    made.add_argument("file", type=Path, help="the CSV or JSON lines (.jsonl, .ndjson) file")
    made.add_argument("--to", required=True, metavar="PEER", help="who gets the rows")
    made.add_argument("--queue", default="rows", help="in which queue [%(default)s]")
    made.add_argument("--key", metavar="COLUMN", help="rows with the same value here are handled in order")
    made.add_argument("--rate", type=float, default=0.0, help="rows per second [as fast as they are taken]")
    made.add_argument("--label", help="what ids begin with [the file's name]")
    args = made.parse_args(argv)
    args.label = args.label or args.file.name
    if not args.file.is_file():
        made.error(f"{args.file} is not a file")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    stop = stop_event()
    progress = Progress(Path(f"{args.store}.progress.json"))
    peer = peer_of(args)
    peer.on_outcome(zmqrel.Outcome.REJECTED, zmqrel.Outcome.EXHAUSTED, zmqrel.Outcome.UNCERTAIN)(not_handled)
    with reported(peer, lambda: {"rows": progress.rows(args.label)}), peer:
        feed(peer, args, progress, stop)
        while peer.stats().get("outbox_messages", 0) and not stop.wait(0.1):
            pass
    return 0


if __name__ == "__main__":
    run(main)
