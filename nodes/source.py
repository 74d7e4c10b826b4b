"""Sends each row of a file to a queue of a peer, or each line of a log that grows: once, whatever interrupts it.

A CSV or JSON lines (.jsonl, .ndjson) file gives dicts, any other text (.log, .txt) its lines. The id of a message is
made of the file's name and the row's number: a row that is sent a second time is the same message to zmqrel, and is
not sent again. How many rows are safe in the store is noted after that, in STORE.journal.sqlite.

With --follow a log is read as it grows and is rotated (see nodes/log_file.py). Its lines go into the journal with the
position behind them, in one transaction, and are sent from there, again after a crash; their ids are made of the file
and the place in it. Ids are known for a day (the option outcome_retention_s): a source that was killed between sending
and noting it is to be started again by then.

Last comes a message whose header `end` holds the number of rows before it; the node ends when every message has its
outcome. A log ends with the line that --until says.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmqrel
from nodes.journal import Journal
from nodes.log_file import Line, LogFile
from nodes.program import BAD_ENDS, Parser, Stop, above_zero, peer_of, reported, run, say_bad_end
from nodes.rows import rows_of

BATCH = 500
FULL_WAIT_S = 1.0
LOOK_EVERY_S = 0.1
MOST_LABEL_BYTES = 80

Named = tuple[Any, str, dict[str, int] | None]  # body, id and headers of a message


def send_rows(peer: zmqrel.Peer, args: argparse.Namespace, journal: Journal, stop: Stop) -> None:
    """Send the rows that are not in the store yet, and the end when all are."""
    sent = journal.rows
    size = max(1, int(args.rate / 10)) if args.rate else BATCH
    rows = itertools.islice(rows_of(args.file, args.key), sent, None)
    while not stop.wait():
        batch = list(itertools.islice(rows, size))
        if not batch:
            commit(peer, args, [(None, f"{args.label}:end:{sent}", {"end": sent})], stop)
            return
        named: list[Named] = [(row, f"{args.label}:{n}", None) for n, row in enumerate(batch, sent + 1)]
        if commit(peer, args, named, stop):
            sent += len(batch)
            journal.write(sent)
        stop.wait(len(batch) / args.rate if args.rate else 0)


def send_log(peer: zmqrel.Peer, args: argparse.Namespace, journal: Journal, stop: Stop) -> None:
    """Send the lines of the log as they come: first those that an earlier life has read and may not have sent."""
    with contextlib.closing(LogFile(args.file, journal.position)) as log:
        if journal.is_new and not args.from_oldest:
            log.begin()
            journal.write(0, log.at)
        lines, ended = journal.unsent, journal.ended
        while not stop.wait():
            named: list[Named] = [(line.text, f"{args.label}:{line.id}", None) for line in lines]
            if ended:
                named.append((None, f"{args.label}:end:{journal.rows}", {"end": journal.rows}))
            if not commit(peer, args, named, stop):
                return
            if lines:
                journal.write(journal.rows, log.at, ended=ended)
            if ended:
                return
            lines, ended = upto(log.read(), args.until)
            if lines or ended:
                journal.write(journal.rows + len(lines), log.at, lines, ended)
            else:
                stop.wait(LOOK_EVERY_S)


def upto(lines: list[Line], until: str | None) -> tuple[list[Line], bool]:
    """The lines before the one that is the end, and whether it is among them."""
    before = list(itertools.takewhile(lambda line: line.text != until, lines))
    return before, len(before) < len(lines)


def commit(peer: zmqrel.Peer, args: argparse.Namespace, messages: list[Named], stop: Stop) -> bool:
    """Have messages committed to the store; again, under the same ids, while it is full. False if stopped before."""
    while True:
        for body, name, headers in messages:
            key = str(body.get(args.key) or "") if args.key and isinstance(body, dict) else ""
            try:
                peer.send_nowait(args.to, body, queue=args.queue, id=name, key=key or None, headers=headers)
            except zmqrel.Error as error:
                sys.exit(f"{name}: {type(error).__name__}: {error}")
        try:
            peer.flush()
            return True
        except (zmqrel.OutboxFull, zmqrel.StoreFull):
            if stop.wait(FULL_WAIT_S):
                return False


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = Parser("nodes.source", __doc__ or "", "rows.csv --to shop --peer shop=tcp://127.0.0.1:7001")
    made.add_argument("file", type=Path, help="the file, or the log")
    made.add_argument("--to", required=True, metavar="PEER", help="who gets the rows")
    made.add_argument("--queue", default="rows", help="in which queue [%(default)s]")
    made.add_argument("--key", metavar="COLUMN", help="rows with the same value here are handled in order")
    made.add_argument("--rate", type=above_zero, help="rows per second [as fast as they are taken]")
    made.add_argument("--follow", action="store_true", help="the file is a log: wait for more lines, across rotation")
    made.add_argument("--from-oldest", action="store_true", help="with --follow: begin with what was rotated before")
    made.add_argument("--until", metavar="LINE", help="with --follow: this line is the end [none: go on for ever]")
    made.add_argument("--label", help="what ids begin with [the file's name]")
    args = made.parsed(argv)
    args.label = args.label or args.file.name
    if len(args.label.encode()) > MOST_LABEL_BYTES:
        made.error(f"argument --label: {args.label!r} is longer than {MOST_LABEL_BYTES} bytes")
    if not args.follow and not args.file.is_file():
        made.error(f"argument file: {args.file} is not a file")
    if args.follow and not args.file.parent.is_dir():
        made.error(f"argument file: {args.file.parent} is not a directory")
    if args.follow and (args.key or args.rate):
        made.error("arguments --key and --rate are not for --follow")
    if not args.follow and (args.from_oldest or args.until is not None):
        made.error("arguments --from-oldest and --until are for --follow")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    stop = Stop()
    peer = peer_of(args)
    peer.on_outcome(*BAD_ENDS, to=args.to, queue=args.queue)(say_bad_end)
    journal = Journal(Path(f"{args.store}.journal.sqlite"), args.label)
    with contextlib.closing(journal), reported(peer, lambda: {"rows": journal.rows}), peer:
        (send_log if args.follow else send_rows)(peer, args, journal, stop)
        while peer.stats().get("outbox_messages", 0) and not stop.wait(0.1):
            pass
    return 0


if __name__ == "__main__":
    run(main)
