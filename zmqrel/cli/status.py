"""`zmqrel status`: how a peer stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zmqrel.cli import speech
from zmqrel.control.asking import connected

EPILOG = """\b
Example:
  zmqrel status data/shop

\b
Exit status: 0 told, 1 the store cannot be read or its peer does not answer,
2 DIR is no store of yours.
"""
_LEVELS = ("outbox_messages", "outbox_unsent", "inbox_messages", "in_hand", "dead_messages", "commits")
_COUNTERS = (
    "sent",
    "received",
    "handled",
    "retried",
    "recalled",
    "expired",
    "settled",
    "resent",
    "damaged",
    "malformed",
)


@click.command(short_help="Tell how a peer stands.", epilog=EPILOG)
@speech.directory
@speech.as_json
@speech.mistakes_told
def status(directory: Path, as_json: bool) -> None:
    """Tell how the peer whose store is DIR stands, whether it runs or not."""
    with connected(directory) as ask:
        found = ask("status")
    if as_json:
        speech.say_json(found)
        return
    for line in _lines(found):
        speech.say(line)


def _lines(found: dict[str, Any]) -> list[str]:
    stats = found["stats"]
    how = f"running, process {found['pid']}" if found["running"] else f"not running, {_last(found['last_life'])}"
    lines = [f"{speech.escaped(found['peer']) or '(without a name)'}: {how}; store {speech.escaped(found['store'])}"]
    levels = [*((name, stats[name]) for name in _LEVELS), ("bytes on the disk", found["disk_bytes"])]
    lines += ["", *speech.columns(("in the store", ""), levels)]
    if found["running"]:
        counted = [(name, stats[name]) for name in _COUNTERS if stats[name]]
        lines += ["", *speech.columns(("since it started", ""), counted or [("nothing", None)])]
    if found["peers"]:
        head = ("peer", "endpoint", "connected", "unsent", "unacknowledged", "in the inbox")
        keys = ("name", "endpoint", "connected", "unsent", "unacknowledged", "inbox_messages")
        lines += ["", *speech.columns(head, [[each[key] for key in keys] for each in found["peers"]])]
    if found["queues"]:
        words = {"push": "a handler", "pull": "receive", None: "nobody" if found["running"] else None}
        rows = [(each["name"], each["messages"], each["bytes"], words[each["served"]]) for each in found["queues"]]
        lines += ["", *speech.columns(("queue", "messages", "bytes", "served by"), rows)]
    return lines


def _last(previous: str | None) -> str:
    words = {"clean": "closed cleanly", "crashed": "its process died", "rebooted": "its machine stopped"}
    return words.get(previous or "", "never opened")
