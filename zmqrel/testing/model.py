"""What becomes of a message, reckoned instead of simulated: the absorbing Markov chain of its stages.

    prediction = predict(Settings(loss=0.2, ttl=30))
    prediction.probabilities[Outcome.HANDLED]

The chain is the engine's own table (`core/transitions.py`): its stages are the states, counted by transmission or
attempt because waits depend on that, and its outcomes absorb. The settings say how likely each event is and how long it
takes; which event leads where is asked of the table alone. Waits are those of the engine too: `resend_wait_us` and
`Retry.delay`, asked for their distributions (`grid.distribution`). Time is a grid of ticks, so a deadline cuts every
path where it falls.

It is one message on a channel that is connected and idle, with a worker free for it. What else is on the way in life
changes that: traffic behind a lost message makes a gap that is reported at once, so that it comes sooner than here; a
backlog, a small window or busy workers make it come later; a link that is silent for `liveness_s` is dialled anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

from zmqrel.checks import Duration, number, whole
from zmqrel.core.channel import resend_wait_us
from zmqrel.core.session import BYE_TO_HELLO_US, FIRST_HELLO_US, MOST_HELLO_US
from zmqrel.core.transitions import TRANSITIONS, Event, Stage, outcome_of
from zmqrel.errors import ConfigError, duration_s
from zmqrel.options import Options
from zmqrel.outcome import Outcome
from zmqrel.retry import Retry
from zmqrel.runtime.turn import PROBE_US
from zmqrel.testing.grid import (
    Grid,
    Masses,
    Piece,
    Wait,
    after,
    distribution,
    divided,
    fixed,
    mean_s,
    scaled,
    share_above,
    summed,
    weighed,
)

_NEGLIGIBLE = 1e-9
"""Masses below it are left out."""
_ENOUGH_UNKNOWN = 1e-4
_LONGEST_S = 86_400.0
_SPARE_S = 1.0
"""The grid goes on so long after the deadline, for what is under way then."""
_COHORT = 0.01
"""With `max_elapsed`: what is received at about the same time goes on together; elapsed time errs by about so much."""
_MOST_STEPS = 5000
_PARTS = 16
"""Into which the wait before a closed store is noticed is cut."""
_CHANCES = ("loss", "ack_loss", "handler_failure", "handler_rejection", "store_failure", "store_damage")


def _default_retry() -> Retry:
    return Retry.exponential(0.5, max_interval=60, max_attempts=10, jitter="full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is given. Chances are from 0 to 1, durations seconds (or timedelta) and kept as float.

    Raises ConfigError naming what is wrong and what it takes.
    """

    loss: float = 0.0
    """A frame from the sender to the receiver is lost."""
    ack_loss: float | None = None
    """A frame from the receiver to the sender is lost; None: as `loss`."""
    handler_failure: float = 0.0
    """An attempt of the handler fails."""
    handler_rejection: float = 0.0
    """An attempt ends with the handler refusing the message. With `handler_failure` at most 1."""
    store_failure: float = 0.0
    """The commit that takes an arriving message in fails (a full disk): it comes again once the store is asked anew."""
    store_damage: float = 0.0
    """The record is damaged when it is read back, which happens before every attempt but the first."""
    delay_s: Duration | tuple[Duration, Duration] = 0.001
    """How long a frame travels; a pair: evenly drawn between the two."""
    handler_s: Duration = 0.001
    """How long an attempt takes."""
    ttl: Duration | None = None
    """As in `send`."""
    retry: Retry = field(default_factory=_default_retry)
    """The handler's."""
    resend: Retry = field(default_factory=lambda: Options().resend)
    """The peers' option `resend`, the same at both ends."""

    def __post_init__(self) -> None:
        for name in _CHANCES:
            if name != "ack_loss" or self.ack_loss is not None:
                object.__setattr__(self, name, number(name, getattr(self, name), 0, 1))
        if self.handler_failure + self.handler_rejection > 1 + 1e-12:
            most = f"with handler_failure={self.handler_failure:g} a number from 0 to {1 - self.handler_failure:g}"
            raise ConfigError.of("handler_rejection", most, self.handler_rejection)
        low, high = self.delay_s if isinstance(self.delay_s, tuple) else (self.delay_s, self.delay_s)
        delay = duration_s("delay_s", low), duration_s("delay_s", high)
        if delay[0] > delay[1]:
            raise ConfigError.of("delay_s", "seconds, or a pair of seconds with the smaller one first", self.delay_s)
        object.__setattr__(self, "delay_s", delay)
        object.__setattr__(self, "handler_s", duration_s("handler_s", self.handler_s))
        if self.ttl is not None:
            object.__setattr__(self, "ttl", duration_s("ttl", self.ttl, zero=False))
        if not isinstance(self.retry, Retry):
            raise ConfigError.of("retry", "a zmqrel.Retry", self.retry)
        Options(resend=self.resend)  # which says what it takes

    @property
    def travel(self) -> Wait:
        """How long a frame travels."""
        low, high = self.delay_s if isinstance(self.delay_s, tuple) else (self.delay_s, self.delay_s)
        return (Piece(1.0, duration_s("delay_s", low), duration_s("delay_s", high)),)

    @property
    def ttl_s(self) -> float | None:
        """`ttl` in seconds."""
        return None if self.ttl is None else duration_s("ttl", self.ttl)

    @property
    def lasts_s(self) -> float:
        """`handler_s` in seconds."""
        return duration_s("handler_s", self.handler_s)

    @property
    def loss_back(self) -> float:
        """`ack_loss`, or `loss`."""
        return self.loss if self.ack_loss is None else self.ack_loss


