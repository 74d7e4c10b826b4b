"""One run of a random workload, whole or with parts left out: how it is written down, and had again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

from zmqrel.testing.mixes import MIXES, with_steps
from zmqrel.testing.workload import Workload


@dataclass(frozen=True, slots=True)
class Case:
    """A run: the same each time."""

    mix: str
    seed: int
    steps: int
    kept: tuple[str, ...] | None = None
    """The parts that it consists of, None for all; see Workload.parts."""

    def workload(self) -> Workload:
        """The run, not begun."""
        return Workload(self.seed, with_steps(MIXES[self.mix], self.steps), self.kept)

    @property
    def command(self) -> str:
        """What has it again, with a trace."""
        only = "" if self.kept is None else f" --only {shlex.quote(written(self.kept))}"
        steps = "" if self.steps == MIXES[self.mix].steps else f" --steps {self.steps}"
        return f"python -m zmqrel.testing {shlex.quote(self.mix)} --replay {self.seed}{steps}{only}"

    def of(self, kept: Iterable[str]) -> Case:
        """The same of these parts only."""
        return replace(self, kept=tuple(kept))


def case(seed: int, mix: str, steps: int | None = None) -> Case:
    """The whole run with that seed of the workload of that name, for so many steps or as many as its mix says."""
    return Case(mix, seed, with_steps(MIXES[mix], steps).steps)


def written(parts: Iterable[str]) -> str:
    """Parts in short: ["loss", "3:send0", "3:crash"] is "loss 3:send0,crash"."""
    steps: dict[str, list[str]] = {}
    words = []
    for part in parts:
        step, colon, name = part.partition(":")
        if colon:
            steps.setdefault(step, []).append(name)
        else:
            words.append(part)
    return " ".join([*words, *(f"{step}:{','.join(names)}" for step, names in steps.items())])


def parts_of(text: str) -> tuple[str, ...]:
    """What `written` wrote. Raises ValueError naming what makes no sense."""
    parts: list[str] = []
    for word in text.split():
        step, colon, names = word.partition(":")
        if colon and not (step.isdigit() and names):
            raise ValueError(f"{word!r} is not a part of a run: a word, or STEP:ACTION,ACTION,...")
        parts += [f"{step}:{name}" for name in names.split(",")] if colon else [word]
    return tuple(parts)


def run(seed: int, mix: str, steps: int | None = None) -> Workload:
    """Run the workload of that name with that seed, for so many steps or as many as its mix says.

    Raises PromiseBroken, or whatever a peer raised, with a line that says how to run it again.
    """
    described = case(seed, mix, steps)
    workload = described.workload()
    try:
        workload.run()
    except Exception as error:
        error.args = (f"{error}\nseed {seed} of {mix!r}, step {workload.step}; again: {described.command}",)
        raise
    return workload
