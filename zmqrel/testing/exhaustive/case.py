"""The small case: what may happen in it, and the state in which nothing has happened yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive import oracle
from zmqrel.testing.exhaustive.oracle import Histories
from zmqrel.testing.exhaustive.process import Death, Process
from zmqrel.testing.exhaustive.steps import Facts, Kind, Steps
from zmqrel.testing.exhaustive.wire import Arrival, Copy, End

A, B = 0, 1
NAMES = "ab"
LATE_US = 10_000
"""The time to live of the last message."""
MOST_ROUNDS = 300
"""Actions without faults after which all must have come to its end."""
SETTLE = "settle"
"""The name of a path without faults to the end."""


class Budget(NamedTuple):
    """What may still go wrong at one process, how often each."""

    drops: int = 1
    """Frames to it that are lost."""
    duplicates: int = 1
    """Frames to it that come twice."""
    reconnects: int = 1
    """How often its connection breaks and is made anew, if it is the dialler."""
    crashes: int = 1
    waits: int = 0
    """How often its clock goes on to its next timer; it is no fault."""
    expiries: int = 1
    """How often its clock goes on to behind the deadline of the last message; likewise."""


class Case(NamedTuple):
    """One small case: `a` sends messages to `b`, whose one worker acknowledges each."""

    messages: int = 2
    """The last one has a time to live."""
    recalled: int = 0
    """The number of the message that is recalled at some time, from 0; -1: none."""
    dialler: int = A
    budgets: tuple[Budget, Budget] = (Budget(), Budget())
    faults: int = 2
    """How many there are at most: drops, duplicates, reconnects and crashes together."""
    connected: bool = True
    """It begins with an open session and nothing under way; else with two processes that have just started."""


class Side(NamedTuple):
    """One process and what belongs to it alone."""

    now_us: int
    process: int
    """Number of its state in Steps."""
    end: End
    budget: Budget


class State(NamedTuple):
    """Everything that makes a difference."""

    sides: tuple[Side, Side]
    faults: int
    recalled: bool
    """The recall was committed."""
    histories: Histories


Action = Callable[..., State]


class Moves:
    """What may happen in a case, and what becomes of it."""

    def __init__(self, case: Case) -> None:
        """Run the case up to its first state."""
        self.case = case
        self.steps = Steps(case.messages)
        self.first = self._first()

    def _first(self) -> State:
        sides = []
        for at in (A, B):
            process = Process(NAMES[at], NAMES[1 - at], at == self.case.dialler, at == B, (at + 10) << 60)
            sides.append(Side(0, self.steps.add(process, 0), End(at == self.case.dialler), self.case.budgets[at]))
        state = State((sides[A], sides[B]), self.case.faults, False, ())
        for at in (1 - self.case.dialler, self.case.dialler):
            state = self._step(state, at, "start")
        while self.case.connected and (arriving := [at for at in (A, B) if state.sides[at].end.arrivals]):
            state = self._receive(state, arriving[0])
        return state

    # ------------------------------------------------------------------------------------------ what may happen

    def all(self, state: State) -> Iterator[tuple[str, Action]]:
        """Every action that is possible, by name."""
        for at in (A, B):
            yield from self.of(state, at)

    def of(self, state: State, at: int) -> Iterator[tuple[str, Action]]:
        """Every possible action of one process."""
        name, side = NAMES[at], state.sides[at]
        facts = self.steps.facts[side.process]
        if not facts.runs:
            yield f"{name}.start", partial(self._step, state, at, "start")
            if side.end.arrivals:
                yield f"{name}.lose", partial(self._lose, state, at)
            return
        if facts.may_take:
            yield f"{name}.take", partial(self._step, state, at, "hand over")
        if facts.may_finish:
            yield f"{name}.finish", partial(self._step, state, at, "finish")
        mortal = state.faults and side.budget.crashes
        for action, turn in self._turns(state, at, side, facts):
            yield f"{name}.{action}", turn
            if mortal:
                yield f"{name}.{action}/before", partial(turn, death="before")
                yield f"{name}.{action}/after", partial(turn, death="after")
        if side.end.arrivals and not side.end.next_is_of_this_connection:
            yield f"{name}.lose", partial(self._lose, state, at)
        if state.faults:
            yield from self._faults(state, at, side)
        if side.budget.expiries and side.now_us <= LATE_US and (at == B or self._all_sent(state)):
            left = side.budget._replace(expiries=side.budget.expiries - 1)
            yield f"{name}.late", partial(_put, state, at, side._replace(now_us=LATE_US + 1, budget=left))

    def _turns(self, state: State, at: int, side: Side, facts: Facts) -> Iterator[tuple[str, Action]]:
        """What has a process do a turn."""
        if side.end.arrivals and not side.end.next_is_lost:
            yield "frame", partial(self._receive, state, at)
        if side.end.copies:
            yield "copy", partial(self._receive_copy, state, at)
        if at == A:
            if not self._all_sent(state):
                yield "send", partial(self._send, state)
            if not state.recalled and 0 <= self.case.recalled < len(state.histories):
                yield "recall", partial(self._recall, state)
        if facts.wake_us is None:
            return
        if facts.wake_us <= side.now_us:
            yield "turn", partial(self._step, state, at, "turn")
        elif side.budget.waits:
            left = side.budget._replace(waits=side.budget.waits - 1)
            later = _put(state, at, side._replace(now_us=facts.wake_us, budget=left))
            yield "wait", partial(self._step, later, at, "turn")

    def _faults(self, state: State, at: int, side: Side) -> Iterator[tuple[str, Action]]:
        name, budget, end = NAMES[at], side.budget, side.end
        state = state._replace(faults=state.faults - 1)
        if end.arrivals and budget.drops and end.next_is_of_this_connection:
            left = side._replace(budget=budget._replace(drops=budget.drops - 1))
            yield f"{name}.drop", partial(self._lose, _put(state, at, left), at)
        if end.arrivals and budget.duplicates and not end.next_is_lost:
            left = side._replace(budget=budget._replace(duplicates=budget.duplicates - 1))
            yield f"{name}.twice", partial(self._receive, _put(state, at, left), at, twice=True)
        if end.dials and end.link and budget.reconnects:
            left = side._replace(budget=budget._replace(reconnects=budget.reconnects - 1), end=end.reconnect())
            yield f"{name}.reconnect", partial(_put, state, at, left)
        if budget.crashes:
            yield f"{name}.crash", partial(self._step, state._replace(faults=state.faults + 1), at, "die")

    def _all_sent(self, state: State) -> bool:
        return len(state.histories) == self.case.messages

    # --------------------------------------------------------------------------------------- what becomes of it

    def _lose(self, state: State, at: int) -> State:
        side = state.sides[at]
        return _put(state, at, side._replace(end=side.end.lose()))

    def _receive(self, state: State, at: int, death: Death = "", twice: bool = False) -> State:
        side = state.sides[at]
        if side.end.next_is_lost:
            return self._lose(state, at)
        copy, end = side.end.receive()
        if twice:
            end = end._replace(copies=(*end.copies, copy))
        return self._take(state, at, side._replace(end=end), copy, death)

    def _receive_copy(self, state: State, at: int, death: Death = "") -> State:
        side = state.sides[at]
        copy, *rest = side.end.copies
        return self._take(state, at, side._replace(end=side.end._replace(copies=tuple(rest))), copy, death)

    def _take(self, state: State, at: int, side: Side, copy: Copy, death: Death) -> State:
        side = side._replace(now_us=max(side.now_us, copy.sent_us))
        return self._step(_put(state, at, side), at, "frame", copy.link, copy.frame, death=death)

    def _send(self, state: State, death: Death = "") -> State:
        last = len(state.histories) == self.case.messages - 1
        return self._step(state, A, "send", LATE_US if last else 0, death=death)

    def _recall(self, state: State, death: Death = "") -> State:
        # Before the step is judged, for it may take effect in it. One that dies before its commit has none.
        return self._step(state._replace(recalled=death != "before"), A, "recall", self.case.recalled, death=death)

    def _step(self, state: State, at: int, kind: Kind, one: int = 0, two: int = 0, *, death: Death = "") -> State:
        """A process takes an input: where its frames go, and what its application makes of it."""
        side = state.sides[at]
        step = self.steps.step(side.process, (kind, side.now_us, death, one, two))
        if step.broken is not None:
            raise PromiseBroken(step.broken)
        facts = self.steps.facts[step.state]
        end, budget, faults, histories = side.end, side.budget, state.faults, state.histories
        sent: list[Arrival] = []
        for done, link, frame in step.done:
            if done == "dial":
                end = end.dial(link)
            elif done == "hang up":
                end = end.hang_up(link)
            elif link == end.link:  # what goes to another link is lost
                sent.append(Arrival(side.now_us, end.connection, frame))
        if step.observed:
            histories = oracle.judge(histories, step.observed, side.now_us)
        if not facts.runs:
            end, budget, faults = end.died(), budget._replace(crashes=budget.crashes - 1), faults - 1
            if at == B:
                histories = oracle.receiver_died(histories)
        elif at == A:
            recalled = self.case.recalled if state.recalled else -1
            histories = oracle.judge_outcomes(histories, facts.outcomes, recalled, side.now_us)
        side = Side(side.now_us, step.state, end, budget)
        other = state.sides[1 - at]
        if sent:
            other = other._replace(end=other.end._replace(arrivals=(*other.end.arrivals, *sent)))
        return State((side, other) if at == A else (other, side), faults, state.recalled, histories)

    # ------------------------------------------------------------------------------------------------- liveness

    @staticmethod
    def without_faults(state: State) -> State:
        """The same state, in which nothing goes wrong any more."""
        a, b = (side._replace(budget=_NOTHING_MORE) for side in state.sides)
        return State((a, b), 0, state.recalled, state.histories)

    def is_over(self, state: State) -> bool:
        """True if every message has its outcome and the stores hold nothing of them."""
        leftovers = any(self.steps.facts[side.process].leftovers for side in state.sides)
        return not leftovers and all(history.outcome for history in state.histories)

    def next_action(self, state: State) -> tuple[str, State]:
        """What happens next if nothing goes wrong any more and everything is done as soon as it can be.

        Raises PromiseBroken, also if nothing will ever happen.
        """
        actions = dict(self.all(state))
        for soon in _SOON:
            for action, act in actions.items():
                if action.endswith(soon):
                    return action, act()
        waking = [(facts.wake_us, at) for at in (A, B) if (facts := self._facts(state, at)).wake_us is not None]
        if not waking:
            raise PromiseBroken("nothing will ever happen any more, though not everything has come to its end")
        wake_us, at = min(waking)
        for late in (A, B):  # time passes for both
            side = state.sides[late]
            state = _put(state, late, side._replace(now_us=max(side.now_us, wake_us or 0)))
        return f"{NAMES[at]}.wait", self._step(state, at, "turn")

    def what_is_left(self, state: State) -> str:
        """What has not come to its end."""
        left = [left for at in (A, B) for left in self._facts(state, at).leftovers]
        ended = [history.outcome or "no outcome" for history in state.histories]
        return f"nothing goes wrong, time passes and not all comes to its end: messages {ended}, left are {left}"

    def _facts(self, state: State, at: int) -> Facts:
        return self.steps.facts[state.sides[at].process]


_SOON = (".start", ".frame", ".lose", ".take", ".finish", ".turn")
"""In the order in which it is done when nothing goes wrong."""


_NOTHING_MORE = Budget(0, 0, 0, 0, 0, 0)


def _put(state: State, at: int, side: Side) -> State:
    return state._replace(sides=(side, state.sides[B]) if at == A else (state.sides[A], side))
