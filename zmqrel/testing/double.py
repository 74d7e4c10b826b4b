"""The double of zmqrel.Peer on a simulated network: the same calls, handlers and objects, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from zmqrel.checks import Duration, check_name, duration_s
from zmqrel.core import commands as c
from zmqrel.core.effects import ReceiptNotice
from zmqrel.core.engine import Engine
from zmqrel.core.rows import Policy
from zmqrel.core.stats import COUNTERS, LEVELS
from zmqrel.errors import ConfigError, PeerClosed, UnknownPeer
from zmqrel.participant import DEFAULT_RETRY, CloseReport, Participant
from zmqrel.receipts import Ticket
from zmqrel.runtime.workers import Handling
from zmqrel.testing.drive import SimulatedConsumer, SimulatedDrive, SimulatedTeller
from zmqrel.testing.peer import SimulatedPeer

if TYPE_CHECKING:
    from zmqrel.testing.network import Network

_T = TypeVar("_T")
Setup = Callable[["Peer"], object]
_FAREWELL_S = 0.5


class Peer(Participant):
    """What code that is given a zmqrel.Peer is given in a test, by `Network.peer`.

    It offers what zmqrel.Peer offers, and means the same, but for `run`. A call that waits lets virtual time pass; if
    it has no time-out, for an hour at most: then it raises AssertionError. Handlers run one at a time and take no time
    but what they wait. If its process dies, what its handlers were in the middle of ends with a BaseException at their
    next call of a peer or of the network, and nothing of it is kept; calls from elsewhere raise PeerClosed. Other than
    a zmqrel.Peer it may be started again: that is the next life of its store.
    """

    def __init__(
        self, simulated: SimulatedPeer, setup: Setup | None, peers: Mapping[str, str | None], options: Mapping[str, Any]
    ) -> None:
        """Made by Network.peer."""
        super().__init__(simulated.name, options)
        self._simulated = simulated
        self._network: Network = simulated.network
        self._setup = setup
        self._known_at_start = dict(peers)
        self._peers = dict(peers)
        self._drive: SimulatedDrive | None = None
        self._consumers: dict[str, SimulatedConsumer] = {}
        self._teller: SimulatedTeller | None = None
        self._last_stats: dict[str, Any] = dict.fromkeys((*COUNTERS, *LEVELS), 0)
        self._report = CloseReport(0, 0, 0)
        self._callbacks: _Callbacks = _Callbacks(self)
        simulated.application = self

    # ---------------------------------------------------------------------------------------------- life

    def start(self) -> Peer:
        """Begin a life; nothing if one is under way."""
        self._network.restart(self.name)
        return self

    def __enter__(self) -> Peer:
        return self.start()

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self, timeout: Duration = 10, drain: bool = False) -> CloseReport:
        """As Peer.close, in virtual time. It may be started again."""
        timeout_s = duration_s("timeout", timeout)
        if not isinstance(drain, bool):
            raise ConfigError.of("drain", "True or False", drain)
        drive = self._drive
        if drive is None or drive.closed:
            return self._report
        give_up_at = self._network.now + timeout_s
        if drain:
            drive.wait(lambda: drive.closed or not drive.engine.shared.ledger.outbox_messages, timeout_s)
        for consumer in self._consumers.values():
            consumer.stop()
        if self._teller is not None:
            self._teller.stopping = True
        drive.wait(lambda: drive.closed or not self._is_at_work, max(0.0, give_up_at - self._network.now))
        drive.row_finished()
        drive.wait(lambda: drive.closed or not drive.engine.has_untold, _FAREWELL_S)
        self._simulated.close()
        self._report = CloseReport.of(self._last_stats)
        return self._report

    @property
    def _is_at_work(self) -> bool:
        calling = self._teller is not None and self._teller.is_calling
        return calling or any(consumer.busy for consumer in self._consumers.values())

    @property
    def endpoints(self) -> list[str]:
        """Where others dial it."""
        self._running()
        return [f"sim://{self.name}"]

    def connect(self, name: str, endpoint: str | None) -> None:
        """Know a peer from now on in this life, and dial it if there is an endpoint, whatever it says."""
        drive = self._running()
        if check_name(name) == self.name:
            raise UnknownPeer(f"name: {name!r} is this peer itself; a peer does not send to itself")
        self._peers[name] = None if endpoint is None else f"sim://{name}"
        drive.ask(c.Connect(name, self._peers[name])).result()

    # --------------------------------------------------------------------------------- what its simulated peer calls

    def starting(self) -> None:
        """A life begins."""
        self._drive = None
        self._peers = dict(self._known_at_start)
        self._consumers, self._teller = {}, None
        if self._setup is not None:
            self._registrations.clear()
            self._listeners.clear()
            self._setup(self)
        self._drive = SimulatedDrive(self._simulated)

    def loaded(self, engine: Engine) -> None:
        """The core was loaded."""
        assert self._drive is not None
        self._drive.loaded(engine)

    def started(self) -> None:
        """The store is open: what is registered is served."""
        for queue, handling in self._registrations.items():
            self._serve(queue, handling)
        if self._listeners and self._drive is not None:
            self._teller = SimulatedTeller(self._drive, self._listeners)

    def told(self, notices: list[ReceiptNotice]) -> None:
        """What a turn brought."""
        assert self._drive is not None
        self._drive.told(notices)

    def turned(self) -> None:
        """A turn is over."""
        assert self._drive is not None
        self._drive.turned()

    def ending(self, clean: bool) -> None:
        """The life is over."""
        assert self._drive is not None
        self._last_stats = self._simulated.stats()
        for consumer in self._consumers.values():
            consumer.stop()
        self._drive.end(died=not clean)

    # -------------------------------------------------------------------------------------------- what Participant asks

    def _running(self) -> SimulatedDrive:
        if self._drive is None:
            raise PeerClosed(f"peer {self.name!r} is not started")
        if self._drive.closed:
            self._drive.wait(bool, 0)  # in a handler of a dead process nothing goes on
            raise self._drive.refusal()
        return self._drive

    @property
    def _has_started(self) -> bool:
        return self._drive is not None and not self._drive.closed

    @property
    def _is_closed(self) -> bool:
        return self._drive is None or self._drive.closed

    def _check_fork(self) -> None:
        self._network.tasks.check_thread()

    def _monotonic_s(self) -> float:
        return self._network.now

    def _wait(self, ticket: Ticket, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        def over() -> bool:
            return reached() or ticket.error is not None or ticket.closed is not None

        self._network.wait(over, timeout_s)
        if reached():
            return True
        error = ticket.error or ticket.closed
        if error is not None:
            raise error
        return False

    def _next_of(self, queue: SimpleQueue[_T], timeout_s: float | None) -> _T:
        self._network.wait(lambda: not queue.empty(), None if timeout_s is None else max(0.0, timeout_s))
        return queue.get_nowait()

    def _serve(self, queue: str, handling: Handling) -> None:
        consumer = self._consumers[queue] = SimulatedConsumer(self._running(), queue, handling.policy, handling)
        consumer.serve()

    def _is_pulled(self, queue: str) -> bool:
        return queue in self._consumers

    def _pulled(self, queue: str) -> SimulatedConsumer:
        drive = self._running()
        if queue in self._registrations:
            raise ConfigError(f"queue: {queue!r} has a handler; a queue is either handled or received from")
        if queue not in self._consumers:
            consumer = self._consumers[queue] = SimulatedConsumer(drive, queue, Policy(DEFAULT_RETRY, push=False))
            consumer.serve()
        return self._consumers[queue]

    def stats(self) -> dict[str, Any]:
        """As Peer.stats: counters since the start of this life; after its end, the last ones."""
        if self._has_started:
            with suppress(PeerClosed):
                self._last_stats = self._running().stats().result()
        return dict(self._last_stats)

    def _to_datetime(self, store_us: int) -> datetime:
        return self._simulated.running_clock.to_wall_datetime(store_us)

    def do_later(self, action: Callable[[], None]) -> None:
        """Run application code in a task of this life, not within the present turn."""
        drive = self._running()
        simulated = self._simulated
        simulated.when_awake(
            simulated.input_delay_us(), partial(self._network.tasks.start, action, lambda: drive.closed)
        )

    def __repr__(self) -> str:
        state = "running" if self._has_started else "new" if self._drive is None else "closed"
        return f"<Peer {self.name}, simulated: {state}>"


class _Callbacks:
    """What `Receipt.add_done_callback` was given: called one after the other, never within a turn."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._actions: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Nothing is needed."""

    def put(self, action: Callable[[], None]) -> None:
        """Run this after what came before."""
        self._actions.append(action)
        if len(self._actions) == 1:
            self._peer.do_later(self._work)

    def _work(self) -> None:
        try:
            while self._actions:
                self._actions[0]()
                del self._actions[0]
        finally:
            self._actions.clear()
