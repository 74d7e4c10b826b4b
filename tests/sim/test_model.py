"""The model agrees with the simulator, and with what can be reckoned by hand."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from statistics import NormalDist, fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from tests.sim.study import Study, interval
from zmqrel import ConfigError, Outcome, Retry
from zmqrel.core import transitions
from zmqrel.core.transitions import TRANSITIONS, Event, Stage
from zmqrel.testing import model
from zmqrel.testing.model import Chain, Settings, State, predict, probability

MESSAGES = 1500
"""Chosen before the table was run: near a half, a difference of 0.04 in a chance shows, and all ten take half a minute.
Seeds are the places in the table."""
ERROR = 0.01
"""Each setting agrees at 99%: its intervals share this chance of a wrong alarm evenly (Bonferroni), so that all of them
hold together. With a right model, one choice of seeds in ten would have a setting that fails; these do not change."""
CHECKED_S = (0.25, 0.55, 1.15)
"""Shares of messages that are told by then are compared too: times at which in no setting much is told at once."""

SETTINGS: dict[str, dict[str, Any]] = {
    "loss and a short ttl": {"loss": 0.2, "ttl": 1},
    "every second frame lost, fixed backoff": {"loss": 0.5, "ttl": 2, "resend": Retry.fixed(0.3)},
    "acknowledgements lost": {"loss": 0.1, "ack_loss": 0.5, "ttl": 5, "delay_s": (0.001, 0.02)},
    "retries with full jitter until the deadline": {
        "loss": 0.05,
        "handler_failure": 0.5,
        "retry": Retry.exponential(0.3, max_attempts=6, jitter="full"),
        "ttl": 1.5,
    },
    "fixed retries and refusals": {
        "handler_failure": 0.4,
        "handler_rejection": 0.1,
        "retry": Retry.fixed(0.3, max_attempts=3),
    },
    "random retries for a time": {
        "loss": 0.1,
        "handler_failure": 0.6,
        "retry": Retry.random(0.2, 0.5, max_elapsed=2),
    },
    "a slow handler across the deadline": {
        "handler_s": 0.4,
        "handler_failure": 0.5,
        "retry": Retry.linear(0.1, 0.2, jitter="equal"),
        "ttl": 1.5,
    },
    "a store that is full now and then": {"store_failure": 0.3, "ttl": 1.2},
    "damaged records": {"handler_failure": 0.5, "store_damage": 0.2, "retry": Retry.fixed(0.1, max_attempts=4)},
    "everything at once": {
        "loss": 0.3,
        "ack_loss": 0.2,
        "handler_failure": 0.4,
        "handler_rejection": 0.05,
        "store_failure": 0.05,
        "store_damage": 0.05,
        "delay_s": (0.005, 0.06),
        "handler_s": 0.05,
        "ttl": 4,
        "retry": Retry.exponential(0.2, 3, max_interval=2, jitter="equal"),
        "resend": Retry.linear(0.1, 0.1, jitter="full"),
    },
}


@pytest.mark.long
@pytest.mark.parametrize(("seed", "name"), list(enumerate(SETTINGS, 1)))
def test_the_model_agrees_with_the_simulator(seed: int, name: str) -> None:
    settings = Settings(**SETTINGS[name])
    predicted, seen = predict(settings), Study(settings, seed).run(MESSAGES)
    chances = [
        (outcome.name, chance, seen.outcomes[outcome])
        for outcome, chance in predicted.probabilities.items()
        if chance or seen.outcomes[outcome]
    ]
    chances += [
        (f"told within {at_s:g} s", predicted.times.cdf(at_s), sum(seconds <= at_s for seconds in seen.seconds))
        for at_s in CHECKED_S
    ]
    means = [("attempts", predicted.attempts, seen.attempts)]
    if not settings.store_failure:  # those to a closed store are not in the model's
        means.append(("sends", predicted.sends, seen.sends))
    error = ERROR / (len(chances) + len(means))
    found = {}
    for what, chance, hits in chances:
        low, high = interval(hits, MESSAGES, error)
        if not low - 1e-6 <= chance <= high + 1e-6:
            found[what] = chance, (low, high)
    for what, mean, values in means:
        half = NormalDist().inv_cdf(1 - error / 2) * pstdev(values) / sqrt(MESSAGES)
        if abs(fmean(values) - mean) > half + 1e-3:
            found[what] = mean, (fmean(values) - half, fmean(values) + half)
    assert not found, "the model says what is not in the interval that the simulator gives"


# ------------------------------------------------------------------------------------------ reckoned by hand


def test_without_faults_every_message_is_handled_at_once() -> None:
    found = predict(Settings(ttl=10))
    assert found.probabilities[Outcome.HANDLED] == pytest.approx(1)
    assert (found.sends, found.attempts, found.unknown) == pytest.approx((1, 1, 0))
    # There and back, and the handler: closer than a tick it is not known.
    assert found.times.quantile(0.5) == pytest.approx(0.003, abs=found.times.resolution_s)


def test_attempts_run_out_as_often_as_all_of_them_fail() -> None:
    found = predict(Settings(handler_failure=0.4, retry=Retry.fixed(0.5, max_attempts=3)))
    assert found.probabilities[Outcome.EXHAUSTED] == pytest.approx(0.4**3)
    assert found.attempts == pytest.approx(1 + 0.4 + 0.4**2)


@pytest.mark.parametrize(("ttl", "transmissions"), [(0.2, 1), (0.6, 2), (1.0, 3), (1.4, 4)])
def test_it_expires_if_all_transmissions_before_the_deadline_are_lost(ttl: float, transmissions: int) -> None:
    """A fixed backoff of 0.3 s and what the engine adds: 100 ms and four times the acknowledgement's 2 ms."""
    found = predict(Settings(loss=0.3, ttl=ttl, resend=Retry.fixed(0.3)))
    assert found.probabilities[Outcome.EXPIRED] == pytest.approx(0.3**transmissions, rel=1e-6)
    assert found.probabilities[Outcome.HANDLED] == pytest.approx(1 - 0.3**transmissions, rel=1e-6)
    sends = sum(0.3**before for before in range(transmissions))
    assert found.sends == pytest.approx(sends + 0.3 * 0.7 * sends, abs=0.3 * sends)