class State(NamedTuple):
    """A transient state of the chain."""

    stage: Stage
    nth: int = 0
    """Of SENT: which transmission; of RUNNING and RETRYING: which attempt."""
    session: bool = True
    """False of SENT: its receiver forgot the session when its store failed, and its sender does not know."""
    timed: bool = True
    """False of SENT: in the new session it is not known yet how long an acknowledgement takes."""


class Move(NamedTuple):
    """One way out of a state."""

    event: Event
    to: State | Outcome
    probability: float
    wait: Wait
    """From entering the state to the event."""


class Chain:
    """The absorbing Markov chain of one message, up to its deadline."""

    start = State(Stage.STORED)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._timeouts: dict[tuple[int, bool], Wait] = {}
        self._retries: dict[int, Wait] = {}
        self._endless = replace(settings.retry, max_elapsed=None)
        self._notice = (1 - settings.loss) * (1 - settings.loss_back)
        """A transmission without a session is answered by a BYE."""
        self._handshake = _handshake(settings)

    def moves(self, state: State) -> tuple[Move, ...]:
        """The ways out of a state; their probabilities add up to 1."""
        return tuple(
            Move(event, self._to(state, event, noticed), probability, wait)
            for event, probability, wait, noticed in self._events(state)
            if probability > 0
        )

    def _to(self, state: State, event: Event, noticed: bool) -> State | Outcome:
        """Which stage or outcome follows is said by the engine's table; here only transmissions and attempts count."""
        following = TRANSITIONS[state.stage][event]
        if isinstance(following, Outcome):
            return following
        if event is Event.TRANSMITTED or event is Event.HANDED_OVER:
            return State(following, state.nth + 1, state.session, state.timed)
        if event is Event.NOT_TAKEN:
            # With a new session the backoff begins anew, but for the timer that is running.
            if noticed:
                return State(following, 2, timed=False)
            return State(following, state.nth + 2, session=False, timed=state.timed)
        return State(following, 0 if following is Stage.WAITING else state.nth)

    def _events(self, state: State) -> Iterator[tuple[Event, float, Wait, bool]]:
        """Events with their chances and waits; and of what was not taken, whether its sender has a session again."""
        for event, probability, wait in self._sent(state) if state.stage is Stage.SENT else self._elsewhere(state):
            yield event, probability, wait, True
        if state.stage is Stage.SENT and state.session and self.settings.store_failure:
            unnoticed = (1 - self.settings.loss) * self.settings.store_failure * (1 - self._notice)
            yield Event.NOT_TAKEN, unnoticed, self._two_timeouts(state), False

    def _sent(self, state: State) -> Iterator[tuple[Event, float, Wait]]:
        given = self.settings
        if not state.session:
            yield Event.NOT_TAKEN, self._notice, self._handshake
            yield Event.TRANSMITTED, 1 - self._notice, self.timeout(state.nth, state.timed)
            return
        arrives = 1 - given.loss
        yield Event.RECEIVED, arrives * (1 - given.store_failure), given.travel
        if given.store_failure:
            yield Event.NOT_TAKEN, arrives * given.store_failure * self._notice, self._reopening(state)
        yield Event.TRANSMITTED, given.loss, self.timeout(state.nth, state.timed)

    def _elsewhere(self, state: State) -> Iterator[tuple[Event, float, Wait]]:
        given = self.settings
        nth = state.nth
        if state.stage is Stage.STORED:
            yield Event.TRANSMITTED, 1.0, fixed(0.0)
        elif state.stage is Stage.WAITING:
            yield Event.HANDED_OVER, 1.0, fixed(0.0)
        elif state.stage is Stage.RUNNING:
            lasts = fixed(given.lasts_s)
            again = sum(piece.weight for piece in self.pause(nth))
            failed = given.handler_failure
            yield Event.ACKNOWLEDGED, max(0.0, 1 - failed - given.handler_rejection), lasts
            yield Event.REJECTED, given.handler_rejection, lasts
            yield Event.FAILED, failed * again, lasts
            yield Event.FAILED_LAST, failed * (1 - again), lasts
        elif state.stage is Stage.RETRYING:
            pause = self.pause(nth)
            whole = sum(piece.weight for piece in pause) or 1.0
            waits = tuple(piece._replace(weight=piece.weight / whole) for piece in pause)
            yield Event.HANDED_OVER, 1 - given.store_damage, waits
            yield Event.DAMAGED, given.store_damage, waits

    def timeout(self, transmission: int, timed: bool = True) -> Wait:
        """How long after a transmission the next one follows; `timed`: of a lane that knows how long an ACK takes."""
        wait = self._timeouts.get((transmission, timed))
        if wait is None:
            ack_us = int(2e6 * mean_s(self.settings.travel)) if timed else 0
            resend = self.settings.resend
            wait = distribution(lambda rng: resend_wait_us(resend, transmission, ack_us, rng) / 1e6)
            self._timeouts[transmission, timed] = wait
        return wait

    def _reopening(self, state: State) -> Wait:
        """How long after a transmission that was not taken another one is sent that may be.

        The receiver has lost its sessions, and its sender notices at the next transmission. What it sends in the new
        session is taken if the store is open again by then, and refused if not.
        """
        opens_s = PROBE_US / 1e6
        pieces: list[Piece] = []
        for weight, low_s, high_s in divided(self.timeout(state.nth, state.timed), _PARTS):
            noticed_s = (low_s + high_s) / 2
            begins = after(self._handshake, noticed_s)
            open_by_then = [piece for piece in begins if piece.low_s >= opens_s]
            refused = 1 - sum(piece.weight for piece in open_by_then)
            timer = after(self.timeout(state.nth + 1, state.timed), noticed_s)
            waits = *open_by_then, *_weighted(self._refused(timer, opens_s), refused)
            pieces += _weighted(waits, weight)
        return tuple(piece for piece in pieces if piece.weight > 0)

    def _refused(self, timer: Wait, opens_s: float) -> Wait:
        """Until what was sent to a closed store is sent again: with credit, or else when `timer` is over.

        Credit comes when the store opens, to senders that know of the refusal; both may be lost. A transmission that
        the timer brings before that is refused likewise, and here its sender always hears of that.
        """
        given = self.settings
        heard = (1 - given.loss) * (1 - given.loss_back) ** 2
        credit_s = opens_s + 2 * mean_s(given.travel)
        pieces = [Piece(heard + (1 - heard) * (1 - share_above(timer, opens_s)), credit_s, credit_s)]
        for piece in timer:
            above = share_above((piece,), opens_s)
            if above:
                pieces.append(Piece((1 - heard) * piece.weight * above, max(opens_s, piece.low_s), piece.high_s))
        return tuple(pieces)

    def _two_timeouts(self, state: State) -> Wait:
        """How long after a transmission the one after the next follows."""
        return tuple(
            piece._replace(weight=weight * piece.weight)
            for weight, low_s, high_s in divided(self.timeout(state.nth, state.timed), _PARTS)
            for piece in after(self.timeout(state.nth + 1, state.timed), (low_s + high_s) / 2)
        )

    def pause(self, attempt: int) -> Wait:
        """How long after a failed attempt the next one follows; weights below 1 mean that there may be none."""
        wait = self._retries.get(attempt)
        if wait is None:
            wait = self._retries[attempt] = distribution(lambda rng: self._endless.delay(attempt, rng))
        return wait


