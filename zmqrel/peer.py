"""The blocking facade: a Peer is one named process in the network, with one store, embedded in your program."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any, Final, TypeVar

from zmqrel.checks import Duration, check_bind, check_endpoint, check_name, duration_s, is_loopback
from zmqrel.control.asked import OfLoop
from zmqrel.control.listener import ControlListener
from zmqrel.control.questions import answer
from zmqrel.core import commands as c
from zmqrel.core.rows import Policy
from zmqrel.core.stats import COUNTERS, LEVELS
from zmqrel.errors import ConfigError, ForkedPeer, PeerClosed, UnknownPeer
from zmqrel.participant import DEFAULT_RETRY, CloseReport, Participant
from zmqrel.receipts import Ticket
from zmqrel.runtime.callbacks import Callbacks
from zmqrel.runtime.endpoints import check_dial
from zmqrel.runtime.loop import Loop
from zmqrel.runtime.outcomes import OutcomeTeller
from zmqrel.runtime.workers import Handling, ThreadConsumer

_T = TypeVar("_T")
_log = logging.getLogger("zmqrel")

MEMORY: Final = ":memory:"
"""The store of a peer that keeps nothing beyond its process."""


class Peer(Participant):
    """One named participant. Nothing is opened before `start`, `run` or `with`.

    `name`: 1 to 64 of a-z A-Z 0-9 . _ -; `store`: a directory, made if absent, or `zmqrel.MEMORY`; `bind`: one endpoint
    or several (tcp:// or ipc://, port `*` takes a free one); `peers`: name to endpoint, or to None for a peer that
    connects to this one; `options`: see `Options`. Raises ConfigError naming what was wrong.
    """

    def __init__(
        self,
        name: str,
        store: str | os.PathLike[str],
        *,
        bind: str | Iterable[str] = (),
        peers: Mapping[str, str | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, options)
        self._unprotected: list[str] = []
        """Endpoints that others can reach, of which the log has not warned yet."""
        self._directory = _check_store(store)
        self._bind = check_bind(bind)
        self._peers = _check_peers(self.name, {} if peers is None else peers)
        for endpoint in self._bind:
            self._check_reach("bind", endpoint)
        for peer, dialled in self._peers.items():
            self._check_reach(f"peers[{peer!r}]", dialled)
        self._consumers: dict[str, ThreadConsumer] = {}
        self._teller: OutcomeTeller | None = None
        self._loop: Loop | None = None
        self._control: ControlListener | None = None
        self._closed = False
        self._report: CloseReport | None = None
        self._last_stats: dict[str, Any] = dict.fromkeys((*COUNTERS, *LEVELS), 0)
        self._pid = os.getpid()
        self._callbacks: Callbacks = Callbacks(name)

    def _check_reach(self, parameter: str, endpoint: str | None) -> None:
        if endpoint is None or self.options.keys is not None or is_loopback(endpoint):
            return
        if not self.options.insecure:
            raise ConfigError(
                f"{parameter}: {endpoint!r} can be reached from other machines, and messages would travel unprotected; "
                "give both sides keys (keys=DIR or --keys DIR, see zmqrel keygen), use a loopback or ipc endpoint, or "
                "pass insecure=True or --insecure if the network is trusted"
            )
        self._unprotected.append(endpoint)

    def _warn_of_reach(self) -> None:
        if self._unprotected:
            _log.warning(
                "peer %s: insecure=True: nothing is encrypted and nobody is asked for a key at %s; whoever reaches "
                "these networks can read what is sent, and send, take and recall messages under any peer's name",
                self.name,
                ", ".join(self._unprotected),
            )
            self._unprotected.clear()

    # ---------------------------------------------------------------------------------------------- life

    def start(self) -> Peer:
        """Open the store and the sockets and begin. Raises StoreLocked, StoreDamaged, ConfigError and the like."""
        self._check_fork()
        with self._guard:
            if self._loop is not None:
                raise ConfigError(f"peer {self.name!r} was started before; make a new Peer to start again")
            if self._closed:
                raise PeerClosed(f"peer {self.name!r} is closed; make a new Peer to start again")
            loop = Loop(self.name, self._directory, self._bind, self.options, self._peers)
            loop.start()
            self._loop = loop
            self._warn_of_reach()
            self._control = self._controlled(loop)
        consumers = [self._consumer(queue, registration) for queue, registration in self._registrations.items()]
        # All from one turn on: what the last life died of is looked for before anything else is handed over.
        loop.serve([consumer.served for consumer in consumers]).result()
        if self._listeners:
            self._teller = OutcomeTeller(loop, self._listeners)
            self._teller.start()
        return self

    def _controlled(self, loop: Loop) -> ControlListener | None:
        """The control socket in the store's directory, through which the command line asks."""
        if self._directory is None:
            return None
        asked = OfLoop(loop, self._directory.resolve())
        listener = ControlListener(self.name, asked.directory, lambda question: answer(asked, question))
        asked.served_by(listener)
        listener.start()
        loop.when_ended(listener.end)
        return listener

    def __enter__(self) -> Peer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except PeerClosed:
            if kind is None:  # else the error that came first is the one to see
                raise

    def run(self) -> None:
        """Start, serve until SIGINT or SIGTERM, let handlers finish and close. Call it in the main thread.

        Raises what `start` raises, and PeerClosed if the peer stops for another reason than these.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("run: call it in the main thread, where signals arrive; elsewhere use start and close")
        if self._closed:
            raise PeerClosed(f"peer {self.name!r} is closed; make a new Peer to start again")
        # Not an Event: its lock may be held by the very wait that the signal interrupts.
        unless_stopped = threading.Lock()
        unless_stopped.acquire()

        def stop(*_signal: object) -> None:
            with suppress(RuntimeError):  # it was told to stop before
                unless_stopped.release()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self._loop is None:
                self.start()
            assert self._loop is not None
            self._loop.when_ended(stop)
            unless_stopped.acquire()
        finally:
            try:
                self.close()
            finally:
                for number, action in before.items():
                    signal.signal(number, action)

    def close(self, timeout: Duration = 10, drain: bool = False) -> CloseReport:
        """Refuse new calls, let running handlers finish for at most `timeout` seconds, commit and close.

        With `drain` it first waits, within the same time, until every message sent has its outcome. Returns what
        stays in the store. May be called again, and from several threads.

        Raises PeerClosed, once everything is closed, if the peer had failed before: then nobody knows what is left
        until it is started again. What was committed is in its store.
        """
        timeout_s = duration_s("timeout", timeout)
        if not isinstance(drain, bool):
            raise ConfigError.of("drain", "True or False", drain)
        self._check_fork()
        loop = self._loop
        if loop is None:
            self._closed = True
            return CloseReport(0, 0, 0)
        deadline = monotonic() + timeout_s
        if drain and not self._closed:
            self._drain(loop, deadline)
        with self._guard:
            if self._report is None:
                self._closed = True
                self._report = self._shut(loop, deadline)
            return self._report

    @staticmethod
    def _drain(loop: Loop, deadline: float) -> None:
        try:
            loop.wait_until_drained(max(0.0, deadline - monotonic()))
        except (TimeoutError, PeerClosed):
            return  # the report tells what is left

    def _shut(self, loop: Loop, deadline: float) -> CloseReport:
        for consumer in self._consumers.values():
            consumer.stop()
        for consumer in self._consumers.values():
            consumer.join(deadline)
        if self._teller is not None:
            self._teller.stop(deadline - monotonic())
        if self._control is not None:
            self._control.close()
        loop.stop()
        self._callbacks.stop(deadline - monotonic())
        loop.check()
        self._last_stats = loop.final_stats or self._last_stats
        return CloseReport.of(self._last_stats)

    @property
    def endpoints(self) -> list[str]:
        """The endpoints that are bound, with the ports that were taken."""
        return list(self._running().endpoints)

    def connect(self, name: str, endpoint: str | None) -> None:
        """Know a peer from now on, and dial it if there is an endpoint; replaces what was known."""
        loop = self._running()
        _check_peer(self.name, name, endpoint, "name", "endpoint")
        self._check_reach("endpoint", endpoint)
        self._warn_of_reach()
        if endpoint is not None:
            loop.require_key(name).result()
        self._peers[name] = endpoint
        loop.ask(c.Connect(name, endpoint)).result()

    # -------------------------------------------------------------------------------------------- receiving

    def _serve(self, queue: str, handling: Handling) -> None:
        self._consumer(queue, handling).serve()

    def _consumer(self, queue: str, registration: Handling) -> ThreadConsumer:
        limit_us = registration.time_limit_us
        consumer = ThreadConsumer(self._running(), queue, registration.policy, self.options.prefetch, limit_us)
        self._consumers[queue] = consumer
        consumer.start_workers(registration)
        return consumer

    def _pulled(self, queue: str) -> ThreadConsumer:
        loop = self._running()
        with self._guard:
            if queue in self._registrations:
                raise ConfigError(f"queue: {queue!r} has a handler; a queue is either handled or received from")
            consumer = self._consumers.get(queue)
            if consumer is None:
                consumer = ThreadConsumer(loop, queue, Policy(DEFAULT_RETRY, push=False), self.options.prefetch)
                consumer.serve()
                self._consumers[queue] = consumer
        return consumer

    def _is_pulled(self, queue: str) -> bool:
        return queue in self._consumers

    # ------------------------------------------------------------------------------------------------ the rest

    def stats(self) -> dict[str, Any]:
        """Counters since the start and what lies in the store: flat, JSON-ready, with the keys of docs/stats.md.

        After `close`, the last ones.
        """
        self._check_fork()
        if self._loop is not None and not self._closed:
            try:
                self._last_stats = self._loop.stats().result()
            except PeerClosed:
                self._loop.check()
                self._last_stats = self._loop.final_stats or self._last_stats
        return dict(self._last_stats)

    def _to_datetime(self, store_us: int) -> datetime:
        assert self._loop is not None
        return self._loop.clock.to_wall_datetime(store_us)

    def _monotonic_s(self) -> float:
        return monotonic()

    def _wait(self, ticket: Ticket, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        self._check_fork()  # in a child nothing would ever come
        return ticket.wait(reached, timeout_s)

    def _next_of(self, queue: SimpleQueue[_T], timeout_s: float | None) -> _T:
        return queue.get(timeout=timeout_s) if timeout_s is None or timeout_s > 0 else queue.get_nowait()

    @property
    def _has_started(self) -> bool:
        return self._loop is not None

    @property
    def _is_closed(self) -> bool:
        return self._closed

    def _running(self) -> Loop:
        self._check_fork()
        if self._loop is not None:
            self._loop.check()
        if self._loop is None or self._closed:
            raise PeerClosed(f"peer {self.name!r} is {'closed' if self._closed else 'not started'}")
        return self._loop

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedPeer(f"peer {self.name!r} belongs to process {self._pid}; make a Peer after the fork")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._loop is None else "running"
        return f"<Peer {self.name}: {state}>"


def _check_store(store: object) -> Path | None:
    if store == MEMORY:
        return None
    if isinstance(store, str | os.PathLike) and str(store):
        return Path(store)
    raise ConfigError.of("store", "a directory or zmqrel.MEMORY", store)


def _check_peers(own: str, peers: object) -> dict[str, str | None]:
    if not isinstance(peers, Mapping):
        raise ConfigError.of("peers", "a dict of names to endpoints, or to None", peers)
    for name, endpoint in peers.items():
        _check_peer(own, name, endpoint, "a name in peers", f"peers[{name!r}]")
    return dict(peers)


def _check_peer(own: str, name: object, endpoint: object, name_of: str, endpoint_of: str) -> None:
    """Raises ConfigError, or UnknownPeer for the own name."""
    if check_name(name, name_of) == own:
        raise UnknownPeer(f"{name_of}: {name!r} is this peer itself; a peer does not send to itself")
    if endpoint is not None:
        check_dial(check_endpoint(endpoint_of, endpoint, use="connect"))
