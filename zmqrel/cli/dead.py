"""`zmqrel dead`: retry or purge dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

import zmqrel
from zmqrel.checks import check_queue
from zmqrel.cli import speech
from zmqrel.control.asking import Ask, connected

EPILOG = """\b
Examples:
  zmqrel ls data/billing dead
  zmqrel dead data/billing retry order-42
  zmqrel dead data/billing retry --all --queue mended
  zmqrel dead data/billing purge --before 2026-01-31

retry makes a new message of this peer's own out of each dead letter, with a
new id, in the queue in which it died or in --queue; the old outcome stands.
purge deletes them.

\b
Exit status: 0 done, 1 one of the IDs is no dead letter here, or the store
cannot be read, 2 used wrongly.
"""
_DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]


@click.command(short_help="Retry or purge dead letters.", epilog=EPILOG)
@speech.directory
@click.argument("action", type=click.Choice(["retry", "purge"]))
@click.argument("message_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--queue", help="With retry: the queue for the new messages.")
@click.option("--before", type=click.DateTime(_DAYS), help="With purge: those that died before, local time.")
@speech.as_json
@speech.mistakes_told
def dead(
    directory: Path,
    action: str,
    message_ids: tuple[str, ...],
    every: bool,
    queue: str | None,
    before: datetime | None,
    as_json: bool,
) -> None:
    """Retry or purge the dead letters of the store DIR: those with an ID, or --all."""
    if (len(message_ids) > 0) + every + (before is not None) != 1:
        raise click.UsageError("give IDs of dead letters, or --all, or with purge --before")
    if (action == "purge" and queue is not None) or (action == "retry" and before is not None):
        raise click.UsageError("--queue goes with retry, --before with purge")
    if queue is not None:
        check_queue(queue)
    with connected(directory, change=True) as ask:
        if action == "purge" and not message_ids:
            count = _purge_all(ask, None if before is None else before.timestamp())
            _say({"purged": count}, f"{count} purged", as_json)
            return
        done = _retried(ask, message_ids, queue) if action == "retry" else _purged(ask, message_ids)
        found = set()
        for letter in done:
            found.add(letter["id"])
            text = f"{letter['id']} -> {letter['new_id']} in {letter['queue']}" if action == "retry" else letter["id"]
            _say(letter, speech.escaped(f"{'retried' if action == 'retry' else 'purged'} {text}"), as_json)
    if every and not found and not as_json:
        speech.say("0 retried")
    missing = [each for each in message_ids if each not in found]
    if missing:
        raise zmqrel.UnknownMessage(f"no dead letter of {', '.join(map(repr, missing))} lies in {directory}")


def _say(shape: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        speech.say_json(shape)
    else:
        speech.say(text)


def _letters(ask: Ask, message_ids: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    return (item for item in speech.listed_dead(ask) if not message_ids or item["id"] in message_ids)


def _retried(ask: Ask, message_ids: tuple[str, ...], queue: str | None) -> Iterator[dict[str, Any]]:
    for letter in _letters(ask, message_ids):
        new_id = ask("retry_dead", number=letter["number"], queue=queue)["new_id"]
        if new_id is not None:
            yield {"id": letter["id"], "new_id": new_id, "queue": queue or letter["queue"]}


def _purged(ask: Ask, message_ids: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for letter in _letters(ask, message_ids):
        if ask("purge_dead", first=letter["number"], last=letter["number"])["purged"]:
            yield {"id": letter["id"]}


def _purge_all(ask: Ask, before: float | None) -> int:
    last = ask("dead")["upto"]
    count, more = 0, True
    while more:
        page = ask("purge_dead", first=1, last=last, before=before)
        count, more = count + page["purged"], page["more"]
    return count
