"""Retry: its waits by the formulas of the documentation, its bounds, when it stops, and what it refuses."""

from __future__ import annotations

import pickle
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqrel.errors import LONGEST_S, ConfigError
from zmqrel.retry import Retry


class Highest:
    """A generator of the largest number below 1."""

    def random(self) -> float:
        return 1 - 2**-53


class Lowest:
    def random(self) -> float:
        return 0.0


seconds = st.floats(0, 1e6)
attempts = st.integers(1, 2_000)
rngs = st.builds(Random, st.integers(0, 2**32))
shared = st.fixed_dictionaries(
    {},
    optional={
        "max_interval": seconds,
        "at_max_interval": st.sampled_from(["cap", "stop"]),
        "max_attempts": st.integers(1, 50),
        "max_elapsed": seconds,
        "jitter": st.sampled_from(["none", "full", "equal"]),
    },
)
steady = st.one_of(
    st.builds(Retry.fixed, seconds),
    st.builds(Retry.linear, seconds, seconds),
    st.builds(Retry.exponential, seconds, st.floats(1, 1e9)),
)
shapes = st.one_of(
    st.tuples(st.just(Retry.fixed), st.tuples(seconds)),
    st.tuples(st.just(Retry.linear), st.tuples(seconds, seconds)),
    st.tuples(st.just(Retry.exponential), st.tuples(seconds, st.floats(1, 1e9))),
    st.tuples(st.just(Retry.random), st.tuples(seconds, seconds)),
)
policies = st.builds(lambda shape, options: shape[0](*shape[1], **options), shapes, shared)


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        (Retry.fixed(3), [3, 3, 3, 3]),
        (Retry.linear(1, 2), [1, 3, 5, 7]),
        (Retry.exponential(0.5), [0.5, 1, 2, 4]),
        (Retry.exponential(1, 10), [1, 10, 100, 1000]),
        (Retry.random(2, 4), [2, 4, 6, 8]),
        (Retry.exponential(1, max_interval=4), [1, 2, 4, 4]),
        (Retry.exponential(1, max_interval=4, at_max_interval="stop"), [1, 2, 4]),
        (Retry.exponential(1, max_interval=3, at_max_interval="stop"), [1, 2]),
        (Retry.fixed(5, max_interval=2, at_max_interval="stop"), []),
        (Retry.fixed(5, max_interval=2), [2, 2, 2, 2]),
        (Retry.fixed(1, max_attempts=3), [1, 1]),
        (Retry.fixed(1, max_attempts=1), []),
        (Retry.linear(1, 1, max_elapsed=6), [1, 2, 3]),
        (Retry.linear(1, 1, max_elapsed=5.9), [1, 2]),
        (Retry.fixed(0, max_elapsed=0), [0, 0, 0, 0]),
        (Retry.exponential(0), [0, 0, 0, 0]),
    ],
)
def test_schedule_follows_the_formulas(retry: Retry, waits: list[float]) -> None:
    assert retry.schedule(4) == waits


def test_random_draws_between_base_and_base_plus_spread_per_retry() -> None:
    retry = Retry.random(2, 4)
    assert [retry.delay(attempt, Lowest()) for attempt in (1, 2, 3)] == [2, 2, 2]
    assert [retry.delay(attempt, Highest()) for attempt in (1, 2, 3)] == pytest.approx([2, 6, 10])


@pytest.mark.parametrize(("jitter", "lowest", "highest"), [("none", 8, 8), ("full", 0, 8), ("equal", 4, 8)])
def test_jitter_draws_below_the_wait(jitter: Any, lowest: float, highest: float) -> None:
    retry = Retry.fixed(8, jitter=jitter)
    assert retry.delay(1, Lowest()) == lowest
    assert retry.delay(1, Highest()) == pytest.approx(highest)
    assert retry.schedule(2) == [8, 8]


@given(policies, attempts, rngs, seconds)
def test_a_wait_is_within_every_limit(retry: Retry, attempt: int, rng: Random, elapsed: float) -> None:
    wait = retry.delay(attempt, rng, elapsed)
    if wait is None:
        return
    assert 0 <= wait <= LONGEST_S
    if retry.max_interval is not None:
        assert wait <= retry.max_interval
    if retry.max_attempts is not None:
        assert attempt < retry.max_attempts
    if retry.max_elapsed is not None:
        assert elapsed + wait <= retry.max_elapsed


@given(steady, attempts)
def test_waits_never_shrink_without_chance(retry: Retry, attempt: int) -> None:
    sooner, later = retry.delay(attempt, Lowest()), retry.delay(attempt + 1, Lowest())
    assert sooner is not None
    assert later is not None
    assert sooner <= later


@given(policies, attempts, rngs)
def test_jitter_only_shortens(retry: Retry, attempt: int, rng: Random) -> None:
    if retry.kind == "random" or retry.max_elapsed is not None:
        return
    jittered = retry.delay(attempt, rng)
    plain = Retry(
        retry.kind, retry.base, retry.growth, retry.max_interval, retry.at_max_interval, retry.max_attempts
    ).delay(attempt, rng)
    assert (jittered is None) == (plain is None)
    if jittered is not None and plain is not None:
        least = {"none": plain, "equal": plain / 2, "full": 0}[retry.jitter]
        assert least <= jittered <= plain