def test_what_a_full_store_refused_costs_a_round_trip_once_there_is_room_and_no_resend_interval() -> None:
    """The store is asked anew after half a second; what it refused twice comes after another one."""
    found = predict(Settings(store_failure=0.3, ttl=5, resend=Retry.linear(0.1, 3)))
    there_and_back_s = 0.03  # with some ticks to spare
    assert found.times.cdf(0.49) == pytest.approx(0.7)
    assert found.times.cdf(0.5 + there_and_back_s) == pytest.approx(0.7 + 0.3 * 0.7)


def test_a_deadline_between_attempts_exhausts_and_one_before_them_expires() -> None:
    found = predict(Settings(loss=0.5, handler_failure=1, ttl=0.2, retry=Retry.fixed(1), resend=Retry.fixed(5)))
    assert found.probabilities[Outcome.EXPIRED] == pytest.approx(0.5)
    assert found.probabilities[Outcome.EXHAUSTED] == pytest.approx(0.5)
    assert found.attempts == pytest.approx(0.5)


def test_what_a_worker_has_at_the_deadline_is_handled_later() -> None:
    found = predict(Settings(handler_s=2, ttl=1))
    assert found.probabilities[Outcome.HANDLED] == pytest.approx(1)
    assert found.times.quantile(0.9) == pytest.approx(2.002, abs=2 * found.times.resolution_s)
    failing = predict(Settings(handler_s=2, ttl=1, handler_failure=1))
    assert failing.probabilities[Outcome.EXHAUSTED] == pytest.approx(1)


def test_no_attempt_begins_after_max_elapsed() -> None:
    """Every attempt fails: they begin at 0, 0.4, 0.8 and not at 1.2 s after the first."""
    found = predict(Settings(handler_failure=1, handler_s=0, ttl=60, retry=Retry.fixed(0.4, max_elapsed=1)))
    assert found.attempts == pytest.approx(3, rel=1e-3)
    assert found.times.quantile(0.99) == pytest.approx(0.8, abs=0.1)


CHANCE = st.floats(0, 1)
RETRIES = st.sampled_from(
    [
        Retry.fixed(0.2, max_attempts=3),
        Retry.linear(0.1, 0.2, jitter="equal", max_attempts=6),
        Retry.exponential(0.2, jitter="full", max_interval=1),
        Retry.random(0.1, 0.5, max_interval=0.8, at_max_interval="stop"),
        Retry.random(0.1, 0.5, jitter="full", max_elapsed=1),
    ]
)
SOME_SETTINGS = st.builds(
    Settings,
    loss=CHANCE,
    ack_loss=CHANCE,
    handler_failure=st.floats(0, 0.7),
    handler_rejection=st.floats(0, 0.3),
    store_failure=CHANCE,
    store_damage=CHANCE,
    handler_s=st.sampled_from([0, 0.01, 0.5]),
    ttl=st.sampled_from([0.3, 1, 2.5]),
    retry=RETRIES,
)


