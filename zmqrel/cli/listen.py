"""`zmqrel listen`: print the messages that come."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

import zmqrel
from zmqrel.cli import speech
from zmqrel.control.shapes import plain

ENDPOINT = "tcp://127.0.0.1:7001"
EPILOG = """\b
Example, between two shells:
  zmqrel listen billing
  zmqrel send billing "hello"

\b
Every message that is printed is acknowledged. With --json one object a line.
Ctrl-C ends it.

\b
Exit status: 0 ended by Ctrl-C or --count, 1 the endpoint, the store, the
keys or the permissions are not to be had, 2 used wrongly.
"""


@click.command(short_help="Print the messages that come.", epilog=EPILOG)
@click.argument("name")
@click.option(
    "--bind", multiple=True, default=[ENDPOINT], show_default=True, metavar="ENDPOINT", help="Where; may be repeated."
)
@click.option(
    "--queue", "queues", multiple=True, default=["default"], show_default=True, help="Of which queue; may be repeated."
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME[=ENDPOINT]",
    help="Listen to this peer only, and dial it if there is an endpoint; may be repeated.  [default: to everyone]",
)
@click.option("--store", default=zmqrel.MEMORY, metavar="DIR", help="A store on disk.  [default: in memory]")
@click.option("--count", type=speech.Whole(1), help="End after so many messages.")
@speech.keys
@click.option("--permissions", metavar="FILE", help="What other peers may do, as `zmqrel permissions` has it.")
@click.option("--insecure", is_flag=True, help="Allow endpoints that other machines can reach, without keys.")
@speech.as_json
@speech.mistakes_told
def listen(
    name: str,
    bind: tuple[str, ...],
    queues: tuple[str, ...],
    peers: tuple[str, ...],
    store: str,
    count: int | None,
    keys: str | None,
    permissions: str | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Be a peer NAME that prints and acknowledges the messages of a queue."""
    accept = "listed" if peers else "any"
    options: dict[str, Any] = {"accept": accept, "keys": keys, "permissions": permissions, "insecure": insecure}
    peer = zmqrel.Peer(name, store, bind=bind, peers=named(peers), **options)
    printer = _Printer(as_json, count)
    for queue in dict.fromkeys(queues):
        peer.handler(queue)(printer)
    with speech.log_told(), ended_by_signals(printer.stop), started(peer):
        if not as_json:
            speech.say(f"{name} listens at {', '.join(peer.endpoints) or 'nothing'}; Ctrl-C ends it", err=True)
        printer.stop.wait()
    if printer.failed is not None:
        raise printer.failed


class _Printer:
    """The handler of every queue: one message at a time is printed, and then acknowledged."""

    def __init__(self, as_json: bool, count: int | None) -> None:
        self.stop = threading.Event()
        self.failed: OSError | None = None
        self._as_json = as_json
        self._left = count
        self._guard = threading.Lock()

    def __call__(self, message: zmqrel.Message) -> None:
        with self._guard:
            if self.stop.is_set():
                raise zmqrel.RetryLater(0)
            try:
                if self._as_json:
                    speech.say_json(_shape(message))
                else:
                    speech.say(_line(message))
            except OSError as error:  # nobody reads any more: what was not printed is not acknowledged
                self.failed = error
                self.stop.set()
                raise
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    self.stop.set()


def _shape(message: zmqrel.Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "sender": message.sender,
        "queue": message.queue,
        "key": message.key,
        "headers": plain(message.headers),
        "body": plain(message.body),
        "sent_at": message.sent_at.isoformat(timespec="microseconds"),
        "deadline": None if message.deadline is None else message.deadline.isoformat(timespec="microseconds"),
        "attempt": message.attempt,
        "redelivered": message.redelivered,
    }


def _line(message: zmqrel.Message) -> str:
    shape = _shape(message)
    key = f" key {message.key}" if message.key is not None else ""
    again = f" attempt {message.attempt}" if message.attempt > 1 else ""
    head = f"{speech.moment(shape['sent_at'])} {message.sender} {message.queue}{key}{again}"
    return f"{speech.escaped(head)}: {speech.body_text({'value': shape['body']})}"


def named(peers: tuple[str, ...]) -> dict[str, str | None]:
    """Names and endpoints of NAME=ENDPOINT, or of NAME alone. Raises ConfigError for an endpoint that is empty."""
    found: dict[str, str | None] = {}
    for pair in peers:
        name, equals, endpoint = pair.partition("=")
        if equals and not endpoint:
            raise zmqrel.ConfigError.of("--peer", "NAME, or NAME=ENDPOINT with an endpoint behind the =", pair)
        found[name] = endpoint or None
    return found


@contextmanager
def started(peer: zmqrel.Peer) -> Iterator[None]:
    """The peer runs. What it refuses now is not how the command was written, but what is there: FoundWrong."""
    with ExitStack() as stack:
        try:
            stack.enter_context(peer)
        except zmqrel.ConfigError as error:
            raise speech.FoundWrong(str(error)) from error
        yield


@contextmanager
def ended_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
