"""From a run that fails to a small one that fails in the same way, by leaving out parts of it (delta debugging)."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import process_time

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.case import Case
from zmqrel.testing.trace import Trace

_MOST_RUNS = 400
_MOST_S = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """How a run failed."""

    case: Case
    error: Exception
    kind: str
    """The same for failures that are probably for the same reason."""
    parts: list[str]
    """What it consisted of until then."""
    step: int
    trace: Trace


def attempt(case: Case) -> Failure | None:
    """Run it; None if it goes well."""
    workload = case.workload()
    trace = Trace(workload.network)
    try:
        workload.run()
    except Exception as error:
        return Failure(case, error, kind_of(error), workload.parts, workload.step, trace)
    return None


def kind_of(error: Exception) -> str:
    """What went wrong, without numbers and names: of a broken promise its text, else where it was raised."""
    if isinstance(error, PromiseBroken):
        line = str(error).partition("\n")[0].partition(": ")[2]
        line = re.sub(r"message '.*?'", "message", line)
        return re.sub(r"\b(Outcome\.)?[A-Z]{6,}\b|[0-9a-f]{16}|\d+(\.\d+)?", "#", re.sub(r"[\[{(].*", "", line))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.filename}, {frame.name}"


@dataclass(slots=True)
class Shrinking:
    """The search for a small run, bounded in runs and seconds of a core. `say` is told how it goes."""

    failure: Failure
    say: Callable[[str], None]
    most_s: float = _MOST_S
    runs: int = 0
    _until: float = 0.0

    def smallest(self) -> Failure:
        """The smallest run found that fails in the same way."""
        self._until = process_time() + self.most_s
        found = self.failure
        # What was not reached, and one action of each kind after another, cannot have been the reason.
        found = self._try(found, found.parts, found.step + 1) or found
        size = max(1, len(found.parts) // 2)
        while self._may_go_on():
            smaller = self._without_each(found, size)
            if size == 1 and smaller is found:
                break
            found, size = smaller, max(1, min(size // 2, len(smaller.parts) // 2))
        last = max((int(part.partition(":")[0]) for part in found.parts if ":" in part), default=0)
        return self._try(found, found.parts, last + 1) or found

    def _may_go_on(self) -> bool:
        return self.runs < _MOST_RUNS and process_time() < self._until

    def _without_each(self, found: Failure, size: int) -> Failure:
        """Leave out so many neighbouring parts at a time, the last ones first."""
        at = len(found.parts)
        while at > 0 and self._may_go_on():
            first = max(0, at - size)
            smaller = self._try(found, found.parts[:first] + found.parts[at:], found.case.steps)
            found = smaller or found
            at = min(first, len(found.parts))
        return found

    def _try(self, found: Failure, parts: list[str], steps: int) -> Failure | None:
        self.runs += 1
        failure = attempt(replace(found.case.of(parts), steps=steps))
        if failure is None or failure.kind != found.kind:
            return None
        self.say(f"{self.runs} runs: {len(failure.parts)} parts are left")
        return failure


def report(case: Case, say: Callable[[str], None], most_s: float = _MOST_S) -> str | None:
    """Run it; if it fails, what fails and how to see it again, in the smallest run found; None if it goes well."""
    whole = attempt(case)
    if whole is None:
        return None
    shrinking = Shrinking(whole, say, most_s)
    small = shrinking.smallest()
    parts = f"{len(small.parts)} of {len(whole.parts)} parts are left after {shrinking.runs} runs"
    return "\n".join(
        [
            f"seed {case.seed} of {case.mix!r} fails: {first_line(whole.error)}",
            f"the whole run: {case.command}",
            f"a small one:   {small.case.command}",
            f"({parts})",
            "",
            small.trace.written(small.error),
        ]
    )


def first_line(error: Exception) -> str:
    """What went wrong, without details."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
