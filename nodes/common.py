"""What the nodes share: the arguments that say who a node is, and the report of what it has counted.

`zmqrel launch` tells a node all of this in its environment, so that nothing needs to be repeated in a
topology: ZMQREL_NAME, ZMQREL_STORE and ZMQREL_BIND; ZMQREL_PEERS, a JSON object of names and endpoints
(null for a peer that connects to us); ZMQREL_OPTIONS, a JSON object of the options of its peer;
ZMQREL_STATUS_FILE, where the counts go; ZMQREL_LAUNCHER, set when there is a launcher.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import zmqrel

REPORT_EVERY_S = 0.5


def parser(name: str, what: str, example: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every node, their defaults taken from the environment."""
    env = os.environ
    made = argparse.ArgumentParser(
        prog=f"python -m nodes.{name}",
        description="\n\n".join(textwrap.fill(part, 79) for part in what.split("\n\n")),
        epilog=f"example:\n  python -m nodes.{name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--name", default=env.get("ZMQREL_NAME", name), help="this peer's name [%(default)s]")
    made.add_argument("--store", default=env.get("ZMQREL_STORE", f"data/{name}"), help="its store [%(default)s]")
    made.add_argument("--bind", default=env.get("ZMQREL_BIND"), metavar="ENDPOINT", help="where others reach it")
    made.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=ENDPOINT",
        help="another peer, or its NAME alone if it connects to us; may be repeated",
    )
    return made


def run(main: Callable[[], int]) -> NoReturn:
    """Run a node's `main`; what the user can mend is told in one line."""
    try:
        sys.exit(main())
    except (zmqrel.Error, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, zmqrel.ConfigError) else 1)


def peer_of(args: argparse.Namespace) -> zmqrel.Peer:
    """The peer that the arguments describe, not started yet."""
    peers: dict[str, str | None] = json.loads(os.environ.get("ZMQREL_PEERS", "{}"))
    for pair in args.peer:
        name, _, endpoint = pair.partition("=")
        peers[name] = endpoint or None
    options = json.loads(os.environ.get("ZMQREL_OPTIONS", "{}"))
    return zmqrel.Peer(args.name, args.store, bind=args.bind or (), peers=peers, **options)


def stop_event() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def replace(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader, or a crash, finds either the old or the new one."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    new.write_text(json.dumps(content) + "\n", encoding="utf-8")
    new.replace(file)


@contextlib.contextmanager
def reported(peer: zmqrel.Peer, own: Callable[[], Mapping[str, int]] = dict) -> Iterator[None]:
    """Report `peer.stats()` and this node's own counts to the launcher, if there is one; last when left.

    Enter it before the peer, so that the last report is made when the peer is closed and its counts are final.
    """
    file = os.environ.get("ZMQREL_STATUS_FILE")
    if not file:
        yield
        return
    left = threading.Event()
    thread = threading.Thread(target=_report, args=(Path(file), peer, own, left), name="report", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def _report(file: Path, peer: zmqrel.Peer, own: Callable[[], Mapping[str, int]], left: threading.Event) -> None:
    parent = os.getppid()
    last = False
    while not last:
        last = left.wait(REPORT_EVERY_S)
        # A full disk may cost a report; it must not cost the thread.
        with contextlib.suppress(OSError):
            replace(file, {"pid": os.getpid(), "time": time.time(), **peer.stats(), **own()})
        if "ZMQREL_LAUNCHER" in os.environ and os.getppid() != parent:
            # The launcher was killed and can end nobody any more: a node must not outlive its run unseen.
            os.kill(os.getpid(), signal.SIGTERM)
            last = True
