"""Rounds of a case: every contestant in turn, so that what else the machine does meets all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

Sample = dict[str, float]
"""Figures of one run, by name; the names are those of `UNITS`."""

UNITS = {
    "per second": "messages a second, each counted when its end is known",
    "bytes per second": "likewise, bytes of bodies",
    "sender us": "processor time of the sending process per message, microseconds, without its start",
    "receiver us": "likewise of the receiving process, or of the broker's consumer",
    "both us": "the two together",
    "p50 us": "median of what one takes, microseconds",
    "p99 us": "99 of 100 take no longer",
    "p99.9 us": "999 of 1,000 take no longer",
    "open s": "seconds until a peer with this store has started",
    "private MB": "memory of the process that is not a file's (RssAnon)",
    "resident MB": "likewise with the pages of files that lie in memory (VmRSS)",
    "first per second": "rate of the first tenth",
    "last per second": "rate of the last tenth",
    "cpu percent": "of one core",
    "times real time": "virtual seconds in one second of a core",
    "kB per peer": "memory per connected peer, not a file's",
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who runs: `run(place)` with an empty directory gives a Sample; `missing` says what it lacks here."""

    name: str
    run: Callable[[Path], Sample]
    missing: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: its contestants, the figure that counts, and to whom the others are compared."""

    name: str
    title: str
    figure: str
    contestants: tuple[Contestant, ...]
    baseline: str | None = None
    rounds: int | None = None
    """Fewer than elsewhere, for what takes minutes."""


@dataclass(slots=True)
class Result:
    """All samples of a case, by contestant; and who was not there, with the reason."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def values(self, contestant: str, figure: str | None = None) -> list[float]:
        """One figure in all rounds; empty if there is none."""
        name = figure or self.case.figure
        return [sample[name] for sample in self.samples.get(contestant, []) if name in sample]

    def median(self, contestant: str, figure: str | None = None) -> float | None:
        """The median of a figure over the rounds; None if there is none."""
        values = self.values(contestant, figure)
        return statistics.median(values) if values else None


def percentiles_us(taken_s: list[float]) -> Sample:
    """What single ones took, the first tenth left out: it warms up."""
    ordered = sorted(taken_s[len(taken_s) // 10 :])

    def at(share: float) -> float:
        return 1e6 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"p50 us": at(0.5), "p99 us": at(0.99), "p99.9 us": at(0.999)}


def measure(case: Case, rounds: int, progress: Callable[[str], None]) -> Result:
    """Run every contestant of a case `rounds` times, in turn; `progress` is told before each run."""
    result = Result(case)
    present = []
    for contestant in case.contestants:
        reason = contestant.missing()
        if reason is None:
            present.append(contestant)
            result.samples[contestant.name] = []
        else:
            result.missing[contestant.name] = reason
    rounds = min(rounds, case.rounds or rounds)
    for number in range(rounds):
        for contestant in present:
            progress(f"{case.title}: {contestant.name}, round {number + 1} of {rounds}")
            with TemporaryDirectory(prefix="zmqrel-bench-") as place:
                result.samples[contestant.name].append(contestant.run(Path(place)))
    return result
