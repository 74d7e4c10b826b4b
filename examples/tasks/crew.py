"""Does the tasks, as far as they can be done, and looks after the dead letters.

A task that was given up because it was broken is mended and tried again, under a new id; what was refused or came
too late stays a dead letter, to be looked at by somebody.
"""

from __future__ import annotations

import contextlib
import threading
import time

import zmqrel
from examples.books import book

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS attempts (
        task TEXT NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL, due REAL NOT NULL, deadline REAL NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS done (task TEXT PRIMARY KEY, times INTEGER NOT NULL DEFAULT 1)",
)
LOOK_EVERY_S = 0.2
WAIT = zmqrel.Retry.fixed(0.2)


class Broken(Exception):
    """The task cannot be done as it is."""


def setup(peer: zmqrel.Peer) -> None:
    """Called by nodes.worker before the peer is started."""
    with book("crew", SCHEMA):
        pass
    crew = Crew(peer)
    peer.handler("tasks", workers=4, retry=WAIT)(crew.work)
    peer.handler("workshop", retry=WAIT)(crew.mend)
    threading.Thread(target=crew.look_after_the_dead, name="dead letters", daemon=True).start()


class Crew:
    """The handlers, and the peer whose dead letters they look after."""

    def __init__(self, peer: zmqrel.Peer) -> None:
        self._peer = peer

    def work(self, message: zmqrel.Message) -> None:
        """Try a task."""
        task = message.body
        with book("crew") as db:
            row = (message.id, message.attempt, time.time(), task["due"], task["deadline"])
            db.execute("INSERT INTO attempts VALUES (?, ?, ?, ?, ?)", row)
        if task["kind"] == "refused":
            raise zmqrel.Reject("there is no such machine")
        if task["kind"] == "hopeless":
            # Its deadline passes before that: there is no second attempt.
            raise zmqrel.RetryLater(task["deadline"] - time.time() + 1)
        if task["kind"] == "broken" or (task["kind"] == "flaky" and message.attempt < 3):
            raise Broken(f"attempt {message.attempt} failed")
        finish(message.id)

    def mend(self, message: zmqrel.Message) -> None:
        """Do a task that was a dead letter, and tell who planned it."""
        assert message.origin_id is not None
        finish(message.origin_id)
        self._peer.send("planner", {"task": message.origin_id}, queue="mended", id=f"mended:{message.origin_id}")

    def look_after_the_dead(self) -> None:
        """Report every dead letter; have what can be mended tried again."""
        while True:
            time.sleep(LOOK_EVERY_S)
            # Not started yet, or closed: then the process ends, and this thread with it.
            with contextlib.suppress(zmqrel.PeerClosed):
                for letter in self._peer.dead_letters():
                    self._look_after(letter)

    def _look_after(self, letter: zmqrel.DeadLetter) -> None:
        body = {"task": letter.id, "cause": letter.cause}
        # Every time that it is seen: under its id it is sent once.
        self._peer.send("planner", body, queue="dead", id=f"dead:{letter.id}")
        if letter.cause == "exhausted":
            # The letter goes and the new message comes in one commit.
            letter.retry(queue="workshop")


def finish(task: str) -> None:
    with book("crew") as db:
        db.execute("INSERT INTO done (task) VALUES (?) ON CONFLICT (task) DO UPDATE SET times = times + 1", (task,))
