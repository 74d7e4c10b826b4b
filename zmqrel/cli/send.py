"""`zmqrel send`: send messages and wait for their outcomes."""

from __future__ import annotations

import io
import json
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import click

import zmqrel
from zmqrel.cli import speech
from zmqrel.cli.listen import ENDPOINT, ended_by_signals
from zmqrel.control.asked import looked_at
from zmqrel.store.directory import DATA

EPILOG = """\b
Example, between two shells:
  zmqrel listen billing
  zmqrel send billing "hello"

\b
  zmqrel send billing '{"order": 42}' --as-json --queue invoices --ttl 30
  zmqrel send billing < lines.txt

Without a BODY each line of standard input is a message. What has no outcome
when the time is over stays in the store if there is one (--store), and is
gone with this command if there is none.

\b
Exit status: 0 all were HANDLED, 1 one was not, or has no outcome yet, 2 used
wrongly.
"""
_TURN_S = 0.1


def _headers(_context: click.Context, _parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f'"{pair}" is not of the form NAME=VALUE')
        headers[name] = value
    return headers


@click.command(short_help="Send messages and wait for their outcomes.", epilog=EPILOG)
@click.argument("to", metavar="PEER")
@click.argument("bodies", metavar="[BODY]...", nargs=-1)
@click.option("--at", "endpoint", metavar="ENDPOINT", help=f"Where PEER is.  [default: {ENDPOINT}]")
@click.option("--bind", metavar="ENDPOINT", help="Wait here for PEER to connect, instead.")
@click.option("--as-json", "parse", is_flag=True, help="Bodies are JSON.  [default: text]")
@click.option("--queue", default="default", show_default=True)
@click.option("--key", help="Messages of one key are handled in order.")
@click.option("--header", "headers", multiple=True, callback=_headers, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--id", "message_id", help="The message's id; only with one message.")
@click.option("--ttl", type=speech.Seconds(), help="It expires after so long.")
@click.option("--delay", type=speech.Seconds(), help="It is not handed over before.")
@click.option("--max-attempts", type=speech.Whole(1), help="It is handed over at most so often.")
@click.option("--timeout", type=speech.Seconds(), default=30.0, show_default=True, help="Seconds to wait.")
@click.option("--name", help="This peer's own name.  [default: that of the store, or send- and random letters]")
@click.option("--store", default=zmqrel.MEMORY, metavar="DIR", help="A store on disk.  [default: in memory]")
@speech.keys
@click.option("--insecure", is_flag=True, help="Allow endpoints that other machines can reach, without keys.")
@speech.as_json
@click.pass_context
@speech.mistakes_told
def send(
    context: click.Context,
    /,
    to: str,
    bodies: tuple[str, ...],
    endpoint: str | None,
    bind: str | None,
    parse: bool,
    message_id: str | None,
    timeout: float,
    name: str | None,
    store: str,
    keys: str | None,
    insecure: bool,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Send each BODY to PEER as a message of its own and wait for the outcomes."""
    if bind is not None and endpoint is not None:
        raise click.UsageError("give --at or --bind, not both")
    peers = {to: None if bind is not None else endpoint or ENDPOINT}
    own = name or _name_of(store)
    if own is None and keys is not None:
        raise click.UsageError("--keys needs --name, the name under which the others know the key")
    own = own or f"send-{secrets.token_hex(3)}"
    peer = zmqrel.Peer(own, store, bind=bind or (), peers=peers, keys=keys, insecure=insecure)
    arguments["headers"] = arguments["headers"] or None
    if message_id is not None:
        if len(bodies) != 1:
            raise click.UsageError("--id names one message: give one BODY")
        arguments["id"] = message_id
    stop = threading.Event()
    with speech.log_told(), ended_by_signals(stop), peer:
        started = monotonic()
        receipts = [peer.send(to, _body(text, parse), **arguments) for text in bodies or _lines()]
        kept = store != zmqrel.MEMORY
        unhandled = sum(not _told(receipt, started, timeout, stop, as_json, kept) for receipt in receipts)
    context.exit(1 if unhandled else 0)


def _name_of(store: str) -> str | None:
    path = Path(store)
    if store != zmqrel.MEMORY and (path / DATA).exists():
        with looked_at(path.resolve()) as found:
            if found.name:
                return found.name
    return None


def _lines() -> Iterator[str]:
    if sys.stdin.isatty():
        speech.say("each line is a message; Ctrl-D ends", err=True)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    return (line.rstrip("\r\n") for line in sys.stdin)


def _body(text: str, parse: bool) -> Any:
    if not parse:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise speech.UsedWrongly(f"{text}: not JSON: {error}") from error


def _told(
    receipt: zmqrel.Receipt, started: float, timeout: float, stop: threading.Event, as_json: bool, kept: bool
) -> bool:
    """Wait for one outcome and say it; whether it is HANDLED. `kept`: without one it stays in a store."""
    outcome = _outcome(receipt, started + timeout, stop)
    seconds = round(monotonic() - started, 6)
    said = None if outcome is None else outcome.name
    until = "interrupted, no outcome yet" if stop.is_set() else f"no outcome within {timeout:g} s"
    shape = {
        "id": receipt.id,
        "to": receipt.to,
        "queue": receipt.queue,
        "state": receipt.state.name,
        "outcome": said,
        "reason": receipt.reason,
        "attempts": receipt.attempts,
        "seconds": seconds,
    }
    if as_json:
        speech.say_json(shape)
    else:
        speech.say(_words(shape, until, kept))
    return outcome is zmqrel.Outcome.HANDLED


def _outcome(receipt: zmqrel.Receipt, give_up_at: float, stop: threading.Event) -> zmqrel.Outcome | None:
    while not stop.is_set():
        left = give_up_at - monotonic()
        try:
            return receipt.wait(max(0.0, min(left, _TURN_S)))
        except TimeoutError:
            if left <= _TURN_S:
                return None
    return receipt.outcome


def _words(shape: dict[str, Any], until: str, kept: bool) -> str:
    if shape["outcome"] is None:
        rest = "and stays in the store" if kept else "and gone with this command: there is no --store"
        return speech.escaped(f"{shape['id']}: {until}, it is {shape['state']} {rest}")
    attempts: Sequence[str] = [f"attempt {shape['attempts']}"] if shape["attempts"] else []
    details = ", ".join([*attempts, f"{shape['seconds'] * 1000:.0f} ms"])
    reason = f": {shape['reason']}" if shape["reason"] else ""
    return speech.escaped(f"{shape['id']}: {shape['outcome']}{reason} ({details})")
