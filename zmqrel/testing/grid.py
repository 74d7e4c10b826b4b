"""Distributions of time on a grid: masses at equally spaced ticks, and what a wait does to them.

A point of time between two ticks is shared by both so that the mean stays what it is. A wait is a mixture of pieces,
each drawn evenly between two times: that is what every Retry, every jitter and every simulated delay is made of, and an
even draw costs a few passes over the ticks however long it is. Plain lists: so few ticks need no array library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from math import ceil, floor
from operator import add, mul
from typing import NamedTuple

from zmqrel.retry import Rng

Masses = list[float]
"""Mass at tick 0, 1, ... What lies behind the last tick is left out."""

_STRATA = 64
_STRATA_OF_TWO = 16
"""Parts into which a draw is cut, and the first of two draws."""


class Piece(NamedTuple):
    """With this weight the wait is drawn evenly from `low_s` to `high_s`; if they are equal, it is that long."""

    weight: float
    low_s: float
    high_s: float


Wait = tuple[Piece, ...]
"""Pieces whose weights add up to 1, or to less where the rest never comes."""


def fixed(seconds: float) -> Wait:
    """A wait without chance."""
    return (Piece(1.0, seconds, seconds),)


def after(wait: Wait, seconds: float) -> Wait:
    """The same wait, so much longer."""
    return tuple(Piece(weight, low_s + seconds, high_s + seconds) for weight, low_s, high_s in wait)


def mean_s(wait: Wait) -> float:
    """Its mean, of a wait that always comes."""
    return sum(weight * (low_s + high_s) / 2 for weight, low_s, high_s in wait)


def share_above(wait: Wait, seconds: float) -> float:
    """Which part of what comes at all takes longer than that."""
    above = 0.0
    for weight, low_s, high_s in wait:
        if seconds < low_s:
            above += weight
        elif seconds < high_s:
            above += weight * (high_s - seconds) / (high_s - low_s)
    return above / (sum(piece.weight for piece in wait) or 1.0)


def divided(wait: Wait, parts: int) -> Wait:
    """The same wait, of smaller pieces."""
    return tuple(
        Piece(weight / parts, low_s + (high_s - low_s) * at / parts, low_s + (high_s - low_s) * (at + 1) / parts)
        for weight, low_s, high_s in wait
        for at in range(parts)
    )


class _Draws:
    """A generator whose numbers are said beforehand; it counts how many were wanted."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = numbers
        self.drawn = 0

    def random(self) -> float:
        self.drawn += 1
        return self._numbers[self.drawn - 1]


