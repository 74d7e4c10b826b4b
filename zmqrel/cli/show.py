"""`zmqrel show`: the life of one message, at this peer and, where it can be asked, at the other end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import zmqrel
from zmqrel.cli import speech
from zmqrel.cli.life import life
from zmqrel.control.asking import connected, peer_of

EPILOG = """\b
Example:
  zmqrel show data/shop 6f1c2b9f00d1e2a3-17
  zmqrel show data/shop order-42 --other /srv/billing/data

The other end is asked if its store is on this machine: in a directory beside
DIR (the one that has its peer's name, else each is asked whose it is), or
where --other says.

What must have happened, though nobody kept when, is shown without a time.
A dead letter that was retried is found by its old id: "made anew" says as
what.

\b
Exit status: 0 shown, 1 no such message is known here, or the store cannot be
read, 2 used wrongly.
"""
Shape = dict[str, Any]


@click.command(short_help="Show the life of one message.", epilog=EPILOG)
@speech.directory
@click.argument("message_id", metavar="ID")
@click.option(
    "--other",
    "others",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The store of the peer at the other end; may be repeated.",
)
@speech.as_json
@speech.mistakes_told
def show(directory: Path, message_id: str, others: tuple[Path, ...], as_json: bool) -> None:
    """Show the message ID of the store DIR: what happened to it, and where it is now."""
    own = known_of(directory, message_id)
    if not (own["sent"] or own["received"] or own["dead"] or own["passed"] or own["successors"]):
        raise zmqrel.UnknownMessage(f"no message {message_id!r} is known in {directory}, or its outcome is forgotten")
    ends = [own, *_other_ends(directory, others, own, message_id)]
    found = {"id": message_id, "ends": ends, "where": _where(ends), "history": life(ends)}
    if as_json:
        speech.say_json(found)
        return
    for line in _lines(found):
        speech.say(line)


def known_of(directory: Path, message_id: str) -> Shape:
    """Everything that one store knows of an id."""
    with connected(directory) as ask:
        status = ask("status")
        found = ask("find", id=message_id)
        # Ids that were given to `send` are not indexed where they are received, nor what was made of a message.
        lying = list(speech.listed(ask, "inbox", id=message_id, or_origin=True, full=True))
        died = list(speech.listed_dead(ask, id=message_id, or_origin=True, full=True))
    received = found["received"] or [item for item in lying if item["id"] == message_id]
    dead = [item for item in died if item["id"] == message_id]
    return {
        "peer": status["peer"],
        "store": status["store"],
        "running": status["running"],
        "sent": found["sent"],
        "received": received,
        "dead": dead,
        "passed": None if dead else found["passed"],
        "successors": [_successor(item) for item in (*lying, *died) if item["id"] != message_id],
    }


def _successor(item: Shape) -> Shape:
    """A message that was made of the one that is looked for."""
    return {
        "id": item["id"],
        "cause": item["origin_cause"],
        "made_at": item["sent_at"],
        "queue": item["queue"],
        "attempts": item["attempts"],
        "place": "dead letters" if "died_at" in item else _place(item),
    }


def _place(item: Shape) -> str:
    return "worker" if item["in_hand"] else "inbox"


def _other_ends(directory: Path, others: tuple[Path, ...], own: Shape, message_id: str) -> Iterator[Shape]:
    """The stores at the other end, with what concerns this peer only: ids are each sender's own."""
    names = {own["sent"]["to"]} if own["sent"] else set()
    names |= {item["sender"] for item in (*own["received"], *own["dead"])}
    names |= {item["to"] for item in own["dead"]}
    names |= {own["passed"]}
    names -= {own["peer"], None}
    for path in others or _beside(directory.resolve(), names):
        try:
            end = known_of(path, message_id)
        except zmqrel.Error as error:
            if isinstance(error, zmqrel.ConfigError) and others:
                raise zmqrel.ConfigError(f"--other {path}: {error}") from error
            if others:
                raise
            yield {"peer": path.name, "store": str(path), "error": str(error)}
            continue
        if end["peer"] not in names:
            if others:
                raise zmqrel.ConfigError(f"--other {path}: it is the store of {end['peer']!r}, not of {_list(names)}")
            continue
        end["received"] = [item for item in end["received"] if item["sender"] == own["peer"]]
        end["dead"] = [item for item in end["dead"] if own["peer"] in (item["sender"], item["to"])]
        if end["passed"] != own["peer"]:
            end["passed"] = None
        if end["sent"] and end["sent"]["to"] != own["peer"]:
            end["sent"] = None
        yield end


def _beside(directory: Path, names: set[str]) -> list[Path]:
    """The stores of these peers in the directories beside this one: by the directory's name, else by asking each."""
    found: dict[str, Path] = {}
    for name in sorted(names):
        path = directory.parent / name
        # One that cannot say whose it is may be damaged, which is said.
        if path != directory and (path / "data.mdb").exists() and peer_of(path) in (name, None):
            found[name] = path
    missing = names - found.keys()
    if not missing:
        return list(found.values())
    try:
        beside = sorted(path for path in directory.parent.iterdir() if path not in (directory, *found.values()))
    except OSError:  # not ours to list
        beside = []
    return [*found.values(), *(path for path in beside if peer_of(path) in missing)]


def _list(names: set[str]) -> str:
    return " or ".join(map(repr, sorted(names))) or "a peer of this message"


def _where(ends: list[Shape]) -> list[Shape]:
    """Where the message lies now."""
    places: list[Shape] = []
    for end in ends:
        if "error" in end:
            places.append({"peer": end["peer"], "place": "not known", "detail": end["error"]})
            continue
        sent = end["sent"]
        if sent is not None:
            place = "outbox" if sent["outcome"] is None else "outcomes"
            reason = f": {sent['reason']}" if sent["reason"] else ""
            detail = f"{sent['outcome'] or sent['state']}{reason}"
            places.append({"peer": end["peer"], "place": place, "detail": detail})
        for item in end["received"]:
            place = _place(item)
            due = f", due {speech.moment(item['due_at'])}" if place == "inbox" and item["attempts"] else ""
            detail = f"queue {item['queue']}, attempts {item['attempts']}{due}"
            places.append({"peer": end["peer"], "place": place, "detail": detail})
        for item in end["dead"]:
            detail = f"{item['cause']}: {item['reason']}"
            places.append({"peer": end["peer"], "place": "dead letters", "detail": detail})
        if end["passed"] is not None:
            places.append({"peer": end["peer"], "place": "settled", "detail": f"{end['passed']} knows the outcome"})
        for item in end["successors"]:
            detail = f"made anew as {item['id']}, queue {item['queue']}, attempts {item['attempts']}"
            places.append({"peer": end["peer"], "place": item["place"], "detail": detail})
    return places


def _lines(found: Shape) -> list[str]:
    lines = [f"message {speech.escaped(found['id'])}"]
    for end in found["ends"]:
        if "error" not in end:
            lines += _end_lines(end)
    lines += ["", "where it is now:"]
    lines += [f"  {line}" for line in speech.columns(*_table(found["where"], ("peer", "place", "detail")))]
    lines += ["", "what happened:"]
    rows = [_row(event) for event in found["history"]]
    lines += [f"  {line}" for line in speech.columns(*_table(rows, ("at", "peer", "what", "detail")))]
    return lines


def _row(event: Shape) -> Shape:
    """An event as a person reads it: which attempt failed, then why."""
    row = {**event, "at": speech.moment(event["at"])}
    attempt, _, reason = (event["detail"] or "").partition(": ")
    return row | {"what": f"{attempt} failed", "detail": reason} if event["what"] == "attempt failed" else row


def _end_lines(end: Shape) -> list[str]:
    lines = []
    for way, item in [("sent", end["sent"]), *(("received", item) for item in (*end["received"], *end["dead"]))]:
        if item is None:
            continue
        other = f"to {item['to']}" if way == "sent" else f"from {item['sender']}"
        lines.append(speech.escaped(f"{way} at {end['peer']} {other}, queue {item['queue']}, key {item['key'] or '-'}"))
        if item["headers"]:
            lines.append(f"  headers {speech.body_text({'value': item['headers']})}")
        if item.get("deadline"):
            lines.append(f"  deadline {speech.moment(item['deadline'])}")
        if item["body"] is not None:
            lines.append(f"  body {speech.body_text(item['body'])}")
    return lines


def _table(rows: list[Shape], keys: tuple[str, ...]) -> tuple[tuple[str, ...], list[list[Any]]]:
    return keys, [[row[key] for key in keys] for row in rows]
