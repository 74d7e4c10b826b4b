"""One node of a triangle: sends, recalls, handles, and records all of it; killed at any time and started again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.real.line import Line
from tests.real.soak.record import Intent, Record, now_us, wall_ahead_us
from zmqrel import (
    DeadlinePassed,
    Message,
    Outcome,
    Peer,
    PeerClosed,
    Receipt,
    Reject,
    Retry,
    RetryLater,
    UnknownMessage,
    Verdict,
)

CHUNK = 50
MAX_ATTEMPTS = 4
"""Of every handler."""
KEYS = 40
WORKERS = {"line": 1, "wide": 3, "timed": 2, "late": 1}
"""Of each queue. `timed` asks `admit`; `late` takes what is made of expired messages."""
_TELL_S = 0.2
TO_BE_RECALLED, TO_EXPIRE, TO_BE_REJECTED, TO_BE_EXHAUSTED = 7, 13, 17, 19
"""Numbers of messages, modulo CHUNK, that end so in all likelihood; what becomes of others is left to chance."""


class Node:
    """One life of a node. Random choices hang on the number of the message, so that every life makes the same."""

    def __init__(self, line: Line, name: str, others: list[str], record: Path, **load: Any) -> None:
        """`load`: `messages` to send, None for as many as there is time; `ahead`: how many may have no outcome at most;
        `rate`: how many a second, None for as many as possible; `seed`; `lookup`: look up all outcomes at the end."""
        self._line = line
        self._name = name
        self._others = others
        self._record = Record(record)
        self._load = load
        self._enough = threading.Event()
        self._sent_all = threading.Event()
        self._ended = threading.Condition()
        self._seen: Counter[str] = Counter()
        self._asked: dict[str, int] = {}
        """When `admit` was about to say yes."""
        self._thread = threading.local()
        self.began_us = self._record.event("start", wall_ahead_us=wall_ahead_us())

    def serve(self, peer: Peer) -> None:
        """Until the parent wants the end of it. The peer is not started yet."""
        self._peer = peer
        for queue, workers in WORKERS.items():
            admit = self._admit if queue == "timed" else None
            retry = Retry.fixed(0.05, max_attempts=MAX_ATTEMPTS)
            peer.handler(queue, workers=workers, retry=retry, admit=admit)(self._handle)
        peer.on_outcome()(self._told)
        peer.start()
        threading.Thread(target=self._tell, daemon=True).start()
        threading.Thread(target=self._send_all, daemon=True).start()
        while True:
            word = self._line.hear()["do"]
            if word == "enough":
                self._enough.set()
                self._sent_all.wait()
                self._line.say(enough=self._record.last_sent())
            elif word == "finish":
                self._line.say(finished=self._finish())
                return

    def _tell(self) -> None:
        """Tell the parent how it goes."""
        while True:
            try:
                stats = self._peer.stats()
            except PeerClosed:
                return
            levels = {key: stats[key] for key in ("outbox_messages", "inbox_messages", "peers_connected")}
            self._line.say(
                life=self.began_us, sent=self._record.last_sent(), sent_all=self._sent_all.is_set(), levels=levels,
                seen=dict(self._seen),
            )  # fmt: skip
            time.sleep(_TELL_S)

    # -------------------------------------------------------------------------------------------- sending

    def _send_all(self) -> None:
        try:
            self._send(self._record.unanswered())
            last = self._record.last_sent()
            while not self._enough.is_set() and last != self._load["messages"]:
                first, last = last + 1, min(last + CHUNK, self._load["messages"] or last + CHUNK)
                self._wait_for_room()
                intents = [self._intent(n) for n in range(first, last + 1)]
                self._record.sending(intents)
                self._send(intents)
                self._recall_some(last)
        except BaseException as error:
            self._line.say(critical=f"{self._name} cannot send: {error!r}")
            raise
        self._sent_all.set()

    def _wait_for_room(self) -> None:
        rate = self._load["rate"]
        if rate is not None:
            self._enough.wait(CHUNK / rate)
        with self._ended:
            while self._peer.stats()["outbox_messages"] > self._load["ahead"] and not self._enough.is_set():
                self._ended.wait(0.1)

    def _intent(self, n: int) -> Intent:
        rng = random.Random(f"{self._load['seed']} {self._name} {n}")
        at_us, wall_s = now_us(), time.time()
        queue = rng.choice(("line", "wide", "timed"))
        arguments: dict[str, Any] = {"queue": queue}
        deadline_s, not_before_s = self._times(rng, n, queue)
        if not_before_s:
            arguments["not_before"] = wall_s + not_before_s
        if deadline_s:
            arguments["deadline"] = wall_s + deadline_s
            arguments["on_expiry"] = rng.choice(("drop", "dead", "queue:late"))
        if rng.random() < 0.4:
            arguments["key"] = f"k{rng.randrange(KEYS)}"
        if rng.random() < 0.03:
            arguments["max_attempts"] = rng.randrange(1, MAX_ATTEMPTS)
        if rng.random() < 0.2:
            arguments["headers"] = {"pad": "x" * rng.choice((10, 100, 3000))}
        return Intent(
            n, at_us, rng.choice(self._others), queue, arguments.get("key"),
            at_us + round(deadline_s * 1e6) if deadline_s else 0,
            at_us + round(not_before_s * 1e6) if not_before_s else 0,
            arguments.get("max_attempts"), arguments,
        )  # fmt: skip

    @staticmethod
    def _times(rng: random.Random, n: int, queue: str) -> tuple[float, float]:
        """Seconds until the deadline and until the first hand-over; 0: none."""
        fate = n % CHUNK
        if fate == TO_EXPIRE:
            return 0.5, 0.5
        if fate in (TO_BE_RECALLED, TO_BE_REJECTED, TO_BE_EXHAUSTED):
            return 0.0, 5.0 if fate == TO_BE_RECALLED else 0.0
        deadline_s = rng.choice((0.1, 1.0, 5.0, 60.0)) if rng.random() < (0.6 if queue == "timed" else 0.15) else 0.0
        not_before_s = rng.random() * 3 if rng.random() < 0.1 else 0.0
        return deadline_s + not_before_s if deadline_s else 0.0, not_before_s

    def _send(self, intents: list[Intent]) -> None:
        """In order. What an earlier life has sent already is found by its id, and is the same message."""
        if not intents:
            return
        refused: list[str] = []
        for intent in intents:
            name = f"{self._name}:{intent.n}"
            try:
                self._peer.send_nowait(intent.recipient, name, id=name, **intent.arguments)
            except DeadlinePassed:
                if not self._knows(name):
                    refused.append(name)
        self._peer.flush()
        self._record.events(
            [("not accepted", name, {}) for name in refused] + [("accepted", None, {"last": intents[-1].n})]
        )

    def _knows(self, name: str) -> bool:
        with suppress(UnknownMessage):
            self._peer.receipt(name)
            return True
        return False

    def _recall_some(self, last: int) -> None:
        rng = random.Random(f"{self._load['seed']} {self._name} recalls {last}")
        numbers = {rng.randrange(max(1, last - 10 * CHUNK), last + 1) for _ in range(rng.randrange(6))}
        numbers.add(last - (last - TO_BE_RECALLED) % CHUNK)
        names = [name for n in sorted(numbers) if self._knows(name := f"{self._name}:{n}")]
        self._record.events([("recalling", name, {}) for name in names])
        for name in names:
            self._recall(name, 0)
        if rng.random() < 0.1:
            queue, key = rng.choice(("line", "wide", "timed")), f"k{rng.randrange(KEYS)}"
            self._record.event("recalling where", queue=queue, key=key)
            self._peer.recall_where(queue=queue, key=key)

    def _recall(self, name: str, timeout: float) -> None:
        recall = self._peer.recall(name, timeout=timeout)
        if recall.verdict is not Verdict.PENDING:
            handed_over = recall.handed_over_at is not None
            self._record.event("verdict", name, verdict=recall.verdict.name, handed_over=handed_over)

    def _told(self, receipt: Receipt) -> None:
        assert receipt.outcome is not None
        self._record.event(
            "outcome", receipt.id, outcome=receipt.outcome.name, reason=receipt.reason, attempts=receipt.attempts
        )
        self._seen["told"] += 1
        with self._ended:
            self._ended.notify_all()

    # ------------------------------------------------------------------------------------------- handling

    def _admit(self, message: Message) -> bool:
        # Asked once for each attempt: what it says hangs on nothing else.
        if random.Random(f"{message.id} {message.attempt} admit").random() < 0.01:
            self._record.event("refused", message.id, **self._what(message, 0))
            return False
        # It is not handed over before this has returned, so not before now.
        self._asked[message.id] = now_us()
        return True

    @staticmethod
    def _what(message: Message, after_us: int) -> dict[str, Any]:
        return {
            "sender": message.sender, "queue": message.queue, "key": message.key, "origin": message.origin_id,
            "attempt": message.attempt, "redelivered": message.redelivered, "after_us": after_us,
        }  # fmt: skip

    def _handle(self, message: Message) -> None:
        # Not before its worker was done with the one before.
        after_us = self._asked.pop(message.id, 0) or getattr(self._thread, "free_us", self.began_us)
        what = self._what(message, after_us)
        self._record.event("handed over", message.id, **what)
        self._seen["repeated"] += message.redelivered
        self._seen["handed over"] += 1
        error = self._work(message)
        result = "handled" if error is None else "rejected" if isinstance(error, Reject) else "failed"
        self._record.event("finished", message.id, result=result, **what)
        self._thread.free_us = now_us()
        if error is not None:
            raise error

    @staticmethod
    def _work(message: Message) -> Exception | None:
        if message.origin_id is not None:
            return None
        rng = random.Random(f"{message.id} {message.attempt}")
        if rng.random() < 0.005:
            time.sleep(rng.random() * 0.2)
        fate = int(message.id.split(":")[1]) % CHUNK
        if fate == TO_BE_EXHAUSTED:
            return RuntimeError("it always fails")
        what = rng.random()
        if what < 0.02:
            return RuntimeError("it failed this time")
        if fate == TO_BE_REJECTED:
            return Reject("not wanted")
        return RetryLater(rng.random() * 0.3) if what < 0.04 else None

    # -------------------------------------------------------------------------------------------- the end

    def _finish(self) -> dict[str, Any]:
        """All is quiet: look everything up once more, and close."""
        with self._ended:
            while self._record.untold():
                self._ended.wait(1)
        for name in self._record.recalled():
            with suppress(UnknownMessage):  # its outcome is kept for a while only
                self._recall(name, 60)
        if self._load["lookup"]:
            self._record.events([("found", name, self._found(name)) for name in self._record.accepted(self._name)])
        self._peer.dead_letters().purge(before=time.time() + 60)
        stats = self._peer.stats()
        report = self._peer.close()
        self._record.event("close")
        self._record.close()
        left = {"unsent": report.unsent, "unsettled": report.unsettled, "inbox": report.inbox}
        return left | {key: stats[key] for key in ("outbox_messages", "inbox_messages", "dead_messages", "in_hand")}

    def _found(self, name: str) -> dict[str, Any]:
        receipt = self._peer.receipt(name)
        outcome: Outcome | None = receipt.outcome
        return {"outcome": outcome and outcome.name, "reason": receipt.reason, "attempts": receipt.attempts}


def triangle_node(line: Line, name: str, options: dict[str, Any], **arguments: Any) -> None:
    """The role of a child process."""
    record = Path(arguments.pop("record"))
    node = Node(line, name, sorted(options["peers"]), record, **arguments)
    node.serve(Peer(name, **options))
