"""Retry: how long to wait after a failed attempt, and when to stop. A value and pure functions of it.

It keeps no count and reads no clock: whoever asks names the attempt and brings the random generator, so that
one policy serves handlers, the wire and a simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias, get_args

from zmqrel.checks import Duration, number, one_of, whole
from zmqrel.errors import LONGEST_S, duration_s

Kind: TypeAlias = Literal["fixed", "linear", "exponential", "random"]
AtMax: TypeAlias = Literal["cap", "stop"]
Jitter: TypeAlias = Literal["none", "full", "equal"]

# Counts beyond it change no wait, and stay exact as floats.
_MOST_RETRIES = 2**53


class Rng(Protocol):
    """What a Retry needs of a random generator; `random.Random` has it."""

    def random(self) -> float:
        """A number from 0 up to, not including, 1."""


class _Middle:
    """Stands in for a generator where no chance is wanted."""

    def random(self) -> float:
        return 0.5


@dataclass(frozen=True, slots=True)
class Retry:
    """A policy of waits. Make one with `fixed`, `linear`, `exponential` or `random`.

    With n the number of retries already made (0 before the first), the wait in seconds is

    - fixed: `base`
    - linear: `base + n * growth`
    - exponential: `base * growth ** n`
    - random: `base + n * growth * U`, with U drawn evenly from [0, 1)

    Durations are seconds or a timedelta, kept as float. All four take these, by keyword:

    - `max_interval`: the longest wait before jitter. A wait above it becomes `max_interval` with
      `at_max_interval="cap"` and ends the retries with `"stop"`. Without it waits are cut at a century.
    - `max_attempts`: how many attempts there may be in all, the first one included.
    - `max_elapsed`: no retry begins later than so many seconds after the first attempt.
    - `jitter`: "full" draws the wait evenly from [0, wait), "equal" from [wait / 2, wait), "none" leaves it.

    A wrong type or value raises ConfigError naming the parameter and what it takes.
    """

    kind: Kind
    base: float
    growth: float = 0.0
    max_interval: float | None = None
    at_max_interval: AtMax = "cap"
    max_attempts: int | None = None
    max_elapsed: float | None = None
    jitter: Jitter = "none"

    def __post_init__(self) -> None:
        one_of("kind", self.kind, get_args(Kind))
        one_of("at_max_interval", self.at_max_interval, get_args(AtMax))
        one_of("jitter", self.jitter, get_args(Jitter))
        if self.max_attempts is not None:
            whole("max_attempts", self.max_attempts, 1)
        growth = _factor if self.kind == "exponential" else duration_s
        numbers = {
            "base": duration_s("base", self.base),
            "growth": growth("growth", self.growth),
            "max_interval": _optional_s("max_interval", self.max_interval),
            "max_elapsed": _optional_s("max_elapsed", self.max_elapsed),
        }
        for field, value in numbers.items():
            object.__setattr__(self, field, value)

    @classmethod
    def fixed(
        cls,
        delay: Duration,
        *,
        max_interval: Duration | None = None,
        at_max_interval: AtMax = "cap",
        max_attempts: int | None = None,
        max_elapsed: Duration | None = None,
        jitter: Jitter = "none",
    ) -> Retry:
        """Wait `delay` seconds each time."""
        longest, last = _optional_s("max_interval", max_interval), _optional_s("max_elapsed", max_elapsed)
        base = duration_s("delay", delay)
        return cls("fixed", base, 0.0, longest, at_max_interval, max_attempts, last, jitter)

    @classmethod
    def linear(
        cls,
        base: Duration,
        step: Duration,
        *,
        max_interval: Duration | None = None,
        at_max_interval: AtMax = "cap",
        max_attempts: int | None = None,
        max_elapsed: Duration | None = None,
        jitter: Jitter = "none",
    ) -> Retry:
        """Wait `base` seconds, then `step` seconds more each time."""
        longest, last = _optional_s("max_interval", max_interval), _optional_s("max_elapsed", max_elapsed)
        first, growth = duration_s("base", base), duration_s("step", step)
        return cls("linear", first, growth, longest, at_max_interval, max_attempts, last, jitter)

    @classmethod
    def exponential(
        cls,
        base: Duration,
        factor: float = 2,
        *,
        max_interval: Duration | None = None,
        at_max_interval: AtMax = "cap",
        max_attempts: int | None = None,
        max_elapsed: Duration | None = None,
        jitter: Jitter = "none",
    ) -> Retry:
        """Wait `base` seconds, then each time `factor` times as long; `factor` is a number of at least 1."""
        longest, last = _optional_s("max_interval", max_interval), _optional_s("max_elapsed", max_elapsed)
        first, growth = duration_s("base", base), _factor("factor", factor)
        return cls("exponential", first, growth, longest, at_max_interval, max_attempts, last, jitter)

    @classmethod
    def random(
        cls,
        base: Duration,
        spread: Duration,
        *,
        max_interval: Duration | None = None,
        at_max_interval: AtMax = "cap",
        max_attempts: int | None = None,
        max_elapsed: Duration | None = None,
        jitter: Jitter = "none",
    ) -> Retry:
        """Wait `base` seconds and up to `spread` seconds more per retry already made, by chance."""
        longest, last = _optional_s("max_interval", max_interval), _optional_s("max_elapsed", max_elapsed)
        first, growth = duration_s("base", base), duration_s("spread", spread)
        return cls("random", first, growth, longest, at_max_interval, max_attempts, last, jitter)

    def delay(self, attempt: int, rng: Rng, elapsed: float = 0.0) -> float | None:
        """Seconds to wait after attempt `attempt` (the first is 1) failed; None if it was the last.

        `elapsed` is the seconds since the first attempt, for `max_elapsed`. Raises ConfigError unless
        `attempt` is a whole number of at least 1 and `elapsed` a number.
        """
        whole("attempt", attempt, 1)
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        wait = self._wait(min(attempt - 1, _MOST_RETRIES), rng)
        if self.max_interval is not None and wait > self.max_interval:
            if self.at_max_interval == "stop":
                return None
            wait = self.max_interval
        wait = self._jittered(wait, rng)
        return None if self._is_too_late(elapsed, wait) else wait

    def schedule(self, k: int) -> list[float]:
        """The first `k` waits in seconds, without jitter and as if attempts took no time; fewer if it stops.

        Of `random` it lists the middle: U is taken as 1/2. Raises ConfigError if `k` is not a whole number of
        at least 0.
        """
        plain, middle = replace(self, jitter="none"), _Middle()
        waits: list[float] = []
        elapsed = 0.0
        for attempt in range(1, whole("k", k, 0) + 1):
            wait = plain.delay(attempt, middle, elapsed)
            if wait is None:
                break
            waits.append(wait)
            elapsed += wait
        return waits

    def _wait(self, n: int, rng: Rng) -> float:
        try:
            grown = self._grown(n, rng)
        except OverflowError:
            return LONGEST_S
        return min(grown, LONGEST_S)

    def _grown(self, n: int, rng: Rng) -> float:
        if self.kind == "linear":
            return self.base + n * self.growth
        if self.kind == "random":
            return self.base + n * self.growth * rng.random()
        if self.kind == "exponential" and self.base > 0:
            return float(self.base * self.growth**n)
        return self.base

    def _is_too_late(self, elapsed: float, wait: float) -> bool:
        since_first = number("elapsed", elapsed, -math.inf, math.inf)
        return self.max_elapsed is not None and since_first + wait > self.max_elapsed

    def _jittered(self, wait: float, rng: Rng) -> float:
        if self.jitter == "full":
            return wait * rng.random()
        if self.jitter == "equal":
            return wait / 2 + wait / 2 * rng.random()
        return wait


def _optional_s(parameter: str, value: Duration | None) -> float | None:
    return None if value is None else duration_s(parameter, value)


def _factor(parameter: str, value: float) -> float:
    return number(parameter, value, 1, 1e9)