def _weighted(wait: Wait, factor: float) -> Wait:
    return tuple(piece._replace(weight=factor * piece.weight) for piece in wait)


def _handshake(settings: Settings) -> Wait:
    """From a transmission that finds no session to the next in a new one: HELLO is said until it goes well."""
    lost = 1 - (1 - settings.loss) ** 2 * (1 - settings.loss_back)
    seconds, hello_s, weight = BYE_TO_HELLO_US / 1e6 + 4 * mean_s(settings.travel), FIRST_HELLO_US / 1e6, 1.0
    pieces: list[Piece] = []
    while weight > _NEGLIGIBLE and len(pieces) < _PARTS:
        pieces.append(Piece(weight * (1 - lost), seconds, seconds))
        weight *= lost
        seconds += hello_s
        hello_s = min(MOST_HELLO_US / 1e6, hello_s * 1.5)
    # Whoever is not through by then is taken to be so with the last.
    pieces[-1] = pieces[-1]._replace(weight=pieces[-1].weight + weight)
    return tuple(pieces)


class Times:
    """How long it takes until the sender knows the outcome, counted from `send()`."""

    def __init__(self, grid: Grid, masses: Masses) -> None:
        self._sums = list(accumulate(masses))
        self.resolution_s = grid.tick_s
        """Times are known as closely as this."""
        self.horizon_s = grid.horizon_s
        """What takes longer is in no quantile."""

    def cdf(self, seconds: float) -> float:
        """The chance that it takes at most so long."""
        tick = int(min(seconds, self.horizon_s) / self.resolution_s + 1e-9)
        return min(1.0, self._sums[tick]) if seconds >= 0 else 0.0

    def quantile(self, share: float) -> float | None:
        """The time within which this share of messages has its outcome; None: later than the horizon.

        Raises ConfigError unless `share` is a number from 0 to 1.
        """
        wanted = number("share", share, 0, 1) - _NEGLIGIBLE
        for tick, total in enumerate(self._sums):
            if total >= wanted:
                return tick * self.resolution_s
        return None

    def points(self, most: int = 60) -> list[tuple[float, float]]:
        """The curve of `cdf`, as at most so many pairs of seconds and chance."""
        last = next((tick for tick, total in enumerate(self._sums) if total >= self._sums[-1] - 1e-6), 1)
        last = max(1, last)
        ticks = sorted({round(at * last / (most - 1)) for at in range(most)})
        return [(tick * self.resolution_s, min(1.0, self._sums[tick])) for tick in ticks]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the chain says."""

    settings: Settings
    probabilities: Mapping[Outcome, float]
    """Of each outcome; they add up to 1."""
    unknown: float
    """The part of them that the sender is not told within the horizon: how it ends is certain, when is not."""
    attempts: float
    """Hand-overs, on average."""
    sends: float
    """Transmissions on average: until its sender knows that it was received, or how it ended, or its deadline. Those to
    a store that is closed after a `store_failure` are not counted: it is tried a few times more."""
    times: Times


class _Walk:
    """Masses on their way through the chain: they enter states, are cut off by the deadline, and end in outcomes."""

    def __init__(self, chain: Chain, grid: Grid, ttl_s: float | None) -> None:
        self._chain = chain
        self._grid = grid
        self._ttl_s = ttl_s
        self.ended: dict[Outcome, Masses] = {outcome: grid.zero() for outcome in Outcome}
        """When each outcome is final at the receiver."""
        self.beyond = dict.fromkeys(Outcome, 0.0)
        """Outcomes that are certain and come behind the grid."""
        self.slower: dict[State | Outcome, float] = {}
        """Without a deadline: where it goes on that is slower than the grid is long."""
        self.missed = 0.0
        """Not received at its deadline: its sender has to ask."""
        self.waiting = grid.zero()
        """When it is received."""
        self.entered: dict[State, Masses] = {}
        """When each state is entered."""

    def send(self) -> None:
        """From `send()` until it is received."""
        self._run(self._chain.start, self._grid.at(0.0), Stage.WAITING, None)

    def receive(self) -> None:
        """From then until it has its outcome."""
        elapsed_s = self._chain.settings.retry.max_elapsed
        start = State(Stage.WAITING)
        if elapsed_s is None or elapsed_s > self._grid.horizon_s:
            self._run(start, self.waiting, None, None)
            return
        # Its first hand-over is when it is received, for a worker is free.
        for cohort, began_s in _cohorts(self._grid, self.waiting, _COHORT * elapsed_s):
            self._run(start, cohort, None, began_s + elapsed_s)

    def _run(self, state: State, masses: Masses, stop_before: Stage | None, latest_s: float | None) -> None:
        """`latest_s`: no attempt begins later (`max_elapsed`)."""
        coming = {state: masses}
        while coming:
            state = next(iter(coming))
            masses = coming.pop(state)
            if state.stage is stop_before:
                self.waiting = summed(self.waiting, masses)
                continue
            if sum(masses) < _NEGLIGIBLE:
                continue
            self.entered[state] = summed(self.entered.get(state, self._grid.zero()), masses)
            stopped = self._stop(state, masses, latest_s)
            for move in self._chain.moves(state):
                in_time = self._take(state, move, masses, stopped, latest_s)
                if isinstance(move.to, State):
                    coming[move.to] = summed(coming.get(move.to, self._grid.zero()), in_time)
                else:
                    self.ended[move.to] = summed(self.ended[move.to], in_time)

    def _take(self, state: State, move: Move, masses: Masses, stopped: float, latest_s: float | None) -> Masses:
        """What of the masses leaves a state this way before the deadline; the deadline decides about the rest."""
        leaving = scaled(self._grid.later(masses, move.wait), move.probability)
        if state.stage is Stage.RETRYING and latest_s is not None:
            leaving = self._grid.until(leaving, latest_s)
        in_time = leaving if self._ttl_s is None else self._grid.until(leaving, self._ttl_s)
        late = move.probability * (sum(masses) - stopped) - sum(in_time)
        if late > _NEGLIGIBLE * _NEGLIGIBLE:
            if self._ttl_s is None:
                self.slower[move.to] = self.slower.get(move.to, 0.0) + late
            else:
                self._expire(state, move, [mass - kept for mass, kept in zip(leaving, in_time, strict=True)], late)
        return in_time

    def _expire(self, state: State, move: Move, leaving: Masses, late: float) -> None:
        """The deadline came first. The engine's table says what that makes of a message in this stage."""
        following = TRANSITIONS[state.stage][Event.DEADLINE]
        if isinstance(following, Stage):
            # A worker has it: what that makes of it counts, and no further attempt follows.
            outcome = outcome_of(following, move.event)
            self.ended[outcome] = summed(self.ended[outcome], leaving)
            self.beyond[outcome] += late - sum(leaving)
        elif state.stage in (Stage.STORED, Stage.SENT):
            self.missed += late
        else:
            assert self._ttl_s is not None
            self.ended[following] = summed(self.ended[following], scaled(self._grid.at(self._ttl_s), late))

    def _stop(self, state: State, masses: Masses, latest_s: float | None) -> float:
        """End those whose next attempt would come too late, when their last one failed; returns how much that is.

        The wait that is too long has been drawn when that is decided: it is the part behind `latest_s` of each mass.
        """
        if state.stage is not Stage.RETRYING or latest_s is None:
            return 0.0
        pause = self._chain.moves(state)[0].wait
        too_late = [share_above(pause, latest_s - tick * self._grid.tick_s) for tick in range(self._grid.last + 1)]
        outcome = outcome_of(Stage.RUNNING, Event.FAILED_LAST)
        stopped = [mass * share for mass, share in zip(masses, too_late, strict=True)]
        self.ended[outcome] = summed(self.ended[outcome], stopped)
        return sum(stopped)

    def probabilities(self) -> dict[Outcome, float]:
        """Of each outcome."""
        found = {outcome: sum(masses) + self.beyond[outcome] for outcome, masses in self.ended.items()}
        found[outcome_of(Stage.SENT, Event.DEADLINE)] += self.missed
        for state, mass in self.slower.items():
            for outcome, share in _outcomes_from(self._chain, state).items():
                found[outcome] += mass * share
        total = sum(found.values())
        return {outcome: min(1.0, max(0.0, mass / total)) for outcome, mass in found.items()}


