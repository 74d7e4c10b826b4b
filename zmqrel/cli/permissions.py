"""`zmqrel permissions`: what a file of permissions lets each peer do, or what is wrong in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

import zmqrel
from zmqrel.cli import speech
from zmqrel.permissions import Permission, Permissions
from zmqrel.runtime.permission_file import read_permissions

EPILOG = """\b
Example, a file of the peer billing:
  [peers.shop]
  queues = ["invoices", "refunds.*"]
  recall = true

\b
  zmqrel permissions permissions.toml
  zmqrel listen billing --permissions permissions.toml

\b
A peer that is not named may do what [default] says, and nothing without it.

\b
Exit status: 0 the file is right, 1 something is wrong in it, or it cannot be
read, 2 used wrongly.
"""


@click.command(short_help="Check a file of permissions.", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@speech.as_json
@speech.mistakes_told
def permissions(file: Path, as_json: bool) -> None:
    """Check FILE, and tell what each peer may do: send to which queues, recall or not."""
    try:
        found = read_permissions(file)
    except zmqrel.ConfigError as error:
        raise speech.FoundWrong(str(error)) from error
    if as_json:
        peers = {name: _shape(each) for name, each in found.peers.items()}
        speech.say_json({"file": str(file), "peers": peers, "default": _shape(found.default)})
        return
    for line in speech.columns(("peer", "recall", "queues"), list(_rows(found))):
        speech.say(line)


def _rows(found: Permissions) -> Iterable[tuple[str, bool, str]]:
    for name, each in (*found.peers.items(), ("(others)", found.default)):
        yield name, each.recall, " ".join(each.queues) or "(none)"


def _shape(permission: Permission) -> dict[str, Any]:
    return {"queues": list(permission.queues), "recall": permission.recall}
