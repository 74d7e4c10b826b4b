"""Plans work: each task is a message that is not to be begun before its time, and not after its deadline.

What became of each it learns from the outcomes; of dead letters, and of those that were mended and done after all,
from the crew that has them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import zmqrel
from examples.books import PATIENT, book
from nodes.program import Parser, Stop, peer_of, reported, run, whole

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS tasks (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, key TEXT, due REAL NOT NULL, deadline REAL NOT NULL,
        outcome TEXT, attempts INTEGER, reason TEXT)""",
    """CREATE TABLE IF NOT EXISTS letters (
        id TEXT PRIMARY KEY, cause TEXT NOT NULL, times INTEGER NOT NULL DEFAULT 1)""",
    "CREATE TABLE IF NOT EXISTS mended (id TEXT PRIMARY KEY, times INTEGER NOT NULL DEFAULT 1)",
)
KINDS = ("sound", "sound", "flaky", "sound", "broken", "sound", "refused", "hopeless", "sound", "blocked")
"""What the crew will find: done at once; done at the third attempt; never done until it is mended; wrong; not to be
done before its deadline; and waiting behind that one, which has its key, until its own deadline is over."""
ATTEMPTS = 4
SPREAD_S = 3.0
TIME_S = {"hopeless": 1.5, "blocked": 0.7}
"""From its time to its deadline; the others have half a minute."""
DONE = """
SELECT NOT EXISTS (SELECT * FROM tasks WHERE outcome IS NULL)
    AND NOT EXISTS (SELECT * FROM tasks WHERE outcome <> 'HANDLED' AND id NOT IN (SELECT id FROM letters))
    AND NOT EXISTS (SELECT * FROM tasks WHERE kind = 'broken' AND id NOT IN (SELECT id FROM mended))
"""


def plan(count: int) -> None:
    """Write the plan down, once."""
    now = time.time()
    with book("planner", SCHEMA) as db:
        for n in range(count):
            kind = KINDS[n % len(KINDS)]
            key = f"press {n // len(KINDS)}" if kind in TIME_S else None
            due = now + 1 + SPREAD_S * n / count
            row = (f"task:{n}", kind, key, due, due + TIME_S.get(kind, 30))
            db.execute("INSERT OR IGNORE INTO tasks (id, kind, key, due, deadline) VALUES (?, ?, ?, ?, ?)", row)


Task = tuple[str, str, str | None, float, float]


def not_ended() -> list[Task]:
    with book("planner") as db:
        return db.execute(
            "SELECT id, kind, key, due, deadline FROM tasks WHERE outcome IS NULL ORDER BY due"
        ).fetchall()


def schedule(peer: zmqrel.Peer, task: Task) -> None:
    """Send a task; again under the same id after a restart, which changes nothing."""
    name, kind, key, due, deadline = task
    body: dict[str, Any] = {"kind": kind, "due": due, "deadline": deadline}
    times: dict[str, Any] = {"not_before": due, "deadline": deadline}
    try:
        peer.send("crew", body, queue="tasks", id=name, key=key, max_attempts=ATTEMPTS, **times)
    except zmqrel.DeadlinePassed:
        # Written down by an earlier life that did not come to send it.
        note(name, "EXPIRED", 0, "never sent")
        note_letter(name, "expired")


def note(name: str, outcome: str, attempts: int, reason: str | None) -> None:
    with book("planner") as db:
        db.execute(
            "UPDATE tasks SET outcome = ?, attempts = ?, reason = ? WHERE id = ?", (outcome, attempts, reason, name)
        )


def ended(receipt: zmqrel.Receipt) -> None:
    """Called with every outcome."""
    assert receipt.outcome is not None
    note(receipt.id, receipt.outcome.name, receipt.attempts, receipt.reason)


def note_letter(name: str, cause: str) -> None:
    with book("planner") as db:
        db.execute(
            "INSERT INTO letters (id, cause) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET times = times + 1",
            (name, cause),
        )


def dead(message: zmqrel.Message) -> None:
    """The crew has a dead letter."""
    note_letter(message.body["task"], message.body["cause"])


def note_own_letters(peer: zmqrel.Peer) -> None:
    for letter in peer.dead_letters():
        note_letter(letter.id, letter.cause)
        letter.purge()


def mended(message: zmqrel.Message) -> None:
    """The crew has done a task that had failed."""
    with book("planner") as db:
        db.execute(
            "INSERT INTO mended (id) VALUES (?) ON CONFLICT (id) DO UPDATE SET times = times + 1",
            (message.body["task"],),
        )


def main(argv: Sequence[str] | None = None) -> int:
    made = Parser("examples.tasks.planner", __doc__ or "", "--peer crew=tcp://127.0.0.1:7001")
    made.add_argument("--count", type=whole, default=60, help="how many tasks [%(default)s]")
    args = made.parsed(argv)
    plan(args.count)
    stop = Stop()
    peer = peer_of(args)
    peer.on_outcome(queue="tasks")(ended)
    peer.handler("dead", retry=PATIENT)(dead)
    peer.handler("mended", retry=PATIENT)(mended)
    with reported(peer), peer:
        for task in not_ended():
            schedule(peer, task)
        while not stop.wait(0.1):
            # Those that could not be sent in time are dead letters of this peer, not of the crew.
            note_own_letters(peer)
            with book("planner") as db:
                if db.execute(DONE).fetchone()[0]:
                    break
    return 0


if __name__ == "__main__":
    run(main)