@given(policies, st.integers(0, 60))
def test_schedule_is_the_delays_without_chance(retry: Retry, k: int) -> None:
    if retry.kind == "random" or retry.jitter != "none":
        return
    waits: list[float] = []
    for attempt in range(1, k + 1):
        wait = retry.delay(attempt, Random(1), sum(waits))
        if wait is None:
            break
        waits.append(wait)
    assert retry.schedule(k) == waits


@given(policies, rngs, st.integers(1, 10**40))
def test_no_attempt_is_too_large(retry: Retry, rng: Random, attempt: int) -> None:
    wait = retry.delay(attempt, rng)
    assert wait is None or 0 <= wait <= LONGEST_S


@given(policies, st.integers(0, 2**32), attempts)
def test_one_seed_gives_one_wait(retry: Retry, seed: int, attempt: int) -> None:
    assert retry.delay(attempt, Random(seed)) == retry.delay(attempt, Random(seed))


@pytest.mark.parametrize("at_max", ["cap", "stop"])
def test_growth_without_bound_ends_in_the_longest_wait_or_the_maximum(at_max: Any) -> None:
    assert Retry.exponential(1, at_max_interval=at_max).delay(100_000, Random(1)) == LONGEST_S
    capped = Retry.exponential(1, max_interval=60, at_max_interval=at_max).delay(100_000, Random(1))
    assert capped == (60 if at_max == "cap" else None)


def test_elapsed_counts_from_the_first_attempt() -> None:
    retry = Retry.fixed(2, max_elapsed=10)
    assert retry.delay(1, Random(1), 8) == 2
    assert retry.delay(1, Random(1), 8.1) is None


def test_durations_may_be_timedeltas() -> None:
    minute = timedelta(minutes=1)
    by_delta = Retry.linear(minute, minute / 2, max_interval=minute * 2, max_elapsed=minute * 10)
    assert by_delta == Retry.linear(60, 30, max_interval=120, max_elapsed=600)
    assert by_delta.base == 60.0
    assert isinstance(Retry.fixed(1).base, float)


def test_a_policy_is_a_value() -> None:
    retry = Retry.exponential(0.5, max_interval=60, max_attempts=10, jitter="full")
    assert retry == Retry.exponential(0.5, 2, max_interval=60.0, max_attempts=10, jitter="full")
    assert len({retry, pickle.loads(pickle.dumps(retry))}) == 1
    with pytest.raises(AttributeError):
        retry.base = 1.0  # type: ignore[misc]


BAD_DURATIONS = [
    -1,
    -0.001,
    float("nan"),
    float("inf"),
    True,
    "1",
    None,
    timedelta(-1),
    LONGEST_S * 2,
    10**400,
]
MAKERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "delay": (Retry.fixed, {}),
    "base": (Retry.exponential, {}),
    "step": (Retry.linear, {"base": 1}),
    "spread": (Retry.random, {"base": 1}),
}


@pytest.mark.parametrize("bad", BAD_DURATIONS)
@pytest.mark.parametrize("parameter", MAKERS)
def test_bad_durations_are_refused_by_name(parameter: str, bad: object) -> None:
    make, rest = MAKERS[parameter]
    with pytest.raises(ConfigError, match=f"^{parameter} takes seconds"):
        make(**{parameter: bad}, **rest)


@pytest.mark.parametrize("make", [Retry.fixed, lambda base, **k: Retry.linear(base, 1, **k), Retry.exponential])
@pytest.mark.parametrize(
    ("parameter", "bad"),
    [("max_interval", each) for each in BAD_DURATIONS if each is not None]
    + [("max_elapsed", each) for each in BAD_DURATIONS if each is not None]
    + [("max_attempts", each) for each in (0, -1, True, 1.0, "3", float("nan"))]
    + [("at_max_interval", each) for each in ("end", None, 1, "")]
    + [("jitter", each) for each in ("some", None, True, [])],
)
def test_bad_shared_arguments_are_refused_by_name(make: Any, parameter: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"^{parameter} takes "):
        make(1, **{parameter: bad})


@pytest.mark.parametrize("bad", [0.99, 0, -2, True, "2", None, float("nan"), float("inf"), timedelta(2)])
def test_bad_factors_are_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="^factor takes a number from 1 "):
        Retry.exponential(1, bad)


def test_the_constructor_checks_as_well() -> None:
    with pytest.raises(ConfigError, match="^kind takes 'fixed' or "):
        Retry("cubic", 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="^growth takes"):
        Retry("exponential", 1, 0.5)


@pytest.mark.parametrize("bad", [0, -1, True, 1.0, None])
def test_bad_attempts_are_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="^attempt takes a whole number of at least 1"):
        Retry.fixed(1).delay(bad, Random(1))


def test_bad_elapsed_and_bad_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="^elapsed takes"):
        Retry.fixed(1, max_elapsed=1).delay(1, Random(1), float("nan"))
    with pytest.raises(ConfigError, match="^k takes"):
        Retry.fixed(1).schedule(-1)
