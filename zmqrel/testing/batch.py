"""Many runs of random workloads in several processes: how far they are, what they showed, which failed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic

from zmqrel.testing.case import Case, case
from zmqrel.testing.pace import Pace
from zmqrel.testing.shrinking import report

_SAY_EVERY_S = 10.0
_MOST_SHRUNK = 5
"""More failures than that are written down as they are: they are probably the same ones again."""


@dataclass(slots=True)
class Shown:
    """What runs showed, added up."""

    runs: int = 0
    failed: int = 0
    messages: int = 0
    hand_overs: int = 0
    pace: Pace = field(default_factory=Pace)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, other: Shown) -> None:
        """Add the sums of `other`."""
        for name in ("runs", "failed", "messages", "hand_overs", "pace"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seen.update(other.seen)


@dataclass(slots=True)
class Batch:
    """The sums of a batch, by mix, and the runs that failed."""

    mixes: dict[str, Shown]
    failed: list[Case] = field(default_factory=list)

    @property
    def whole(self) -> Shown:
        """Over all mixes."""
        whole = Shown()
        for shown in self.mixes.values():
            whole.add(shown)
        return whole


def cases(mixes: Sequence[str], first: int, seeds: int, steps: int | None) -> Iterator[Case]:
    """So many runs, of the mixes in turn."""
    for at in range(seeds):
        yield case(first + at // len(mixes), mixes[at % len(mixes)], steps)


def one(a_case: Case) -> Shown:
    """Run it, in whatever process this is called."""
    workload = a_case.workload()
    shown = Shown(runs=1)
    try:
        workload.run()
        shown.seen = workload.seen()
    except Exception:
        shown.failed = 1
        workload.pace.ends(workload.network.now)
    shown.messages, shown.hand_overs = len(workload.checker.histories), workload.checker.hand_overs
    shown.pace = workload.pace
    return shown


def run_batch(todo: Iterator[Case], count: int, jobs: int, batch: Batch, say: Callable[[str], None]) -> None:
    """Run `count` cases in so many processes, adding to `batch` as they end, so that it holds them if interrupted."""
    progress = _Progress(count, say)
    with ProcessPoolExecutor(jobs) as pool:
        running: dict[Future[Shown], Case] = {pool.submit(one, a): a for a in islice(todo, 2 * jobs)}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    a_case, shown = running.pop(future), future.result()
                    batch.mixes[a_case.mix].add(shown)
                    if shown.failed:
                        batch.failed.append(a_case)
                        say(f"FAILED: {a_case.command}")
                    progress.count(shown)
                    running |= {pool.submit(one, a): a for a in islice(todo, 1)}
        except KeyboardInterrupt:
            for future in running:
                future.cancel()
            raise


class _Progress:
    """Says now and then how far a batch is."""

    def __init__(self, count: int, say: Callable[[str], None]) -> None:
        self._total, self._say = count, say
        self._runs = self._failed = 0
        self._begun = self._said = monotonic()

    def count(self, shown: Shown) -> None:
        self._runs += shown.runs
        self._failed += shown.failed
        now = monotonic()
        if now - self._said < _SAY_EVERY_S:
            return
        self._said = now
        rate = self._runs / (now - self._begun)
        left_s = (self._total - self._runs) / rate
        said = f"{self._runs} of {self._total} runs, {self._failed} failed, {rate:.1f}/s"
        self._say(f"{said}, {left_s / 60:.0f} min {left_s % 60:.0f} s left")


def explain(batch: Batch, path: Path) -> None:
    """Shrink what failed and write it to the end of a file; also to stderr."""
    with path.open("a", encoding="utf-8") as file:
        for at, a_case in enumerate(batch.failed):
            said = f"seed {a_case.seed} of {a_case.mix!r} fails: {a_case.command}"
            if at < _MOST_SHRUNK:
                said = report(a_case, lambda line: print(f"  shrinking: {line}", file=sys.stderr)) or said
            print(f"\n{said}", file=sys.stderr)
            print(f"{said}\n", file=file, flush=True)
