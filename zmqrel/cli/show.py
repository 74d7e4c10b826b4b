"""`zmqrel show`: the life of one message, at this peer and, where it can be asked, at the other end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import zmqrel
from zmqrel.cli import speech
from zmqrel.control.asking import Ask, connected

EPILOG = """\b
Example:
  zmqrel show data/shop 6f1c2b9f00d1e2a3-17
  zmqrel show data/shop order-42 --other /srv/billing/data

The other end is asked if its store is on this machine: in the directory
beside DIR that has its peer's name (as `zmqrel launch` lays them out), or
where --other says.

\b
Exit status: 0 shown, 1 no such message is known here, or the store cannot be
read, 2 used wrongly.
"""
DONE_BY_SENDER = frozenset(("stored", "sent", "resent", "recalled", "expired", "given up"))
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
    if not (own["sent"] or own["received"] or own["dead"] or own["passed"]):
        raise zmqrel.UnknownMessage(f"no message {message_id!r} is known in {directory}, or its outcome is forgotten")
    ends = [own, *_other_ends(directory, others, own, message_id)]
    found = {"id": message_id, "ends": ends, "where": _where(ends), "history": _history(ends)}
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
        received = found["received"] or list(_searched(ask, message_id))
        dead = list(speech.listed_dead(ask, id=message_id, full=True))
    return {
        "peer": status["peer"],
        "store": status["store"],
        "running": status["running"],
        "sent": found["sent"],
        "received": received,
        "dead": dead,
        "passed": None if dead else found["passed"],
    }


def _searched(ask: Ask, message_id: str) -> Iterator[Shape]:
    """Ids that were given to `send` are not indexed where they are received."""
    return speech.listed(ask, "inbox", id=message_id, full=True)


def _other_ends(directory: Path, others: tuple[Path, ...], own: Shape, message_id: str) -> Iterator[Shape]:
    """The stores at the other end, with what concerns this peer only: ids are each sender's own."""
    names = {own["sent"]["to"]} if own["sent"] else set()
    names |= {item["sender"] for item in (*own["received"], *own["dead"])} - {own["peer"]}
    names |= {own["passed"]} - {None}
    beside = [directory.resolve().parent / name for name in sorted(names)]
    for path in others or [path for path in beside if (path / "data.mdb").exists()]:
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
            place = "worker" if item["in_hand"] else "inbox"
            due = f", due {speech.moment(item['due_at'])}" if place == "inbox" and item["attempts"] else ""
            detail = f"queue {item['queue']}, attempts {item['attempts']}{due}"
            places.append({"peer": end["peer"], "place": place, "detail": detail})
        for item in end["dead"]:
            detail = f"{item['cause']}: {item['reason']}"
            places.append({"peer": end["peer"], "place": "dead letters", "detail": detail})
        if end["passed"] is not None:
            places.append({"peer": end["peer"], "place": "settled", "detail": f"{end['passed']} knows the outcome"})
    return places


def _history(ends: list[Shape]) -> list[Shape]:
    """What happened at all ends, oldest first; what two ends remember of the same is told by the one that did it."""
    at_sender: list[Shape] = []
    at_receiver: list[Shape] = []
    for end in ends:
        if "error" in end:
            continue
        if end["sent"]:
            at_sender += [{"peer": end["peer"], **event} for event in end["sent"]["history"]]
        for item in (*end["received"], *end["dead"]):
            at_receiver += [{"peer": end["peer"], **event} for event in item["history"]]
    done_there = {event["what"] for event in at_receiver} - DONE_BY_SENDER
    done_here = {event["what"] for event in at_sender} & DONE_BY_SENDER
    told = [event for event in at_sender if event["what"] not in done_there]
    told += [event for event in at_receiver if event["what"] not in done_here]
    # By two clocks: what was received was sent before.
    sent_at = min((event["at"] for event in at_sender if event["what"] == "sent"), default="")
    there = {id(event) for event in at_receiver if event["what"] not in DONE_BY_SENDER}
    return sorted(
        told, key=lambda event: (max(event["at"] or "", sent_at if id(event) in there else ""), id(event) in there)
    )


def _lines(found: Shape) -> list[str]:
    lines = [f"message {speech.escaped(found['id'])}"]
    for end in found["ends"]:
        if "error" not in end:
            lines += _end_lines(end)
    lines += ["", "where it is now:"]
    lines += [f"  {line}" for line in speech.columns(*_table(found["where"], ("peer", "place", "detail")))]
    lines += ["", "what happened:"]
    rows = [{**event, "at": speech.moment(event["at"])} for event in found["history"]]
    lines += [f"  {line}" for line in speech.columns(*_table(rows, ("at", "peer", "what", "detail")))]
    return lines


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
