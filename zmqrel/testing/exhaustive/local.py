"""What one process may do next, worked out once for each state of its side of a case.

What an action of a process does depends on that process, its end of the link, what may still go wrong and what was seen
so far. To the other side it only adds frames under way. So a search, which meets the same side beside thousands of
states of the other one, looks the actions up: a state of the whole case is three small numbers, for the two sides and
for what belongs to both, in one.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive.case import NAMES, A, Budget, Moves, Side, State
from zmqrel.testing.exhaustive.oracle import Histories
from zmqrel.testing.exhaustive.wire import Arrival, End

_T = TypeVar("_T")

CONTEXT_BITS = 14
SIDE_BITS = 23
"""60 bits together: larger numbers of Python take half as much room again."""

_AT_ONCE = "start", "frame", "send", "lose", "take", "finish", "turn"
_SOON = {f"{name}.{action}" for name in NAMES for action in _AT_ONCE}
"""What happens without anybody's doing and without any time passing, and what the application does first of all."""


class Numbers(Generic[_T]):
    """Values and their numbers, in the order in which they were met."""

    def __init__(self, bits: int) -> None:
        """For up to 2^`bits` values."""
        self.values: list[_T] = []
        self._numbers: dict[_T, int] = {}
        self._most = 1 << bits

    def number(self, value: _T) -> int:
        """The number of a value. Raises OverflowError if there are too many."""
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self.values)
            if number >= self._most:
                raise OverflowError(f"the search met more than {self._most:,} values of {type(value).__name__}")
            self.values.append(value)
        return number


class Context(NamedTuple):
    """What belongs to both sides."""

    faults: int
    recalled: bool
    histories: Histories


class Choice(NamedTuple):
    """An action, and what becomes of it: numbers of the action, the own side, the frames sent, and the context."""

    action: int
    side: int
    sent: int
    context: int


class Choices(NamedTuple):
    """All actions of a process in some state."""

    choices: tuple[Choice, ...]
    is_busy: bool
    """Something happens without a fault, a recall or the passing of time."""
    broken: tuple[str, str] | None = None
    """The action that breaks a promise, and which."""


class Local:
    """Everything that a search has met of the two sides."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves
        self._sides: tuple[Numbers[Side], Numbers[Side]] = (Numbers(SIDE_BITS), Numbers(SIDE_BITS))
        self._contexts: Numbers[Context] = Numbers(CONTEXT_BITS)
        self._sent: Numbers[tuple[Arrival, ...]] = Numbers(SIDE_BITS)
        self._sent.number(())
        self._actions: Numbers[str] = Numbers(CONTEXT_BITS)
        self._choices: tuple[dict[int, Choices], dict[int, Choices]] = ({}, {})
        self._added: tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]] = ({}, {})
        self.has_arrivals: tuple[list[bool], list[bool]] = ([], [])
        """Whether frames are under way to it, by number of each side."""

    @property
    def actions(self) -> list[str]:
        """Names of actions by their numbers."""
        return self._actions.values

    def pack(self, state: State) -> int:
        """The number of a state."""
        a, b = (self._number(at, side) for at, side in enumerate(state.sides))
        context = self._contexts.number(Context(state.faults, state.recalled, state.histories))
        return join(a, b, context)

    def unpack(self, number: int) -> State:
        """The state of a number."""
        a, b, context = split(number)
        faults, recalled, histories = self._contexts.values[context]
        return State((self._sides[0].values[a], self._sides[1].values[b]), faults, recalled, histories)

    def _number(self, at: int, side: Side) -> int:
        number = self._sides[at].number(side)
        if number == len(self.has_arrivals[at]):
            self.has_arrivals[at].append(bool(side.end.arrivals))
        return number

    def choices(self, at: int, side: int, context: int) -> Choices:
        """What a process may do."""
        key = side << CONTEXT_BITS | context
        known = self._choices[at].get(key)
        if known is None:
            known = self._choices[at][key] = self._find_choices(at, side, context)
        return known

    def _find_choices(self, at: int, side: int, context: int) -> Choices:
        own = self._sides[at].values[side]
        state = State((own, _NOBODY) if at == A else (_NOBODY, own), *self._contexts.values[context])
        choices: list[Choice] = []
        is_busy = False
        for name, act in self._moves.of(state, at):
            is_busy = is_busy or name in _SOON
            try:
                after = act()
            except PromiseBroken as broken:
                return Choices(tuple(choices), is_busy, (name, str(broken)))
            choices.append(
                Choice(
                    self._actions.number(name),
                    self._number(at, after.sides[at]),
                    self._sent.number(after.sides[1 - at].end.arrivals),
                    self._contexts.number(Context(after.faults, after.recalled, after.histories)),
                )
            )
        return Choices(tuple(choices), is_busy)

    def with_arrivals(self, at: int, side: int, sent: int) -> int:
        """The side to which these frames are under way too."""
        known = self._added[at].get((side, sent))
        if known is None:
            own = self._sides[at].values[side]
            arrivals = (*own.end.arrivals, *self._sent.values[sent])
            known = self._number(at, own._replace(end=own.end._replace(arrivals=arrivals)))
            self._added[at][(side, sent)] = known
        return known


def join(a: int, b: int, context: int) -> int:
    """The number of a state, of those of its two sides and of the context."""
    return (a << SIDE_BITS | b) << CONTEXT_BITS | context


def split(number: int) -> tuple[int, int, int]:
    """Numbers of the two sides and of the context, of that of a state."""
    sides = number >> CONTEXT_BITS
    return sides >> SIDE_BITS, sides & _SIDE_MASK, number & _CONTEXT_MASK


_SIDE_MASK = (1 << SIDE_BITS) - 1
_CONTEXT_MASK = (1 << CONTEXT_BITS) - 1
_NOBODY = Side(0, -1, End(False), Budget(0, 0, 0, 0, 0, 0))
"""In place of the other side, of which an action looks at nothing."""