def _cohorts(grid: Grid, masses: Masses, most: float) -> Iterator[tuple[Masses, float]]:
    """The masses in parts of neighbours, and the mean time of each: as many as it takes for the seconds that a part
    extends, times what it weighs, to be at most that."""
    first, weight, moment = 0, 0.0, 0.0
    for tick, mass in enumerate(masses):
        weight += mass
        moment += tick * mass
        if weight > _NEGLIGIBLE and (weight * (tick + 1 - first) * grid.tick_s > most or tick == grid.last):
            part = grid.zero()
            part[first : tick + 1] = masses[first : tick + 1]
            yield part, moment / weight * grid.tick_s
            first, weight, moment = tick + 1, 0.0, 0.0
        elif weight <= _NEGLIGIBLE:
            first = tick + 1 if not weight else first


def _outcomes_from(chain: Chain, state: State | Outcome) -> dict[Outcome, float]:
    """How a message ends that is in this state, if it has all the time in the world."""
    ended = dict.fromkeys(Outcome, 0.0)
    if isinstance(state, Outcome):
        return ended | {state: 1.0}
    coming = {state: 1.0}
    for _ in range(_MOST_STEPS):
        if not coming:
            return ended
        state = next(iter(coming))
        mass = coming.pop(state)
        for move in chain.moves(state):
            went = mass * move.probability
            if isinstance(move.to, Outcome):
                ended[move.to] += went
            elif went > _NEGLIGIBLE:
                coming[move.to] = coming.get(move.to, 0.0) + went
    raise ConfigError("ttl: without one a message may go on for ever with these chances; give it seconds")


