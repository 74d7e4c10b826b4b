"""Breadth first through every state of a case: no promise is broken in any, and from each everything comes to its end.

States are told apart by 128 bits of BLAKE2b. Breadth first, so that the path to what is found is as short as any.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive.case import MOST_ROUNDS, NAMES, SETTLE, A, Action, B, Case, Moves, Side, State

_REPORT_S = 10.0
_PACK = Struct("<qIIIqIIIB?I").pack


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
        self._limit = limit
        self._settle_every = settle_every
        self._reduce = reduce
        self._numbers: tuple[dict[object, int], dict[object, int], dict[object, int]] = ({}, {}, {})
        self._known: set[bytes] = set()
        self._ends: dict[bytes, str] = {}
        """Followed states, by digest, and what became of the messages."""
        self._parents = array("L")
        self._actions = array("H")
        self._names: dict[str, int] = {}

    def run(self, report: Callable[[Found], None] = lambda _found: None) -> Found:
        """Search. `report` is called every ten seconds."""
        started = reported = time.monotonic()
        found = self.found
        try:
            level = self._enter(self.moves.first, 0, "")
            first_of_level = 0
            while level and not self._is_full():
                following: list[State] = []
                for number, state in enumerate(level, first_of_level):
                    self._expand(number, state, following)
                    if time.monotonic() - reported > _REPORT_S:
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

    def _expand(self, number: int, state: State, following: list[State]) -> None:
        busy = False
        for name, act in self._to_look_at(state):
            busy = busy or name in _SOON
            try:
                after = act()
            except PromiseBroken as broken:
                raise _BrokenAt(number, name, str(broken)) from broken
            self.found.transitions += 1
            following += self._enter(after, number, name)
        if not busy:
            self._settle(number, state)

    def _to_look_at(self, state: State) -> Iterator[tuple[str, Action]]:
        if self._reduce:
            for at in (A, B):
                if state.sides[at].end.arrivals:
                    return self.moves.of(state, at)
        return self.moves.all(state)

    def _enter(self, state: State, parent: int, action: str) -> list[State]:
        """The state, if it is new."""
        digest = self._digest(state)
        if digest in self._known:
            return []
        self._known.add(digest)
        self._parents.append(parent)
        self._actions.append(self._names.setdefault(action, len(self._names)))
        return [state]

    def _digest(self, state: State) -> bytes:
        a, b = state.sides
        packed = _PACK(*self._numbered(a), *self._numbered(b), state.faults, state.recalled, self._history(state))
        return blake2b(packed, digest_size=16).digest()

    def _numbered(self, side: Side) -> tuple[int, int, int, int]:
        ends, budgets, _ = self._numbers
        return (
            side.now_us,
            side.process,
            ends.setdefault(side.end, len(ends)),
            budgets.setdefault(side.budget, len(budgets)),
        )

    def _history(self, state: State) -> int:
        histories = self._numbers[2]
        return histories.setdefault(state.histories, len(histories))

    def _path_to(self, number: int) -> list[str]:
        names = list(self._names)
        path: list[str] = []
        while number:
            path.append(names[self._actions[number]])
            number = self._parents[number]
        return path[::-1]

    # ------------------------------------------------------------------------------------------------ the end

    def _settle(self, number: int, state: State) -> None:
        """Without faults, and with time, everything must come to its end from here."""
        self.found.quiet += 1
        if self.found.quiet % self._settle_every:
            return
        self.found.settled += 1
        self.found.outcomes[self._end_of(number, state)] += 1

    def _end_of(self, number: int, state: State) -> str:
        state = self.moves.without_faults(state)
        on_the_way: list[bytes] = []
        while True:
            digest = self._digest(state)
            end = self._ends.get(digest)
            if end is None and self.moves.is_over(state):
                end = " ".join(history.outcome for history in state.histories)
            on_the_way.append(digest)
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


_AT_ONCE = "start", "frame", "send", "lose", "take", "finish", "turn"
_SOON = {f"{name}.{action}" for name in NAMES for action in _AT_ONCE}
"""What happens without anybody's doing and without any time passing, and what the application does first of all."""
