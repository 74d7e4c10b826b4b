"""Breadth first through every state of a case: no promise is broken in any, and from each everything comes to its end.

Breadth first, so that the path to what is found is as short as any.

**Which orders are looked at.** An action of one process changes nothing at the other but that frames are added behind
those under way to it (wire.py, and each process has a clock of its own). So two actions of two processes give the same
in either order, unless one is the arrival of what the other sends. While a frame is under way to a process, only that
process's actions are looked at: whatever the other would do meanwhile, it can do after them as well, with the same
result. This is a persistent set (Godefroid, LNCS 1032): every complete run has another order that is looked at, in
which each process does and sees the same. What the oracle compares between the two processes it judges in both orders.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive.case import MOST_ROUNDS, SETTLE, A, B, Case, Moves
from zmqrel.testing.exhaustive.local import Local, join, split

_REPORT_S = 10.0
_LOOK_AT_CLOCK_EVERY = 1 << 12


@dataclass(slots=True)
class Found:
    """What a search found."""

    states: int = 0
    """Distinct ones."""
    transitions: int = 0
    depth: int = 0
    """Actions of the longest of all shortest paths to a state."""
    quiet: int = 0
    """States in which nothing happens any more but by a fault, a recall or the passing of time."""
    settled: int = 0
    """Those of them that were followed to their end without faults."""
    process_states: int = 0
    core_runs: int = 0
    """How often the core ran: for each state of a process and each input once."""
    seconds: float = 0.0
    complete: bool = True
    """False if the search ended at its limit."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """In how many followed states the messages ended like this."""
    broken: str | None = None
    path: list[str] = field(default_factory=list)
    """The actions up to what is broken."""


class Search:
    """A search of one case."""

    def __init__(self, case: Case, *, limit: int | None = None, settle_every: int = 1, reduce: bool = True) -> None:
        """`limit` ends it early, after so many states. One in `settle_every` quiet states is followed to its end.

        Without `reduce` every order of the actions is looked at.
        """
        self.moves = Moves(case)
        self.found = Found()
        self._local = Local(self.moves)
        self._limit = limit
        self._settle_every = settle_every
        self._reduce = reduce
        self._known: set[int] = set()
        self._ends: dict[int, str] = {}
        """Followed states, and what became of the messages."""
        self._parents = array("L")
        self._actions = array("H")

    def run(self, report: Callable[[Found], None] = lambda _found: None) -> Found:
        """Search. `report` is called every ten seconds."""
        started = reported = time.monotonic()
        found = self.found
        try:
            level = [self._local.pack(self.moves.first)]
            self._enter(level[0], 0, 0)
            first_of_level = 0
            while level and not self._is_full():
                following: list[int] = []
                for number, state in enumerate(level, first_of_level):
                    self._expand(number, state, following)
                    if not number % _LOOK_AT_CLOCK_EVERY and time.monotonic() - reported > _REPORT_S:
                        reported = time.monotonic()
                        self._count(reported - started)
                        report(found)
                    if self._is_full():
                        break
                first_of_level += len(level)
                level = following
                found.depth += bool(level)
        except _BrokenAt as broken:
            found.broken = broken.what
            found.path = [*self._path_to(broken.number), broken.action]
        found.complete = found.broken is None and not self._is_full()
        self._count(time.monotonic() - started)
        return found

    def _is_full(self) -> bool:
        return self._limit is not None and len(self._known) >= self._limit

    def _count(self, seconds: float) -> None:
        self.found.states = len(self._known)
        self.found.process_states = len(self.moves.steps.facts)
        self.found.core_runs = self.moves.steps.runs
        self.found.seconds = seconds

    # ---------------------------------------------------------------------------------------------- one state

    def _expand(self, number: int, state: int, following: list[int]) -> None:
        local, known = self._local, self._known
        a, b, context = split(state)
        busy = False
        for at in self._to_look_at(a, b):
            own, other = (a, b) if at == A else (b, a)
            choices = local.choices(at, own, context)
            busy = busy or choices.is_busy
            for action, side, sent, new_context in choices.choices:
                beside = local.with_arrivals(1 - at, other, sent) if sent else other
                after = join(side, beside, new_context) if at == A else join(beside, side, new_context)
                if after not in known:
                    self._enter(after, number, action)
                    following.append(after)
            self.found.transitions += len(choices.choices)
            if choices.broken is not None:
                raise _BrokenAt(number, *choices.broken)
        if not busy:
            self._settle(number, state)

    def _to_look_at(self, a: int, b: int) -> tuple[int, ...]:
        if self._reduce:
            if self._local.has_arrivals[A][a]:
                return (A,)
            if self._local.has_arrivals[B][b]:
                return (B,)
        return (A, B)

    def _enter(self, state: int, parent: int, action: int) -> None:
        self._known.add(state)
        self._parents.append(parent)
        self._actions.append(action)

    def _path_to(self, number: int) -> list[str]:
        names = self._local.actions
        path: list[str] = []
        while number:
            path.append(names[self._actions[number]])
            number = self._parents[number]
        return path[::-1]

    # ------------------------------------------------------------------------------------------------ the end

    def _settle(self, number: int, state: int) -> None:
        """Without faults, and with time, everything must come to its end from here."""
        self.found.quiet += 1
        if self.found.quiet % self._settle_every:
            return
        self.found.settled += 1
        self.found.outcomes[self._end_of(number, state)] += 1

    def _end_of(self, number: int, packed: int) -> str:
        local = self._local
        state = self.moves.without_faults(local.unpack(packed))
        on_the_way: list[int] = []
        while True:
            packed = local.pack(state)
            end = self._ends.get(packed)
            if end is None and self.moves.is_over(state):
                end = " ".join(history.outcome for history in state.histories)
            on_the_way.append(packed)
            if end is not None:
                self._ends.update(dict.fromkeys(on_the_way, end))
                return end
            try:
                _, state = self.moves.next_action(state)
                if len(on_the_way) > MOST_ROUNDS:
                    raise PromiseBroken(self.moves.what_is_left(state))
            except PromiseBroken as broken:
                raise _BrokenAt(number, SETTLE, str(broken)) from broken


class _BrokenAt(Exception):
    """What is broken, behind the state with this number and this action."""

    def __init__(self, number: int, action: str, what: str) -> None:
        super().__init__(what)
        self.number = number
        self.action = action
        self.what = what
