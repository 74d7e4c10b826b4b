"""Takes messages from a queue, changes each with a function of yours, and sends what it returns on: once.

The id of what is sent is made of the id of what was taken, and a message is acknowledged after what came of it is
safe in the store. If this process dies between the two, the message is handed over again, `function(message)` is
called again, and zmqrel sees by the id that its result was sent before. A function that raises is called again
later; `zmqrel.Reject` refuses the message, and nothing is sent. The end of a source goes on unchanged.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import Callable, Sequence

import zmqrel
from nodes.functions import function_of
from nodes.program import BAD_ENDS, Parser, peer_of, reported, run, say_bad_end, whole

ROOM_TIMEOUT_S = 5.0
MOST_ID_BYTES = 128


def derived_id(message: zmqrel.Message) -> str:
    """The id of what is made of a message: the same each time that it is handed over, and nobody else's."""
    name = f"{message.sender}/{message.id}"
    if len(name.encode()) <= MOST_ID_BYTES:
        return name
    return hashlib.blake2b(name.encode(), digest_size=32).hexdigest()


def relaying(peer: zmqrel.Peer, args: argparse.Namespace) -> Callable[[zmqrel.Message], None]:
    """The handler."""

    def relay(message: zmqrel.Message) -> None:
        body = None if "end" in message.headers else args.function(message)
        # What an earlier attempt has sent stands, though the function may say otherwise this time.
        with contextlib.suppress(zmqrel.DuplicateId):
            peer.send(
                args.to,
                body,
                queue=args.send_queue,
                key=message.key,
                headers=message.headers,
                id=derived_id(message),
                room_timeout=ROOM_TIMEOUT_S,
            )

    return relay


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    example = "--bind tcp://127.0.0.1:7002 --peer source \\\n    --function mine:change --to sink --peer sink=tcp://127.0.0.1:7001"
    made = Parser("nodes.relay", __doc__ or "", example)
    made.add_argument("--queue", default="rows", help="the queue to take from [%(default)s]")
    made.add_argument(
        "--function", type=function_of, required=True, metavar="MODULE:FUNCTION", help="its result is the new body"
    )
    made.add_argument("--to", required=True, metavar="PEER", help="who gets the results")
    made.add_argument("--send-queue", metavar="QUEUE", help="in which queue [that of --queue]")
    made.add_argument(
        "--workers", type=whole, default=1, help="threads; more than one may change the order [%(default)s]"
    )
    made.add_argument("--attempts", type=whole, help="give a message up after so many [never]")
    args = made.parsed(argv)
    args.send_queue = args.send_queue or args.queue
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    peer = peer_of(args)
    retry = zmqrel.Retry.exponential(0.2, max_interval=10, max_attempts=args.attempts, jitter="full")
    peer.handler(args.queue, workers=args.workers, retry=retry)(relaying(peer, args))
    peer.on_outcome(*BAD_ENDS, to=args.to, queue=args.send_queue)(say_bad_end)
    with reported(peer):
        peer.run()
    return 0


if __name__ == "__main__":
    run(main)