def predict(settings: Settings, *, ticks: int = 2000) -> Prediction:
    """What becomes of a message with these settings.

    `ticks` is into how many parts the time up to the deadline (without one: up to when nearly all is over) is cut:
    times are known as closely as that, and the work grows with it. Raises ConfigError if `ticks` is no whole number
    from 100 to 100,000, or if without a `ttl` a message may go on for ever.
    """
    whole("ticks", ticks, 100, 100_000)
    chain = Chain(settings)
    if settings.ttl_s is not None:
        spare_s = max(_SPARE_S, 0.05 * settings.ttl_s) + settings.lasts_s + 20 * mean_s(settings.travel)
        return _predicted(chain, Grid(settings.ttl_s + spare_s, ticks))
    _outcomes_from(chain, chain.start)  # there are some
    if settings.loss_back >= 1:
        raise ConfigError.of("ack_loss", "a number below 1 without a ttl: the sender is never told", settings.loss_back)
    horizon_s = _SPARE_S
    while True:
        prediction = _predicted(chain, Grid(horizon_s, ticks))
        if prediction.unknown < _ENOUGH_UNKNOWN or horizon_s > _LONGEST_S:
            return prediction
        horizon_s *= 4


def probability(settings: Settings, outcome: Outcome = Outcome.HANDLED, *, ticks: int = 1000) -> float:
    """The chance of one outcome: less work than `predict`, for a search."""
    grid = Grid((settings.ttl_s or _SPARE_S) * 1.001 + settings.lasts_s, ticks)
    walk = _Walk(Chain(settings), grid, settings.ttl_s)
    walk.send()
    walk.receive()
    return walk.probabilities()[outcome]


