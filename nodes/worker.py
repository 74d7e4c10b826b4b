"""Runs functions of yours as handlers of queues: `function(message)` returns, and the message is handled.

A function that raises is called again later, with growing waits; `zmqrel.Reject` refuses the message for
good. It may be called again for a message that it has handled, if the process died before that was noted:
what it does should be the same when done twice (`message.id` tells). A `--setup` function is called once
with the peer, before anything else: for functions that send messages themselves, ask for outcomes, or
register handlers of their own.

To see what becomes of the rest of a system then, a worker can be told to fail, to stall or to crash now and
then, before a function is called.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmqrel
from nodes.functions import function_of, handler_of
from nodes.program import Parser, above_zero, peer_of, reported, run, share, whole


class TriedOut(Exception):
    """Raised in place of a function that was to be called, because --fail says so."""


def troubled(function: Callable[[Any], object], args: argparse.Namespace) -> Callable[[Any], object]:
    """The function, with the troubles that were asked for before it."""

    def call(message: zmqrel.Message) -> None:
        if random.random() < args.stall:
            time.sleep(args.stall_seconds)
        if random.random() < args.crash:
            os.kill(os.getpid(), signal.SIGKILL)
        if random.random() < args.fail:
            raise TriedOut(f"--fail {args.fail:g}")
        function(message)

    return call if args.fail or args.stall or args.crash else function


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = Parser("nodes.worker", __doc__ or "", "--bind tcp://127.0.0.1:7001 --peer source --handle rows=mine:work")
    made.add_argument(
        "--handle",
        action="append",
        default=[],
        type=handler_of,
        metavar="QUEUE=MODULE:FUNCTION",
        help="the function for a queue; may be repeated",
    )
    made.add_argument("--setup", type=function_of, metavar="MODULE:FUNCTION", help="called with the peer at first")
    made.add_argument("--workers", type=whole, default=1, help="threads for each --handle [%(default)s]")
    made.add_argument("--attempts", type=whole, help="give a message up after so many [never]")
    made.add_argument("--fail", type=share, default=0.0, help="share of calls that fail, from 0 to 1 [%(default)s]")
    made.add_argument("--stall", type=share, default=0.0, help="share of calls that take long [%(default)s]")
    made.add_argument("--stall-seconds", type=above_zero, default=5.0, help="how long that is [%(default)s]")
    made.add_argument("--crash", type=share, default=0.0, help="share of calls that kill the process [%(default)s]")
    args = made.parsed(argv)
    if not args.handle and args.setup is None:
        made.error("one of --handle and --setup is needed")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    peer = peer_of(args)
    retry = zmqrel.Retry.exponential(0.2, max_interval=10, max_attempts=args.attempts, jitter="full")
    for queue, function in args.handle:
        peer.handler(queue, workers=args.workers, retry=retry)(troubled(function, args))
    if args.setup is not None:
        args.setup(peer)
    with reported(peer):
        peer.run()
    return 0


if __name__ == "__main__":
    run(main)
