"""What makes a peer a program: arguments that say who it is, signals that end it, a report of what it counted.

`zmqrel launch` tells a node all of this in its environment, so that nothing needs to be repeated in a
topology: ZMQREL_NAME, ZMQREL_STORE and ZMQREL_BIND (empty: bind nothing); ZMQREL_PEERS, a JSON object of names
and endpoints (null for a peer that connects to us); ZMQREL_OPTIONS, a JSON object of the options of its peer;
ZMQREL_STATUS_FILE, where the counts go; ZMQREL_LAUNCHER, set when there is a launcher.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import sqlite3
import sys
import textwrap
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import zmqrel

REPORT_EVERY_S = 0.5
BAD_ENDS = (zmqrel.Outcome.REJECTED, zmqrel.Outcome.EXHAUSTED, zmqrel.Outcome.UNCERTAIN)


class Parser(argparse.ArgumentParser):
    """A parser with the arguments of every node, their defaults taken from the environment."""

    def __init__(self, name: str, what: str, example: str) -> None:
        super().__init__(
            prog=f"python -m {name}",
            description="\n\n".join(textwrap.fill(part, 79) for part in what.split("\n\n")),
            epilog=f"example:\n  python -m {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        env, own = os.environ, name.rpartition(".")[2]
        self.add_argument("--name", default=env.get("ZMQREL_NAME", own), help="this peer's name [%(default)s]")
        self.add_argument("--store", default=env.get("ZMQREL_STORE", f"data/{own}"), help="its store [%(default)s]")
        self.add_argument("--bind", default=env.get("ZMQREL_BIND"), metavar="ENDPOINT", help="where others reach it")
        self.add_argument(
            "--peer",
            action="append",
            default=[],
            metavar="NAME=ENDPOINT",
            help="another peer, or its NAME alone if it connects to us; may be repeated",
        )
        self.add_argument("--permissions", metavar="FILE", help="what other peers may do here [everything]")
        self.add_argument(
            "--kill-every",
            type=above_zero,
            metavar="SECONDS",
            help="to try things out: kill this process now and then, so often on average [never]",
        )

    def parsed(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments, checked; `peers` and `options` hold what Peer takes under these names."""
        args = self.parse_args(argv)
        args.peers = dict(self._variable("ZMQREL_PEERS"))
        args.options = dict(self._variable("ZMQREL_OPTIONS"))
        if args.permissions is not None:
            args.options["permissions"] = args.permissions
        for pair in args.peer:
            name, _, endpoint = pair.partition("=")
            args.peers[name] = endpoint or None
        if "to" in args and args.to not in args.peers:
            self.error(f"argument --to: {args.to} is no peer; known are {', '.join(args.peers) or 'none'}: see --peer")
        return args

    def _variable(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads(os.environ.get(name) or "{}"))
        except (TypeError, ValueError):
            self.error(f"{name}: {os.environ[name]!r} is not a JSON object")


def above_zero(text: str) -> float:
    """For arguments: a number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def whole(text: str) -> int:
    """For arguments: a whole number from 1 on."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def share(text: str) -> float:
    """For arguments: a share, from 0 to 1."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")


def run(main: Callable[[], int]) -> NoReturn:
    """Run a node's `main`; what the user can mend is told in one line."""
    try:
        sys.exit(main())
    except (zmqrel.Error, OSError, sqlite3.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, zmqrel.ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(1)


def say_bad_end(receipt: zmqrel.Receipt) -> None:
    """For on_outcome: say which message the other side did not handle; the log is where it is looked for."""
    # In ASCII: ids and reasons may hold what steers a terminal.
    print(ascii(f"{receipt.id}: {receipt.outcome}: {receipt.reason}"[:500])[1:-1], file=sys.stderr)


def peer_of(args: argparse.Namespace) -> zmqrel.Peer:
    """The peer that the arguments describe, not started yet."""
    peer = zmqrel.Peer(args.name, args.store, bind=args.bind or (), peers=args.peers, **args.options)
    if args.kill_every is not None:
        threading.Thread(target=_kill, args=(args.kill_every,), name="kill", daemon=True).start()
    return peer


def _kill(every_s: float) -> None:
    time.sleep(random.expovariate(1 / every_s))
    os.kill(os.getpid(), signal.SIGKILL)


class Stop:
    """Set by SIGINT and SIGTERM, for a main thread with a loop of its own; others let Peer.run wait.

    Not a threading.Event: its lock may be held by the very wait that the signal interrupts.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._lock = allocate_lock()
        self._lock.acquire()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._set)

    def _set(self, _number: int, _frame: object) -> None:
        self._is_set = True
        if self._lock.locked():
            self._lock.release()

    def wait(self, seconds: float = 0) -> bool:
        """Whether it is set, after at most `seconds`."""
        return self._is_set or self._lock.acquire(timeout=seconds)


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