def _predicted(chain: Chain, grid: Grid) -> Prediction:
    settings = chain.settings
    walk = _Walk(chain, grid, settings.ttl_s)
    walk.send()
    walk.receive()
    ended = grid.zero()
    for masses in walk.ended.values():
        ended = summed(ended, masses)
    if walk.missed:
        assert settings.ttl_s is not None
        asked = scaled(grid.at(settings.ttl_s), walk.missed)
        ended = summed(ended, _told(chain, grid, asked, settings.loss))
    told = _told(chain, grid, ended, settings.loss_back)
    handed = sum(sum(masses) for state, masses in walk.entered.items() if state.stage is Stage.RUNNING)
    sent = sum(sum(masses) for state, masses in walk.entered.items() if state.stage is Stage.SENT)
    again = _sent_again(chain, grid, walk) if settings.loss_back else 0.0
    unknown = max(0.0, 1 - sum(told))
    return Prediction(settings, walk.probabilities(), unknown, handed, sent + again, Times(grid, told))


def _told(chain: Chain, grid: Grid, said: Masses, loss: float) -> Masses:
    """When an entry of a control lane arrives: it is sent again as messages are."""
    leaving, transmission = grid.zero(), 1
    while sum(said) > _NEGLIGIBLE:
        leaving = summed(leaving, said)
        said = scaled(grid.later(said, chain.timeout(transmission)), loss)
        transmission += 1
    return scaled(grid.later(leaving, chain.settings.travel), 1 - loss)