@settings_of_hypothesis(max_examples=20, deadline=None)
@given(SOME_SETTINGS)
def test_probabilities_add_up_and_curves_rise(settings: Settings) -> None:
    found = predict(settings, ticks=100)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert all(0 <= chance <= 1 for chance in found.probabilities.values())
    shares = [share for _, share in found.times.points()]
    assert shares == sorted(shares) or all(b - a > -1e-9 for a, b in pairwise(shares))
    assert found.times.cdf(1e9) + found.unknown == pytest.approx(1)
    assert found.times.cdf(-1) == 0


@settings_of_hypothesis(max_examples=20, deadline=None)
@given(SOME_SETTINGS)
def test_from_every_state_something_happens(settings: Settings) -> None:
    chain, seen = Chain(settings), set[State]()
    waiting = [chain.start]
    while waiting and len(seen) < 60:
        state = waiting.pop(0)
        if state in seen:
            continue
        seen.add(state)
        moves = chain.moves(state)
        assert sum(move.probability for move in moves) == pytest.approx(1)
        for move in moves:
            following = TRANSITIONS[state.stage][move.event]
            assert (move.to.stage if isinstance(move.to, State) else move.to) is following
            assert sum(piece.weight for piece in move.wait) == pytest.approx(1)
            if isinstance(move.to, State):
                waiting.append(move.to)


@pytest.mark.parametrize("loss", [0.1, 0.3, 0.5])
def test_a_longer_ttl_and_fewer_losses_are_better(loss: float) -> None:
    chances = [probability(Settings(loss=loss, ttl=ttl)) for ttl in (0.5, 1, 2, 4, 8)]
    assert chances == sorted(chances)
    assert probability(Settings(loss=loss / 2, ttl=1)) > probability(Settings(loss=loss, ttl=1))


@pytest.mark.parametrize(
    ("stage", "event", "settings"),
    [
        (Stage.SENT, Event.DEADLINE, {"loss": 1, "ttl": 1}),
        (Stage.RETRYING, Event.DEADLINE, {"handler_failure": 1, "ttl": 1, "retry": Retry.fixed(9)}),
        (Stage.DOOMED, Event.FAILED, {"handler_failure": 1, "handler_s": 2, "ttl": 1}),
        (Stage.RUNNING, Event.FAILED_LAST, {"handler_failure": 1, "retry": Retry.fixed(1, max_attempts=1)}),
    ],
)
def test_where_an_event_leads_is_what_the_engines_table_says(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, event: Event, settings: dict[str, Any]
) -> None:
    """The same table that the engines ask: another entry there, and the model says so."""
    assert model.TRANSITIONS is transitions.TRANSITIONS
    before = predict(Settings(**settings)).probabilities
    assert before[TRANSITIONS[stage][event]] == pytest.approx(1)  # type: ignore[index]
    monkeypatch.setitem(TRANSITIONS[stage], event, Outcome.UNCERTAIN)  # type: ignore[arg-type]
    assert predict(Settings(**settings)).probabilities[Outcome.UNCERTAIN] == pytest.approx(1)


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"loss": 1.5}, "loss takes a number from 0 to 1"),
        ({"ack_loss": "much"}, "ack_loss takes a number from 0 to 1"),
        ({"handler_failure": 0.7, "handler_rejection": 0.5}, "handler_rejection takes with handler_failure=0.7"),
        ({"delay_s": (0.2, 0.1)}, "delay_s takes"),
        ({"delay_s": -1}, "delay_s takes seconds"),
        ({"handler_s": float("nan")}, "handler_s takes seconds"),
        ({"ttl": 0}, "ttl takes seconds"),
        ({"retry": 3}, "retry takes a zmqrel.Retry"),
        ({"resend": Retry.fixed(1, max_attempts=3)}, "resend takes a Retry that never stops"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(given_: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Settings(**given_)
    assert named in str(refused.value)


def test_what_never_ends_needs_a_ttl() -> None:
    with pytest.raises(ConfigError, match="^ttl"):
        predict(Settings(loss=1))
    with pytest.raises(ConfigError, match="^ticks"):
        predict(Settings(), ticks=3)
    with pytest.raises(ConfigError, match="^share"):
        predict(Settings()).times.quantile(2)