def distribution(wait_s: Callable[[Rng], float | None]) -> Wait:
    """The distribution of what `wait_s` returns, asked with chosen numbers instead of drawn ones; None never comes.

    Of one number it must be a straight line but for a kink, of two also straight in the second for each first: as the
    waits of a Retry are. A kink is met within a 64th, the first of two numbers within a 16th.
    """
    if max(_draws_of(wait_s, first) for first in (0.0, 0.5, 1.0)) == 2:
        middles = [(at + 0.5) / _STRATA_OF_TWO for at in range(_STRATA_OF_TWO)]
        ends_of_two = [(wait_s(_Draws(first, 0.0)), wait_s(_Draws(first, 1.0))) for first in middles]
        return _pieces(ends_of_two, _STRATA_OF_TWO)
    ends = [wait_s(_Draws(at / _STRATA)) for at in range(_STRATA + 1)]
    low_s, high_s = ends[0], ends[-1]
    if low_s is not None and high_s is not None:
        straight = low_s + (high_s - low_s) / 2
        middle_s = ends[_STRATA // 2]
        if middle_s is not None and abs(middle_s - straight) < 1e-6 * (1 + straight):
            return (Piece(1.0, low_s, high_s),)
    return _pieces(pairwise(ends), _STRATA)


def _draws_of(wait_s: Callable[[Rng], float | None], first: float) -> int:
    draws = _Draws(first, 0.5)
    wait_s(draws)
    return draws.drawn


def _pieces(ends: Iterable[tuple[float | None, float | None]], parts: int) -> Wait:
    return tuple(
        Piece(1 / parts, low_s, low_s if high_s is None else high_s) for low_s, high_s in ends if low_s is not None
    )


class Grid:
    """Ticks 0 to `last`, `tick_s` seconds apart."""

    def __init__(self, horizon_s: float, ticks: int) -> None:
        self.last = ticks
        self.tick_s = horizon_s / ticks

    @property
    def horizon_s(self) -> float:
        """When the last tick is."""
        return self.last * self.tick_s

    def zero(self) -> Masses:
        """No mass anywhere."""
        return [0.0] * (self.last + 1)

    def at(self, seconds: float) -> Masses:
        """All of the mass at one time."""
        masses = [0.0] * (self.last + 1)
        masses[0] = 1.0
        return self.later(masses, fixed(seconds))

    def later(self, masses: Masses, wait: Wait) -> Masses:
        """Each mass as much later as the wait says."""
        total = [0.0] * len(masses)
        sums: Masses | None = None
        for weight, low_s, high_s in wait:
            if high_s - low_s > 4 * self.tick_s and sums is None:
                sums = list(accumulate(masses, initial=0.0))
            total = list(map(add, total, self._drawn(masses, sums or [], weight, low_s, high_s)))
        return total

    def _drawn(self, masses: Masses, sums: Masses, weight: float, low_s: float, high_s: float) -> Masses:
        low, high = low_s / self.tick_s, high_s / self.tick_s
        size = len(masses)
        total = [0.0] * size
        first, last = floor(low), ceil(high)
        if first >= size:
            return total
        edges: Iterable[int] = range(first, last + 1)
        if high - low > 4:
            # Between the edges every tick gets the same: a difference of two running sums.
            inner_first, inner_last = first + 2, last - 2
            edges = (first, first + 1, last - 1, last)
            share = weight / (high - low)
            upper = sums[1 : max(1, size - inner_first + 1)]
            lower = [0.0] * (inner_last - inner_first + 1) + sums[1:]
            inner = [share * (more - less) for more, less in zip(upper, lower, strict=False)]
            total[inner_first:] = inner
        for shift in edges:
            share = weight * _share(shift, low, high)
            if share > 0 and shift < size:
                total[shift:] = [old + share * mass for old, mass in zip(total[shift:], masses, strict=False)]
        return total

    def until(self, masses: Masses, end_s: float) -> Masses:
        """What comes up to that time. A tick stands for the time around it: the last one is cut where that falls."""
        ticks = end_s / self.tick_s
        last = floor(ticks + 0.5)
        if last > self.last:
            return masses
        kept = masses[: last + 1] + [0.0] * (self.last - last)
        kept[last] *= min(1.0, ticks + 0.5 - last)
        return kept

    def room(self, sums: Masses, end_s: float | None) -> Masses:
        """For each tick how much of the mass with these running sums comes at least so long before that time."""
        last = self.last if end_s is None else min(self.last, floor(end_s / self.tick_s + 0.5))
        if end_s is None:
            return [sums[-1]] * (self.last + 1)
        return sums[last::-1] + [0.0] * (self.last - last)


def _share(tick: int, low: float, high: float) -> float:
    """What a tick gets of an even draw from `low` to `high`, in ticks, that is shared between neighbours."""
    if high - low < 1e-9:
        return max(0.0, 1 - abs(low - tick))
    return (_ramp(high - tick) - _ramp(low - tick)) / (high - low)


def _ramp(x: float) -> float:
    if x <= -1:
        return 0.0
    if x >= 1:
        return 1.0
    return (x + 1) * (x + 1) / 2 if x < 0 else 1 - (1 - x) * (1 - x) / 2


def scaled(masses: Masses, factor: float) -> Masses:
    """Every mass times the factor."""
    return [factor * mass for mass in masses]


def summed(one: Masses, other: Masses) -> Masses:
    """Mass by mass."""
    return list(map(add, one, other))


def weighed(masses: Masses, weights: Masses) -> float:
    """The sum of each mass times its weight."""
    return float(sum(map(mul, masses, weights)))
