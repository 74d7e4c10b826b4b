"""Each step of one process, run once: (state of the process, input) -> state, frames, what was seen.

A search meets the same state of one process beside thousands of states of the other and of the wire. The core is
deterministic, so what it does there is the same each time: it runs once for each state of its own and each input, from
a copy made of bytes, and every further time the answer is looked up.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from zmqrel.testing.exhaustive import snapshot
from zmqrel.testing.exhaustive.process import Death, Observed, Process

Kind = Literal["start", "die", "turn", "frame", "send", "recall", "hand over", "finish"]
Input = tuple[Kind, int, Death, int, int]
"""Kind, time, whether the process dies in it, and two numbers: link and frame, or what the application says."""


class Step(NamedTuple):
    """What a process does with an input."""

    state: int
    done: tuple[tuple[str, int, int], ...] = ()
    """What it did to its links, the link, and the number of the frame that it sent."""
    observed: tuple[Observed, ...] = ()
    broken: str | None = None
    """What it did that no process may do."""


class Facts(NamedTuple):
    """What a search asks of a state of a process."""

    runs: bool
    wake_us: int | None = None
    """When a turn is due though nothing comes in; it may be in the past."""
    may_take: bool = False
    """The worker is idle and there are rows in the buffer."""
    may_finish: bool = False
    """The handler has a message."""
    outcomes: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()


class Steps:
    """All states of processes that a search has met."""

    def __init__(self, messages: int) -> None:
        """`messages` is how many the application sends."""
        self.facts: list[Facts] = []
        self.runs = 0
        """How often the core ran."""
        self._messages = messages
        self._snapshots: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._known: dict[tuple[int, Input], Step] = {}
        self.frames: list[tuple[bytes, ...]] = []
        self._frame_numbers: dict[tuple[bytes, ...], int] = {}

    def add(self, process: Process, now_us: int) -> int:
        """The number of the state that a process is in."""
        digest = snapshot.digest(process)
        number = self._numbers.get(digest)
        if number is None:
            number = self._numbers[digest] = len(self._snapshots)
            self._snapshots.append(snapshot.take(process))
            self.facts.append(self._facts(process, now_us))
        return number

    def step(self, state: int, what: Input) -> Step:
        """What a process in that state does with an input."""
        known = self._known.get((state, what))
        if known is None:
            known = self._known[(state, what)] = self._run(snapshot.restore(self._snapshots[state]), what)
        return known

    def _run(self, process: Process, what: Input) -> Step:
        self.runs += 1
        try:
            self._feed(process, *what)
            done, observed = process.take_output()
            state = self.add(process, what[1])
        except Exception as error:  # whatever the core raises here, a peer would die of
            return Step(-1, broken=f"{type(error).__name__}: {error}")
        numbered = tuple((what, link, self._number(parts)) for what, link, parts in done)
        return Step(state, numbered, tuple(observed))

    def _number(self, parts: tuple[bytes, ...]) -> int:
        number = self._frame_numbers.setdefault(parts, len(self.frames))
        if number == len(self.frames):
            self.frames.append(parts)
        return number

    def _feed(self, process: Process, kind: Kind, now_us: int, death: Death, one: int, two: int) -> None:
        if kind == "frame":
            process.turn(now_us, death, frame=(one, list(self.frames[two])))
        elif kind == "turn":
            process.turn(now_us, death)
        elif kind == "send":
            process.send_message(now_us, death, one)
        elif kind == "recall":
            process.recall_message(now_us, death, one)
        elif kind == "hand over":
            process.hand_over(now_us)
        elif kind == "finish":
            process.finish()
        elif kind == "die":
            process.die()
        else:
            process.start(now_us)

    def _facts(self, process: Process, now_us: int) -> Facts:
        if process.turns is None:
            return Facts(False)
        buffer = process.buffer
        return Facts(
            True,
            process.wake_us(now_us),
            buffer is not None and process.running is None and len(buffer) > 0,
            process.running is not None,
            process.outcomes(self._messages),
            tuple(process.leftovers()),
        )
