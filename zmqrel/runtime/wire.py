"""The sockets: one ROUTER for those who dial us, one DEALER for each peer that we dial. Only this knows zmq.

A link is one way to reach somebody: a DEALER of ours, or a routing id that the ROUTER has seen. What travels
is a list of byte strings; what they mean, whether they arrived and who is at the other end is not known here.
A frame that was taken may be lost without a word, so nothing is kept, nothing is retried and every refusal is
just "later".
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple, ParamSpec, TypeAlias, TypeVar

import zmq
from zmq.utils.monitor import recv_monitor_message

from zmqrel.errors import ConfigError
from zmqrel.runtime.connections import Connections, cut, descriptor_of
from zmqrel.runtime.curve import DESCRIPTORS, Curve, Failure
from zmqrel.runtime.doors import LOOK_S, Doors, check_descriptors
from zmqrel.runtime.endpoints import DIAL_TAKES, bind_file, check_bindable, check_dial, is_name, not_bound, tcp_address
from zmqrel.runtime.keys import KeyDirectory
from zmqrel.runtime.parts import MAX_PARTS, MAX_TOGETHER, Frame, join, split
from zmqrel.runtime.readiness import Link, Readiness

__all__ = ["MAX_PARTS", "MAX_TOGETHER", "Configure", "Link", "Wire"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

Configure: TypeAlias = Callable[["zmq.Socket[bytes]", bool], None]
"""Called with each socket before it is bound (True) or connected (False), to set options of its own."""

MAX_INBOUND: Final = 65_536
"""Inbound links remembered, at most."""

# The acknowledgement window is the flow control. What is sent is bounded by it, so the sending mark need only
# be out of its way; the receiving mark times `max_frame_bytes` is what a hostile sender can make us hold for
# each connection.
_SEND_MARK: Final = 256
_RECEIVE_MARK: Final = 64
# Below this pyzmq's zero copy costs as much as the copy it saves, and its first use starts a thread and a
# context that stay until the process ends.
_ZERO_COPY_BYTES: Final = 256 * 1024
# From here on a copy costs more than the calls that avoid it.
_LARGE_BYTES: Final = 16 * 1024
_FAREWELL_MS = 100
# Frames taken from one socket before the next one has its turn.
_BURST: Final = 16
# For connections that hosts leave behind which vanish without a word; sessions notice silence much earlier. libzmq's
# own heartbeats would do, but if a connection ends after the receiving mark was reached, before we read on, their next
# timer fails an assertion of libzmq 4.3.5 (stream_engine_base.cpp, `!_io_error`) that ends the whole process.
_KEEPALIVE: Final = {
    zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 10, zmq.TCP_KEEPALIVE_INTVL: 5, zmq.TCP_KEEPALIVE_CNT: 4,
}  # fmt: skip
# The same for what is on its way, which otherwise is sent again for a quarter of an hour.
_UNACKNOWLEDGED_MS: Final = 60_000
_HANDSHAKE_MS: Final = 3_000
# Without it a connection that meets silence waits for the system's next SYN, up to a minute too long.
_CONNECT_MS: Final = 3_000
# Each retry waits the interval plus a random part as long again. RECONNECT_IVL_MAX would take that part away.
_RECONNECT_MS: Final = (100, 200)
# When a handshake was refused, and libzmq does not try again by itself.
_REFUSED_S: Final = 1.0
# libzmq looks names up in its own thread, at each attempt, and waits: with one thread for all, a dead name
# server stops every connection. So peers dialled by name share the second thread.
_IO_THREADS: Final = 2
_FIRST_THREAD, _SECOND_THREAD = 1, 2
_MAX_SOCKETS: Final = 16_384

_ROUTER: Final = 0

# Plain numbers: an operation on the flags of pyzmq takes longer than a system call.
_AT_ONCE: Final = int(zmq.DONTWAIT)
_MORE_AT_ONCE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)

# libzmq ends the process where it lacks a descriptor for an epoll set, or for asking which addresses there are. A
# context takes up to eight, each endpoint at most three.
_DESCRIPTORS_OF_CONTEXT: Final = 12
_DESCRIPTORS_OF_ENDPOINT: Final = 4


class _Known(NamedTuple):
    """Who is at the other end of a link, by the key of the connection."""

    name: str
    key: bytes
    descriptor: int | None = None
    """Of an inbound connection."""
    endpoint: str = ""
    """Of a dialled one."""
    monitor: int | None = None
    """The descriptor that tells of a dialled one."""


class Wire:
    """The sockets of one peer. One thread makes and uses it; `wake` alone may be called from any thread.

    Times are seconds, sizes are bytes. `endpoints` are those really bound, in the order given, with the port
    that was found where `*` was asked for. `dropped` counts the frames thrown away because they had more than
    MAX_PARTS parts, or were not one part to ZeroMQ; `unheard` those of connections that nobody is known by the key of.
    """

    endpoints: list[str]
    dropped: int
    unheard: int

    def __init__(
        self,
        bind: Sequence[str],
        *,
        max_frame_bytes: int,
        rng: random.Random,
        keys: KeyDirectory | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        configure: Configure | None = None,
    ) -> None:
        """Bind every endpoint; without any there is no ROUTER, and nobody can dial us.

        A frame of more than `max_frame_bytes` ends the connection that it came over. `rng` spreads the retries
        of sockets that connect. With `keys` only those get in, and are dialled, who have one there, and each link is
        known by its name. A `context` given is used and left open; then peers dialled by name have a
        thread apart only if it has two. Raises ConfigError for an endpoint that is malformed, in use or not
        to be had here, and OSError when the system has no descriptors left; whatever was bound by then is
        unbound.
        """
        guarded = DESCRIPTORS if keys is not None else 0
        check_descriptors(_DESCRIPTORS_OF_CONTEXT + guarded + _DESCRIPTORS_OF_ENDPOINT * len(bind))
        self.endpoints = []
        self.dropped = 0
        self.unheard = 0
        self.closed: set[Link] = set()
        self._max_frame_bytes = max_frame_bytes
        self._rng = rng
        self._configure = configure
        self._context = zmq.Context(_IO_THREADS) if context is None else context
        self._owns_context = context is None
        if self._owns_context:
            self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._router: zmq.Socket[bytes] | None = None
        self._doors = Doors()
        self._refused_at: set[int] = set()
        self.on_doors: Callable[[bool], None] | None = None
        """Called when the process has run short of descriptors (True), so that nobody new can connect, or has not any
        more (False)."""
        self._dialled: dict[Link, zmq.Socket[bytes]] = {}
        self._routing_ids: dict[Link, bytes] = {}
        self._known: dict[Link, _Known] = {}
        """With keys: every link."""
        self._connections = Connections()
        self._places: set[int | str] = set()
        """Ports and paths at which others come in."""
        self._inbound: OrderedDict[bytes, Link] = OrderedDict()
        self._no_frames: list[tuple[Link, int]] = []
        self._cut_next: set[bytes] = set()
        """Routing ids whose connections are to end with the next frame that comes over them."""
        self._last_link = _ROUTER
        self._readiness = Readiness()
        self._last_served = _ROUTER
        self._keys = keys
        self._curve: Curve | None = None
        try:
            if keys is not None:
                # Before the first bind: without a handler there is nobody to say who gets in.
                self._curve = self._made(Curve, self._context, keys)
            self._bind_all(bind)
            if self._curve is not None:
                for fd in self._curve.descriptors:
                    self._readiness.add_other(fd, self._curve.serve)
        except BaseException:
            self.close()
            raise

    def dial(self, endpoint: str, peer: str = "") -> Link:
        """Connect a new DEALER to `endpoint`, now and whenever the connection is lost; return its fresh link.

        With keys, only `peer`, whose key is there, can answer. Names are looked up as IPv4 addresses. Raises
        ConfigError if the endpoint is malformed, OSError when the system has no descriptors left.
        """
        check_dial(endpoint)
        link = self._last_link + 1
        self._connect(link, endpoint, peer)
        self._last_link = link
        return link

    def _connect(self, link: Link, endpoint: str, peer: str) -> None:
        dealer = self._socket(zmq.DEALER)
        try:
            self._set_dealer_options(dealer, endpoint)
            if self._curve is not None:
                key, monitor = self._made(self._curve.guard_dealer, dealer, peer)
                self._known[link] = _Known(peer, key, endpoint=endpoint, monitor=monitor)
                self._readiness.add_other(monitor, self._curve.serve)
            dealer.connect(endpoint)
        except BaseException as error:
            self._forget_known(link)
            dealer.close()
            if isinstance(error, zmq.ZMQError):
                raise ConfigError.of("endpoint", DIAL_TAKES, endpoint) from error
            raise
        self._dialled[link] = dealer
        self._readiness.add(link, dealer)

    def _connect_again(self) -> None:
        """Make those sockets anew that libzmq connects no more, for it gives up when a handshake was refused."""
        given_up = {} if self._curve is None else self._curve.given_up
        since = monotonic() - _REFUSED_S
        # Looked at in every turn while there are any, and links may be thousands.
        due = {monitor for monitor, gave_up_at in given_up.items() if gave_up_at <= since}
        if due:
            for link, known in [(link, known) for link, known in self._known.items() if known.monitor in due]:
                self._connect_anew(link, known)

    def _connect_anew(self, link: Link, known: _Known) -> None:
        """Under the same link: it is as if the socket had connected anew by itself."""
        self._forget_known(link)
        dealer = self._dialled.pop(link)
        self._readiness.remove(link)
        dealer.close(0)
        try:
            self._connect(link, known.endpoint, known.name)
        except OSError:  # no descriptors left
            self.hang_up(link)

    def name_of(self, link: Link) -> str | None:
        """With keys: who is at the other end, by the key of the connection; None of a link that is not known."""
        known = self._known.get(link)
        return None if known is None else known.name

    def quiet_us(self, link: Link) -> int | None:
        """For how long not even a part of a frame has come over the link, microseconds; None if that is not known."""
        return self._connections.quiet_us(link)

    def is_sending(self, link: Link) -> bool:
        """Whether some of what the system took for the link has not arrived at the other machine."""
        return self._connections.is_sending(link)

    def cut_unknown(self) -> list[Link]:
        """End every connection whose key is not known any more, whoever dialled; returns their links, which are gone.

        An inbound one over which no frame has come yet has no link: it ends with its first frame.
        """
        keys = self._keys
        if keys is None:
            return []
        gone = {link: known for link, known in self._known.items() if keys.name_of(known.key) != known.name}
        for link, known in gone.items():
            self._cut(known.descriptor)
            self._end(link, 0)
        return list(gone)

    def shut_out(self, link: Link, for_s: float) -> list[Link]:
        """End an inbound connection; with keys all of its peer, whose key is refused for so long.

        Returns the links that are gone; none of a dialled one, which stays.
        """
        routing_id = self._routing_ids.get(link)
        if routing_id is None:
            return []
        known = self._known.get(link)
        if known is None or self._curve is None:
            self._cut_next.add(routing_id)
            return []
        self._curve.shut_out(known.key, for_s)
        gone = [other for other, its in self._known.items() if its.key == known.key and other not in self._dialled]
        for other in gone:
            self._cut(self._known[other].descriptor)
            self.hang_up(other)
        return gone

    def take_no_frames(self) -> list[tuple[Link, int]]:
        """Over which links something came since the last call that was no frame, and how many bytes."""
        no_frames, self._no_frames = self._no_frames, []
        return no_frames

    def take_failures(self) -> dict[Failure, int]:
        """With keys: handshakes that failed since the last call, and how often."""
        return {} if self._curve is None else self._curve.take_failures()

    @property
    def counts(self) -> dict[str, int]:
        """What is counted here and not in the core, as core/stats.py names it."""
        refused, failed = (0, 0) if self._curve is None else (self._curve.refused, self._curve.failed)
        return {"connections_refused": refused, "connections_failed": failed, "unheard_frames": self.unheard}

    def hang_up(self, link: Link) -> None:
        """Close a dialled link, which has a moment to send what it took; forget an inbound one.

        An inbound connection itself stays: its next frame brings a fresh link. Unknown links are ignored.
        """
        self._end(link, _FAREWELL_MS)

    def _end(self, link: Link, linger_ms: int) -> None:
        self._forget_known(link)
        self._connections.forget(link)
        dealer = self._dialled.pop(link, None)
        if dealer is not None:
            self._readiness.remove(link)
            dealer.close(linger_ms)
            return
        self.closed.discard(link)
        routing_id = self._routing_ids.pop(link, None)
        if routing_id is not None:
            del self._inbound[routing_id]
            self._cut_next.discard(routing_id)

    def _forget_known(self, link: Link) -> None:
        known = self._known.pop(link, None)
        if known is not None and known.monitor is not None and self._curve is not None:
            self._readiness.remove_other(known.monitor)
            self._curve.unwatch(known.monitor)

    def send(self, link: Link, *frames: Frame) -> bool:
        """Give frames to the link, together, never waiting; return whether they may arrive: all of them or none.

        1 to MAX_TOGETHER, each of at least one part. False means later: nobody is connected, or the other side does not
        keep up; or the link is unknown.
        """
        message: tuple[bytes, ...] = (join(*frames),)
        socket = self._dialled.get(link)
        if socket is not None:
            self._readiness.used(link)
        else:
            routing_id = self._routing_ids.get(link)
            if routing_id is None or self._router is None:
                return False
            socket, message = self._router, (routing_id, *message)
            self._readiness.used(_ROUTER)
        try:
            _send(socket, message)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                # Without keys each connection has another routing id; with them it is the same, and may come back.
                self.closed.add(link)
            elif error.errno != zmq.EAGAIN:
                raise
            return False
        return True

    def receive(self, max_frames: int, max_bytes: int) -> list[tuple[Link, list[bytes]]]:
        """Take frames that are here, never waiting, until there are `max_frames` or `max_bytes`.

        The message with which that is so is taken as a whole. Sockets take turns, from call to call too, so that a
        busy one does not keep the others from being read. The ROUTER does the same among those who dialled us.
        """
        taken: list[tuple[Link, list[bytes]]] = []
        turns = self._turns()
        while turns and max_frames > 0 and max_bytes > 0:
            source = turns.popleft()
            self._last_served = source
            burst = min(_BURST, max_frames)
            frames, size = self._take(source, burst, max_bytes, taken)
            max_frames -= frames
            max_bytes -= size
            if frames >= burst:
                turns.append(source)
        return taken

    def wait(self, timeout_s: float | None, ready: Callable[[], bool]) -> None:
        """Sleep until a frame can be read, `wake` is called or `timeout_s` is over (None: for ever).

        Returns at once if a frame is here or `ready()` is true. `ready` is asked after this thread has said
        that it sleeps. So whoever queues work and then calls `wake` either queued it before `ready` looked,
        which sees it, or after, and then `wake` finds the sleeper and rings. `ready` must therefore look at
        everything that `wake` is called for. It may return early for no reason: look, and wait again.
        """
        self._look_at_doors()
        if self._curve is not None:
            self._curve.serve_rest()
            if self._curve.given_up:
                self._connect_again()
        more = self._curve is not None and self._curve.has_rest
        look_s = LOOK_S if self._doors else math.inf
        self._readiness.wait(0.0 if more else timeout_s, ready, self._look_at_doors, look_s)

    def _look_at_doors(self) -> None:
        changed = self._doors.look()
        wanted = self._doors.to_poll
        if wanted != self._refused_at:
            for fd in wanted - self._refused_at:
                self._readiness.add_other(fd, self._doors.refuse)
            for fd in self._refused_at - wanted:
                self._readiness.remove_other(fd)
            self._refused_at = wanted
        if changed and self.on_doors is not None:
            self.on_doors(self._doors.shut)

    def wake(self) -> None:
        """End `wait`, from any thread; after `close` too. Costs no system call unless it sleeps.

        The work has to be queued before the call.
        """
        self._readiness.wake()

    def close(self) -> None:
        """Close everything and leave no socket file behind. May be repeated.

        Frames that were sent have a tenth of a second to leave, so that a last word is not lost.

        With a context of our own it waits for libzmq's threads: for long only if one is looking up a name.
        """
        for link in list(self._dialled):
            self.hang_up(link)
        self._doors.close()
        if self._curve is not None:
            self._curve.close()
        if self._router is not None:
            self._router.close(_FAREWELL_MS)
            self._router = None
        self._routing_ids.clear()
        self._inbound.clear()
        self._readiness.close()
        if self._owns_context:
            self._context.term()

    def _bind_all(self, endpoints: Sequence[str]) -> None:
        for endpoint in endpoints:
            check_bindable(endpoint)
        if endpoints:
            self._router = router = self._socket(zmq.ROUTER)
            self._readiness.add(_ROUTER, router)
            self._set_router_options(router)
            if self._curve is not None:
                self._curve.guard_router(router)
            with router.get_monitor_socket(zmq.EVENT_LISTENING) as monitor:
                for endpoint in endpoints:
                    if endpoint.startswith("ipc://"):
                        self.endpoints.append(self._bind_ipc(router, endpoint))
                    else:
                        self.endpoints.append(self._bind_tcp(router, endpoint, monitor))
            router.disable_monitor()
            if self._curve is not None:
                self._made(self._curve.watch_router, router)

    def _bind_tcp(self, router: zmq.Socket[bytes], endpoint: str, monitor: zmq.Socket[bytes]) -> str:
        # For each endpoint: with it set, libzmq names 127.0.0.1 as [::ffff:127.0.0.1], which an IPv4 peer
        # cannot dial.
        router.setsockopt(zmq.IPV6, "[" in endpoint)
        while monitor.poll(0):
            recv_monitor_message(monitor)
        try:
            router.bind(endpoint)
            while monitor.poll(0):
                self._doors.add_socket(recv_monitor_message(monitor)["value"])
        except (zmq.ZMQError, OSError) as error:
            raise not_bound(endpoint, error) from error
        bound = router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._places.add(int(bound.rpartition(":")[2]))
        return bound

    def _bind_ipc(self, router: zmq.Socket[bytes], endpoint: str) -> str:
        try:
            file, path = bind_file(router, endpoint)
            self._doors.add_file(file)
            self._places.add(path)
        except (zmq.ZMQError, OSError) as error:
            raise not_bound(endpoint, error) from error
        return endpoint

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        return self._made(self._context.socket, kind)

    @staticmethod
    def _made(make: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """What opens sockets. Raises OSError when none is to be had."""
        try:
            return make(*arguments, **named)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"no socket can be opened: {error.strerror}") from error

    def _set_common_options(self, socket: zmq.Socket[bytes], *, server: bool) -> None:
        socket.setsockopt(zmq.LINGER, 0)  # The outbox is the truth; the default waits for ever at exit.
        socket.setsockopt(zmq.SNDHWM, _SEND_MARK)
        socket.setsockopt(zmq.RCVHWM, _RECEIVE_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_frame_bytes)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        for option, value in _KEEPALIVE.items():
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.TCP_MAXRT, _UNACKNOWLEDGED_MS)
        if self._configure is not None:
            self._configure(socket, server)

    def _set_router_options(self, router: zmq.Socket[bytes]) -> None:
        # Without MANDATORY what cannot be routed vanishes; with HANDOVER anybody could take a routing id over.
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.ROUTER_HANDOVER, 0)
        self._set_affinity(router, _FIRST_THREAD)
        self._set_common_options(router, server=True)

    def _set_dealer_options(self, dealer: zmq.Socket[bytes], endpoint: str) -> None:
        # No routing id, but with keys (curve.py): one stays deaf while the other side believes in the last connection.
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.RECONNECT_IVL, self._rng.randint(*_RECONNECT_MS))
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_MS)
        # For a name with addresses of both kinds it would leave only the IPv6 one to be tried.
        dealer.setsockopt(zmq.IPV6, "[" in endpoint)
        address = tcp_address(endpoint)
        named = address is not None and is_name(address[0])
        self._set_affinity(dealer, _SECOND_THREAD if named else _FIRST_THREAD)
        self._set_common_options(dealer, server=False)

    def _set_affinity(self, socket: zmq.Socket[bytes], thread: int) -> None:
        if self._context.get(zmq.IO_THREADS) >= _IO_THREADS:
            socket.setsockopt(zmq.AFFINITY, thread)

    def _new_link(self) -> Link:
        self._last_link += 1
        return self._last_link

    def _inbound_link(self, routing_id: bytes, frame: zmq.Frame) -> Link | None:
        """The link of a routing id, fresh if it was not seen before. The longest silent one makes room.

        None if it is not to be heard, by the key with which the connection of this frame was made.
        """
        link = self._inbound.get(routing_id)
        if link is not None:
            self._inbound.move_to_end(routing_id)
            return link
        link = self._new_link()
        if self._curve is not None and not self._learn(link, routing_id, frame):
            return None
        self._inbound[routing_id] = link
        self._routing_ids[link] = routing_id
        if len(self._inbound) > MAX_INBOUND:
            self.hang_up(next(iter(self._inbound.values())))
        return link

    def _cut(self, descriptor: int | None) -> None:
        """End an inbound connection. None is one that is not to be had any more, or not inbound."""
        if descriptor is not None:
            cut(descriptor, self._places)

    def _cut_now(self, routing_id: bytes, frame: zmq.Frame) -> None:
        """Which descriptor a connection has is known from its next frame."""
        self._cut_next.discard(routing_id)
        self._cut(descriptor_of(frame))

    def _learn(self, link: Link, routing_id: bytes, frame: zmq.Frame) -> bool:
        """Note who is at the other end of a fresh link. One that is not to be heard is cut."""
        assert self._curve is not None
        sender = self._curve.sender(routing_id, frame)
        descriptor = descriptor_of(frame)
        if sender is None:
            self._cut(descriptor)
            return False
        key, name = sender
        self._known[link] = _Known(name, key, descriptor=descriptor)
        return True

    def _socket_of(self, link: Link) -> zmq.Socket[bytes] | None:
        """Where frames of a source come from."""
        return self._router if link == _ROUTER else self._dialled.get(link)

    def _turns(self) -> deque[Link]:
        """The readable sockets, beginning behind the one served last; what `wait` found is used once."""
        if not self._readiness.is_known:
            self.wait(0.0, bool)
        return self._readiness.take(self._last_served)

    def _take(self, source: Link, burst: int, max_bytes: int, taken: list[tuple[Link, list[bytes]]]) -> tuple[int, int]:
        """Read about `burst` frames of one socket into `taken`; return how many were read, and their bytes.

        What came together is taken together. Dropped messages count, or a stream of them would keep the caller here.
        """
        socket = self._socket_of(source)
        wanted = 2 if source == _ROUTER else 1
        count = size = 0
        while socket is not None and count < burst and size < max_bytes:
            got = _receive(socket, wanted)
            if got is None:
                # Tried, not asked for: asking makes libzmq drop what is left of a connection that has ended.
                self._readiness.read_to_its_end(source)
                break
            received, last = got
            routing_id = bytes(received[0]) if source == _ROUTER and received else None
            size += sum(map(len, received))
            frames = split(received[-1]) if len(received) == wanted else None
            count += len(frames) if frames else 1
            if routing_id is not None and routing_id in self._cut_next:
                self._cut_now(routing_id, last)
            link: Link | None = source
            if source == _ROUTER:
                link = self._inbound_link(routing_id, last) if routing_id is not None else None
            if frames is None:
                self.dropped += 1
                if link is not None:
                    self._no_frames.append((link, sum(map(len, received))))
                continue
            if link is None:
                self.unheard += len(frames)
                continue
            self._connections.note(link, last)
            taken += [(link, parts) for parts in frames]
        return count, size


def _send(socket: zmq.Socket[bytes], parts: Sequence[bytes]) -> None:
    # send_multipart does the same and checks every part again: twice the cost for small ones.
    for part in parts[:-1]:
        socket.send(part, _MORE_AT_ONCE, len(part) < _ZERO_COPY_BYTES)
    socket.send(parts[-1], _AT_ONCE, len(parts[-1]) < _ZERO_COPY_BYTES)


def _receive(socket: zmq.Socket[bytes], limit: int) -> tuple[list[bytes | memoryview], zmq.Frame] | None:
    """One message and the last Frame of it, or None if there is none. Of one with more than `limit` parts, `limit` + 1
    are returned.

    Nothing of one whose rest is missing (see parts.py): the next that libzmq gives belongs to another message.
    """
    try:
        frame = socket.recv(_AT_ONCE, copy=False)
    except zmq.Again:
        return None
    parts = [_content(frame)]
    # copy=False for its `more`: asking the socket for RCVMORE costs more than the copy out of the Frame.
    while frame.more:
        try:
            frame = socket.recv(_AT_ONCE, copy=False)
        except zmq.Again:
            return [], frame
        if len(parts) <= limit:
            parts.append(_content(frame))
    return parts, frame


def _content(frame: zmq.Frame) -> bytes | memoryview:
    # What is large is copied once, when it is split.
    return frame.buffer if len(frame) >= _LARGE_BYTES else frame.bytes
