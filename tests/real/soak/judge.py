"""Judges what the nodes of a triangle recorded, by the checkers of the simulator.

The records are replayed in one order: each node's own, and between nodes by time, unless a cause is recorded later than
its effect: then the effect waits for it. All times are of one clock, which every process of the machine reads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.real.soak.node import MAX_ATTEMPTS
from tests.real.soak.record import Hold, Seen, read
from zmqrel import Outcome
from zmqrel.core.buffer import HANDLED, Failed, Rejected, Result
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.checkers import Checker, Rules
from zmqrel.testing.observations import HandOver, Sent

CLOCK_ERROR_S: Final = 0.25
"""How wrong a peer may be about another's clock: half of the best round trip, here of a busy machine. What the wall
clock was stepped by between lives, as the records show, comes on top."""
_MEASURED_ANEW_US: Final = 10_000_000
"""By then a peer has measured its offset again, by some of its heartbeats."""
_MOST_FAULTS: Final = 1_000
_RESULTS: Final[dict[str, Result]] = {"handled": HANDLED, "rejected": Rejected(""), "failed": Failed("")}


@dataclass
class Judgement:
    """What was found."""

    messages: int = 0
    """That were accepted."""
    hand_overs: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    """What the checkers counted."""
    broken: list[str] = field(default_factory=list)
    """Promises, the first thousand times."""
    lost: int = 0
    """Messages without an outcome."""
    late: int = 0
    """Hand-overs after a deadline."""
    unmarked: int = 0
    """Messages handed over again without a reason, or without saying so."""
    latest_s: float = -1e9
    """How far behind its deadline, or (negative) before it, the latest hand-over was."""


@dataclass
class _Facts:
    """What has to be known of all records before the first is replayed."""

    accepted: dict[str, int] = field(default_factory=dict)
    """Node -> the last number that was answered."""
    refused: set[str] = field(default_factory=set)
    causes: set[tuple[str, str]] = field(default_factory=set)
    """What some effect may have to wait for."""
    first_us: int = 0
    wall_ahead_us: list[int] = field(default_factory=list)
    """By how much the wall clock was ahead of the boot-time clock, at each start."""


def judge(records: Mapping[str, Path], holds: Sequence[Hold] = ()) -> Judgement:
    """Judge the records of nodes, by their names. `holds` are the times in which nodes or links were stopped."""
    return _Replay(records, _facts(records), holds).run()


def _facts(records: Mapping[str, Path]) -> _Facts:
    facts = _Facts()
    starts = []
    for node, path in records.items():
        for seen in read(path, node):
            facts.causes.update(_cause_of(seen))
            if seen.what == "accepted":
                facts.accepted[node] = seen.more["last"]
            elif seen.what == "not accepted":
                facts.refused.add(seen.message)
            elif seen.what == "start":
                starts.append(seen.at_us)
                facts.wall_ahead_us.append(seen.more["wall_ahead_us"])
    facts.first_us = min(starts)
    return facts


def _cause_of(seen: Seen) -> list[tuple[str, str]]:
    """What this may be the cause of."""
    if seen.what in ("sending", "handed over", "refused"):
        return [(seen.what, seen.message)]
    return [(seen.more["result"], seen.message)] if seen.what == "finished" else []


def _caused_by(seen: Seen) -> list[tuple[str, str]]:
    """What came before this, at whichever node; those that nobody recorded are not waited for."""
    if seen.what == "handed over":
        return [("sending", seen.message)]
    if seen.what == "verdict" and seen.more["handed_over"]:
        return [("handed over", seen.message)]
    if seen.what in ("outcome", "found"):
        outcome = seen.more.get("outcome")
        return {
            "HANDLED": [("handled", seen.message)],
            "REJECTED": [("rejected", seen.message), ("refused", seen.message)],
        }.get(outcome, [])
    return []


class _Replay:
    """The World that a Checker asks while the records are replayed."""

    def __init__(self, records: Mapping[str, Path], facts: _Facts, holds: Sequence[Hold]) -> None:
        self._holds = sorted(holds, key=lambda hold: hold.to_us)
        self._records = records
        self._facts = facts
        self._now_us = facts.first_us
        self._lives: Counter[str] = Counter()
        self._observers: list[Callable[..., None]] = []
        self._sent: dict[str, Sent] = {}
        self._passed: set[tuple[str, str]] = set()
        self._found = Judgement()
        self._named: set[str] = set()
        stepped_s = (max(facts.wall_ahead_us) - min(facts.wall_ahead_us)) / 1e6
        rules = Rules(MAX_ATTEMPTS, CLOCK_ERROR_S + stepped_s, tells=True, recorded=True)
        self._checker = Checker(self, rules)

    # --------------------------------------------------------------------------------- what the checker asks

    @property
    def now(self) -> float:
        return (self._now_us - self._facts.first_us) / 1e6

    def true_us(self) -> int:
        return self._now_us

    def watch(self, observer: Callable[..., None]) -> None:
        self._observers.append(observer)

    def names(self) -> Iterable[str]:
        return self._records

    def life(self, name: str) -> int:
        return self._lives[name]

    def agree(self, one: str, other: str) -> bool:
        return True  # no store is lost

    def held_up_s(self, one: str, other: str, since_us: int) -> float:
        # Sorted by their ends, of which few came after a message was sent.
        after = bisect_left(self._holds, since_us - _MEASURED_ANEW_US, key=lambda hold: hold.to_us)
        held = (hold for hold in self._holds[after:] if hold.from_us <= self._now_us and {one, other} >= hold.nodes)
        return max((hold.to_us - hold.from_us for hold in held), default=0) / 1e6

    def stalled(self, name: str) -> bool:
        return False

    def was_found_old(self, name: str, by: str, since: float) -> bool:
        return False

    # ---------------------------------------------------------------------------------------------- replaying

    def run(self) -> Judgement:
        """Replay everything."""
        for seen in self._ordered():
            self._now_us = max(self._now_us, seen.at_us)
            tell = getattr(self, "_on_" + seen.what.replace(" ", "_"))
            self._judged(seen.message, tell, seen)
        for body in self._checker.histories:
            self._judged(body, self._checker.check_ended, body)
        found = self._found
        found.messages, found.hand_overs = len(self._checker.histories), self._checker.hand_overs
        found.seen = self._checker.seen
        return found

    def _ordered(self) -> Iterator[Seen]:
        """Of the next of each node the earliest, unless what caused it is still to come."""
        streams = {node: read(path, node) for node, path in self._records.items()}
        heads = {node: seen for node, stream in streams.items() if (seen := next(stream, None)) is not None}
        while heads:
            in_time = sorted(heads.values(), key=lambda seen: seen.at_us)
            # If all wait for each other one of them is a lie, and the checker shall see it.
            seen = next((seen for seen in in_time if self._may_come(seen)), in_time[0])
            self._passed.update(_cause_of(seen))
            yield seen
            following = next(streams[seen.node], None)
            if following is None:
                del heads[seen.node]
            else:
                heads[seen.node] = following

    def _may_come(self, seen: Seen) -> bool:
        causes = [cause for cause in _caused_by(seen) if cause in self._facts.causes]
        return not causes or not self._passed.isdisjoint(causes)

    def _judged(self, message: str, tell: Callable[[Any], None], what: Any) -> None:
        """What is broken first of a message is told: what follows from it is not."""
        try:
            tell(what)
        except PromiseBroken as broken:
            text, found = str(broken), self._found
            if message in self._named:
                return
            self._named.add(message)
            found.lost += "it has no outcome" in text
            found.late += "after its deadline" in text
            found.unmarked += "handed over again" in text or "not said to be redelivered" in text
            if len(found.broken) < _MOST_FAULTS:
                found.broken.append(text)

    def _observe(self, what: str, *details: Any) -> None:
        for observer in self._observers:
            observer(what, *details)

    # -------------------------------------------------------------------------------- one for each kind of row

    def _on_sending(self, seen: Seen) -> None:
        if seen.message in self._facts.refused or int(seen.message.split(":")[1]) > self._facts.accepted[seen.node]:
            return
        more = seen.more
        sent = self._sent[seen.message] = Sent(
            sender=seen.node, body=seen.message, id=seen.message, sent_us=seen.at_us, sent_store_us=seen.at_us, **more
        )
        self._observe("accepted", sent)

    def _on_start(self, seen: Seen) -> None:
        self._lives[seen.node] += 1
        if self._lives[seen.node] > 1:
            self._observe("stopped", seen.node, False)

    def _on_close(self, seen: Seen) -> None:
        self._observe("stopped", seen.node, True)

    def _on_accepted(self, _seen: Seen) -> None:
        pass  # known before

    _on_not_accepted = _on_accepted

    def _on_recalling(self, seen: Seen) -> None:
        if seen.message in self._sent:
            self._observe("recalling", self._sent[seen.message])

    def _on_recalling_where(self, seen: Seen) -> None:
        self._observe("recalling where", seen.node, seen.more["queue"], seen.more["key"])

    def _on_verdict(self, seen: Seen) -> None:
        sent = self._sent[seen.message]
        if seen.more["verdict"] == "RECALLED":
            self._observe("outcome", sent, Outcome.RECALLED, "recalled", 0)
        elif seen.more["handed_over"]:
            self._observe("told handed over", sent)

    def _on_outcome(self, seen: Seen) -> None:
        self._ended(seen)
        self._observe("told", seen.node, seen.message, Outcome[seen.more["outcome"]])

    def _on_found(self, seen: Seen) -> None:
        if seen.more["outcome"] is None:
            raise PromiseBroken(f"message {seen.message!r}: looked up, it has no outcome")
        self._ended(seen)

    def _ended(self, seen: Seen) -> None:
        sent, outcome = self._sent.get(seen.message), Outcome[seen.more["outcome"]]
        if sent is None:
            raise PromiseBroken(f"message {seen.message!r}: {outcome} was told, but it was not accepted")
        self._observe("outcome", sent, outcome, seen.more["reason"], seen.more["attempts"])
        sent.outcome = outcome

    def _hand_over(self, seen: Seen) -> HandOver:
        more = seen.more
        return HandOver(
            sender=more["sender"], to=seen.node, queue=more["queue"], id=seen.message, key=more["key"],
            origin_id=more["origin"], body=seen.message, attempt=more["attempt"], redelivered=more["redelivered"],
            after_us=more["after_us"], by_us=seen.at_us,
        )  # fmt: skip

    def _on_handed_over(self, seen: Seen) -> None:
        sent = self._sent.get(seen.message)
        if sent is not None and sent.deadline_us:
            late_s = (seen.more["after_us"] - sent.deadline_us) / 1e6
            self._found.latest_s = max(self._found.latest_s, late_s)
        self._observe("handed over", self._hand_over(seen))

    def _on_finished(self, seen: Seen) -> None:
        self._observe("finished", self._hand_over(seen), _RESULTS[seen.more["result"]])

    def _on_refused(self, seen: Seen) -> None:
        self._observe("refused", self._hand_over(seen))