def _sent_again(chain: Chain, grid: Grid, walk: _Walk) -> float:
    """Transmissions of what was received, for its acknowledgement was lost and its outcome is not known either."""
    settings = chain.settings
    alone = _Walk(chain, grid, None)
    alone.waiting = grid.later(grid.at(0.0), settings.travel)
    alone.receive()
    ended = grid.zero()
    for masses in alone.ended.values():
        ended = summed(ended, masses)
    known = list(accumulate(_told(chain, grid, ended, settings.loss_back)))
    # A transmission of what is there already draws another acknowledgement, unless either is lost.
    unheard = settings.loss + (1 - settings.loss) * settings.loss_back
    total = 0.0
    for state, masses in walk.entered.items():
        if state.stage is not Stage.SENT:
            continue
        arrived = scaled(masses, (1 - settings.loss) * (1 - settings.store_failure) * settings.loss_back)
        before = list(accumulate(arrived))
        wait, transmission = grid.at(0.0), state.nth
        while before[-1] > _NEGLIGIBLE and sum(wait) > _NEGLIGIBLE:
            wait = grid.later(wait, chain.timeout(transmission, state.timed))
            still = [mass * max(0.0, 1 - told) for mass, told in zip(wait, known, strict=True)]
            total += weighed(still, grid.room(before, settings.ttl_s))
            wait = scaled(wait, unheard)
            transmission += 1
    return total
