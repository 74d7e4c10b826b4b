"""Which backoff makes a message be handled often enough: a search through usual ones, by the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from zmqrel.checks import number
from zmqrel.outcome import Outcome
from zmqrel.retry import Retry
from zmqrel.testing.model import Settings, predict, probability

MOST_CHOICES = 3
_BASES_S = (2.0, 1.0, 0.5, 0.2, 0.1, 0.05)
_LONGEST_S = (30.0, 10.0, 5.0, 2.0, 1.0, 0.5)
_ATTEMPTS = (3, 5, 10, 20, 50)


@dataclass(frozen=True, slots=True)
class Choice:
    """A pair of policies that reaches what is wanted."""

    resend: Retry
    retry: Retry
    handled: float
    """The chance of HANDLED."""


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found."""

    wanted: float
    choices: tuple[Choice, ...]
    """The given policies if they will do; else others, the one that resends and retries least first."""
    best: Choice
    """Of those that were tried, the one with the highest chance."""
    why_not: tuple[str, ...]
    """If none does: what becomes of the other messages even with `best`."""


def choose(settings: Settings, wanted: float) -> Search:
    """Policies with which a message is HANDLED with at least this chance, everything else being as it is.

    First the given ones, then exponential ones with full jitter: `resend` if frames may get lost, `retry` if handlers
    may fail. Raises ConfigError unless `wanted` is a number from 0 to 1.
    """
    number("wanted", wanted, 0, 1)
    tried = [_tried(settings)]
    if tried[0].handled >= wanted:
        return Search(wanted, tuple(tried), tried[0], ())
    resends = _resends() if settings.loss or settings.store_failure else [settings.resend]
    retries = _retries() if settings.handler_failure else [settings.retry]
    found: list[Choice] = []
    for resend in resends:
        # If the most eager retry does not do, no other is tried with it.
        with_resend = replace(settings, resend=resend)
        eager = _tried(replace(with_resend, retry=retries[-1]))
        tried.append(eager)
        if eager.handled < wanted:
            continue
        found.append(next(each for each in _each(with_resend, retries[:-1], eager) if each.handled >= wanted))
        if len(found) == MOST_CHOICES:
            break
    best = max([*tried, *found], key=lambda choice: choice.handled)
    return Search(wanted, tuple(found), best, () if found else _why_not(settings, best))


def _each(settings: Settings, retries: Iterable[Retry], last: Choice) -> Iterable[Choice]:
    for retry in retries:
        yield _tried(replace(settings, retry=retry))
    yield last


def _tried(settings: Settings) -> Choice:
    return Choice(settings.resend, settings.retry, probability(settings))


def _resends() -> list[Retry]:
    """From the one that sends least to the most eager."""
    policies = [
        Retry.exponential(base_s, max_interval=longest_s, jitter="full")
        for base_s in _BASES_S
        for longest_s in _LONGEST_S
        if longest_s >= base_s
    ]
    return sorted(policies, key=lambda policy: -sum(policy.schedule(10)))


def _retries() -> list[Retry]:
    """From the one that tries least often, and then slowest, to the most eager."""
    return [
        Retry.exponential(base_s, max_interval=max(base_s, longest_s), max_attempts=attempts, jitter="full")
        for attempts in _ATTEMPTS
        for base_s, longest_s in zip(_BASES_S, _LONGEST_S, strict=True)
    ]


def _why_not(settings: Settings, best: Choice) -> tuple[str, ...]:
    found = predict(replace(settings, resend=best.resend, retry=best.retry)).probabilities
    within = "" if settings.ttl_s is None else f" within the ttl of {settings.ttl_s:g} s"
    reasons = {
        Outcome.EXPIRED: f"are not received{within}, however often they are sent: lose less, or give a longer ttl",
        Outcome.EXHAUSTED: f"fail again and again{within}: let handlers fail less, or give a longer ttl",
        Outcome.REJECTED: "are refused by the handler, which no backoff changes",
        Outcome.UNCERTAIN: "are damaged in the store, which no backoff changes",
    }
    lost = sorted(((chance, outcome) for outcome, chance in found.items() if outcome in reasons), key=lambda e: -e[0])
    return tuple(
        f"{percent(chance)} {reasons[outcome]}" for chance, outcome in lost if chance > (1 - best.handled) / 100
    )


def percent(chance: float) -> str:
    """A chance as people say it: with as many digits as tell it from 0 % and 100 %."""
    digits = 2
    while digits < 6 and 0 < chance < 1 and round(chance * 100, digits) in (0.0, 100.0):
        digits += 1
    return f"{chance * 100:.{digits}f} %"
