"""Shows notifications, slowly: to each the reader gives a moment. Its clock is an hour fast, which changes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmqrel
from examples.books import book
from nodes.program import Parser, above_zero, peer_of, reported, run

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS shown (
        id TEXT PRIMARY KEY,
        age_s REAL NOT NULL,            -- since it was sent, by the sender's clock, which is this machine's
        times INTEGER NOT NULL DEFAULT 1)""",
)
AHEAD_S = 3600.0


def wrong_clock() -> float:
    return time.time() + AHEAD_S


def main(argv: Sequence[str] | None = None) -> int:
    made = Parser("examples.notifications.screen", __doc__ or "", "--bind tcp://127.0.0.1:7001 --peer feed")
    made.add_argument("--pause", type=above_zero, default=0.1, help="seconds for each [%(default)s]")
    args = made.parsed(argv)
    with book("screen", SCHEMA):
        pass
    # For tests there is an option for the wall clock: machines whose clocks are wrong are no rarity.
    args.options["wall_clock"] = wrong_clock
    peer = peer_of(args)

    @peer.handler("notifications")
    def show(message: zmqrel.Message) -> None:
        age_s = time.time() - message.body["at"]
        with book("screen") as db:
            db.execute(
                "INSERT INTO shown (id, age_s) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET times = times + 1",
                (message.id, age_s),
            )
        time.sleep(args.pause)

    with reported(peer):
        peer.run()
    return 0


if __name__ == "__main__":
    run(main)
