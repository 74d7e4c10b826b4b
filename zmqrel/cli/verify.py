"""`zmqrel verify`: whether a store is whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import click

import zmqrel
from zmqrel.cli import speech
from zmqrel.control.asking import Ask, connected
from zmqrel.control.questions import compared

EPILOG = """\b
Example:
  zmqrel verify data/shop

Checks the checksum of every record, and that the tables of the store agree
with each other; of a stopped peer's store also every page of the file.
Beside a running peer the totals are compared if nothing was committed
meanwhile.

\b
Exit status: 0 the store is whole, 1 it is damaged, 2 used wrongly.
"""
_EVERY_S = 0.1
Progress = Callable[[int, int], None]


@click.command(short_help="Check that a store is whole.", epilog=EPILOG)
@speech.directory
@speech.as_json
@click.pass_context
@speech.mistakes_told
def verify(context: click.Context, directory: Path, as_json: bool) -> None:
    """Check that the store DIR is whole; tell what is damaged and where."""
    try:
        found = _checked(directory, _progress() if not as_json and sys.stderr.isatty() else lambda _rows, _of: None)
    except zmqrel.StoreDamaged as error:
        found = _report(directory, 0, 0, [{"table": "file", "where": str(directory), "what": str(error)}], False)
    if as_json:
        speech.say_json(found)
    else:
        for fault in found["faults"]:
            speech.say(speech.escaped(f"{fault['table']}: {fault['where']}: {fault['what']}"))
        speech.say(_summary(found))
    context.exit(1 if found["faults"] else 0)


def _checked(directory: Path, progress: Progress) -> dict[str, Any]:
    progress(0, 0)
    with connected(directory, verify=True) as ask:
        return _examined(directory, ask, progress)


def _examined(directory: Path, ask: Ask, progress: Progress) -> dict[str, Any]:
    rows = quarantined = 0
    faults: list[dict[str, Any]] = []
    counted = [0] * 6
    last: bytes | None = b"\x01"
    commits = None
    steady = True
    while last is not None:
        page = ask("examine", behind=last)
        last = page["last"]
        steady = steady and commits in (None, page["commits"])
        commits = page["commits"]
        rows += page["rows"]
        quarantined += page["quarantined"]
        faults += page["faults"]
        counted = [one + more for one, more in zip(counted, page["totals"], strict=True)]
        progress(sum(counted[::2]), sum(page["ledger"][::2]))
    readable = not any(fault["table"] == "META" for fault in faults)
    if steady and readable:
        faults += compared(counted, page["ledger"])
    return _report(directory, rows, quarantined, faults, steady, sum(counted[::2]))


def _report(
    directory: Path,
    rows: int,
    quarantined: int,
    faults: list[dict[str, Any]],
    totals_compared: bool,
    messages: int = 0,
) -> dict[str, Any]:
    return {
        "store": str(directory),
        "whole": not faults,
        "rows": rows,
        "messages": messages,
        "quarantined": quarantined,
        "totals_compared": totals_compared,
        "faults": faults,
    }


def _summary(found: dict[str, Any]) -> str:
    count = len(found["faults"])
    words = "whole" if found["whole"] else f"damaged: {count} fault{'s' if count > 1 else ''}"
    extra = f", {found['quarantined']} set aside before" if found["quarantined"] else ""
    totals = "" if found["totals_compared"] or not found["whole"] else "; totals not compared, for the peer is at work"
    return speech.escaped(
        f"{found['store']}: {words}; {found['rows']:,} rows with {found['messages']:,} messages checked{extra}{totals}"
    )


def _progress() -> Progress:
    """A line on stderr that is written over."""

    said_at = 0.0

    def tell(messages: int, of: int) -> None:
        nonlocal said_at
        if of and messages < of and monotonic() < said_at + _EVERY_S:
            return
        said_at = monotonic()
        told = (
            f"{messages:,} of {of:,} messages checked, {min(100, 100 * messages // of)} %"
            if of
            else "checking the file"
        )
        click.echo(f"\r{told}\x1b[K", err=True, nl=messages >= of > 0)

    return tell
