"""Runs functions of yours as handlers of queues: `function(message)` returns, and the message is handled.

A function that raises is called again later, with growing waits; `zmqrel.Reject` refuses the message for
good. It may be called again for a message that it has handled, if the process died before that was noted:
what it does should be the same when done twice (`message.id` tells). A `--setup` function is called once
with the peer, before anything else: for functions that send messages themselves, ask for outcomes, or
register handlers of their own.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import zmqrel
from nodes.common import parser, peer_of, reported, run, stop_event


def function_of(name: str) -> Callable[[Any], object]:
    """The function that "module:function" names."""
    module, colon, function = name.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f'"{name}" is not of the form MODULE:FUNCTION')
    try:
        found = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from error
    if not callable(found):
        raise argparse.ArgumentTypeError(f"{name} is not a function")
    called: Callable[[Any], object] = found
    return called


def handler_of(text: str) -> tuple[str, Callable[[Any], object]]:
    """Queue and function of "queue=module:function"."""
    queue, equals, name = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f'"{text}" is not of the form QUEUE=MODULE:FUNCTION')
    return queue, function_of(name)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser("worker", __doc__ or "", "--bind tcp://127.0.0.1:7001 --peer source --handle rows=mine:work")
    made.add_argument(
        "--handle",
        action="append",
        default=[],
        type=handler_of,
        metavar="QUEUE=MODULE:FUNCTION",
        help="the function for a queue; may be repeated",
    )
    made.add_argument("--setup", type=function_of, metavar="MODULE:FUNCTION", help="called with the peer at first")
    made.add_argument("--workers", type=int, default=1, help="threads for each --handle [%(default)s]")
    made.add_argument("--attempts", type=int, help="give a message up after so many [never]")
    args = made.parse_args(argv)
    if not args.handle and args.setup is None:
        made.error("one of --handle and --setup is needed")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    stop = stop_event()
    peer = peer_of(args)
    retry = zmqrel.Retry.exponential(0.2, max_interval=10, max_attempts=args.attempts, jitter="full")
    for queue, function in args.handle:
        peer.handler(queue, workers=args.workers, retry=retry)(function)
    if args.setup is not None:
        args.setup(peer)
    with reported(peer), peer:
        stop.wait()
    return 0


if __name__ == "__main__":
    run(main)
