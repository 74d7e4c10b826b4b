"""What is to be reached, as ratios within one run: the same on a slow machine as on a fast one, or nearly so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zmqrel.bench.measure import Result

Results = Mapping[str, Result]


@dataclass(frozen=True, slots=True)
class Target:
    """`ratio(results)` is None if a part was not measured; otherwise it is to be `required`, better `aim`."""

    title: str
    ratio: Callable[[Results], float | None]
    required: float
    aim: float
    more_is_better: bool = True
    unit: str = ""

    def met(self, ratio: float, wanted: float) -> bool:
        """Whether a figure is as good as wanted."""
        return ratio >= wanted if self.more_is_better else ratio <= wanted


def _median(results: Results, case: str, contestant: str, figure: str | None = None) -> float | None:
    result = results.get(case)
    return None if result is None else result.median(contestant, figure)


def _share(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _of_plain(kind: str, case: str = "stream-100", figure: str = "per second") -> Callable[[Results], float | None]:
    return lambda results: _share(
        _median(results, case, f"zmqrel {kind}", figure), _median(results, case, "plain", figure)
    )


def _of_best_broker(results: Results) -> float | None:
    result = results.get("stream-100")
    if result is None:
        return None
    ours = {"plain", "acknowledged", *(name for name in result.samples if name.startswith("zmqrel"))}
    rates = [result.median(name) for name in result.samples if name not in ours]
    return _share(result.median("zmqrel fsync"), max((rate for rate in rates if rate is not None), default=None))


def _single_fsync(results: Results) -> float | None:
    trip, commit = (_median(results, "single", name) for name in ("plain round trip", "one commit"))
    if trip is None or commit is None:
        return None
    return _share(_median(results, "single", "zmqrel fsync"), trip + 2 * commit)


def _single_memory(results: Results) -> float | None:
    return _share(_median(results, "single", "zmqrel memory"), _median(results, "single", "plain round trip"))


def _threads(results: Results) -> float | None:
    rates = (_median(results, "threads-fsync", f"{number} threads") for number in (16, 1))
    return _share(*rates)


def _two(results: Results, case: str, figure: str) -> tuple[float | None, float | None]:
    """A figure of the first and of the last contestant of a case: a small size and a large one."""
    result = results.get(case)
    if result is None or len(result.samples) < 2:
        return None, None
    names = list(result.samples)
    return result.median(names[0], figure), result.median(names[-1], figure)


def _more_memory(results: Results) -> float | None:
    small, large = _two(results, "backlog", "private MB")
    return None if small is None or large is None else large - small


def _drain(results: Results) -> float | None:
    return _share(_two(results, "backlog", "last per second")[1], _two(results, "backlog", "first per second")[1])


def _open_s(results: Results) -> float | None:
    return _two(results, "backlog", "open s")[1]


def _blocked(results: Results) -> float | None:
    small, large = _two(results, "blocked", "per second")
    return _share(large, small)


def _idle(figure: str) -> Callable[[Results], float | None]:
    return lambda results: next(
        (results["idle"].median(name, figure) for name in results["idle"].samples) if "idle" in results else iter(()),
        None,
    )


def _recall_ms(results: Results) -> float | None:
    slowest = _two(results, "recall", "p99 us")[1]
    return None if slowest is None else slowest / 1000


TARGETS = (
    Target("one-way, 100 B, fsync, of the plain loop", _of_plain("fsync"), 1.0, 2.0),
    Target("one-way, 100 B, relaxed, of the plain loop", _of_plain("relaxed"), 1.5, 3.0),
    Target("one-way, 100 B, fsync, of the best broker", _of_best_broker, 4.0, 10.0),
    Target("one at a time, fsync, p50, of (round trip + 2 commits)", _single_fsync, 1.5, 1.2, more_is_better=False),
    Target("one at a time, in memory, p50, of the round trip", _single_memory, 5.0, 3.0, more_is_better=False),
    Target("16 threads of blocking send, fsync, of one", _threads, 6.0, 10.0),
    Target(
        "1 MB bodies, fsync, bytes/s, of the plain loop",
        _of_plain("fsync", "stream-1000000", "bytes per second"),
        0.5,
        0.8,
    ),
    Target("memory with the large backlog, more than with the small", _more_memory, 10, 2, False, "MB"),
    Target("opening the store with the large backlog", _open_s, 1, 0.2, False, "s"),
    Target("draining: rate of the last tenth, of the first", _drain, 0.9, 1.0),
    Target("other keys beside the blocked one, of none blocked", _blocked, 0.9, 1.0),
    Target("recall out of the large inbox, p99", _recall_ms, 20, 5, False, "ms"),
    Target("idle peers: processor", _idle("cpu percent"), 2, 0.5, False, "%"),
    Target("idle peers: memory per peer", _idle("kB per peer"), 40, 15, False, "kB"),
)
