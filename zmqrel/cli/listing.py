"""`zmqrel ls`: what lies in a store."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

from zmqrel.checks import check_queue
from zmqrel.cli import speech
from zmqrel.control.asking import connected

EPILOG = """\b
Examples:
  zmqrel ls data/shop outbox
  zmqrel ls data/billing inbox --queue invoices --json
  zmqrel ls data/billing dead --limit 10

\b
outbox  messages sent from here that have no outcome
inbox   messages received here and not settled
dead    messages that ended badly and were kept

\b
Exit status: 0 listed, 1 the store cannot be read or its peer does not
answer, 2 used wrongly.
"""
_KEYS = {
    "outbox": ("id", "to", "queue", "key", "state", "sent_at", "deadline", "bytes"),
    "inbox": ("id", "sender", "queue", "key", "attempts", "in_hand", "due_at", "deadline", "bytes"),
    "dead": ("number", "id", "sender", "to", "queue", "cause", "reason", "died_at", "bytes"),
}
_TIMES = ("sent_at", "due_at", "died_at", "deadline")
_AT_ONCE = 200
"""Lines that are lined up with each other."""


@click.command(short_help="List what lies in a store.", epilog=EPILOG)
@speech.directory
@click.argument("table", type=click.Choice(list(_KEYS)))
@click.option("--queue", help="Only what is in this queue.")
@click.option("--limit", type=speech.Whole(1), help="At most so many, the oldest.")
@speech.as_json
@speech.mistakes_told
def ls(directory: Path, table: str, queue: str | None, limit: int | None, as_json: bool) -> None:
    """List what lies in the store DIR, oldest first; with --json one object a line."""
    if queue is not None:
        check_queue(queue)
    with connected(directory) as ask:
        found = speech.listed_dead(ask) if table == "dead" else speech.listed(ask, table, **_only(table, queue))
        wanted = islice((item for item in found if queue in (None, item["queue"])), limit)
        if as_json:
            for item in wanted:
                speech.say_json(item)
            return
        _say_tables(table, wanted)


def _only(table: str, queue: str | None) -> dict[str, Any]:
    return {"queue": queue} if table == "inbox" else {}


def _say_tables(table: str, items: Any) -> None:
    keys = _KEYS[table]
    count = 0
    while part := list(islice(items, _AT_ONCE)):
        rows = [[speech.moment(item[key]) if key in _TIMES else item[key] for key in keys] for item in part]
        for line in speech.columns([key.replace("_", " ") for key in keys], rows)[1 if count else 0 :]:
            speech.say(line)
        count += len(part)
    if not count:
        speech.say(f"nothing in the {table}" if table != "dead" else "no dead letters")
