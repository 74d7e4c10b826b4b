"""CURVE on the sockets of one peer: who is let in, told by ZAP, and who failed to get in, told by monitors.

CURVE by itself lets every key in, and a domain without a handler lets every key in too unless it is enforced. So the
handler is there before anything is bound, and its absence is a refusal.

A connection is known by its key: ZAP hands the key on as `User-Id`, and libzmq puts that on each frame. Not the peer's
name: a key that was replaced is to be known from the one that replaced it. A client cannot set it, for libzmq lets no
property of a client's handshake replace one that ZAP gave.

**Routing ids are secrets.** What a ROUTER sends goes to whoever has the routing id, and a client chooses its own. One
that speaks ZMTP by hand may claim the id of a connection that has just ended, and would be sent what is for the other.
So each DEALER draws 16 random bytes, which travel encrypted, and who has an id of another shape is not heard.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Final, NamedTuple

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from zmqrel.runtime.keys import KeyDirectory

_ZAP: Final = "inproc://zeromq.zap.01"
_DOMAIN: Final = b"zmqrel"
_ID_MARK: Final = b"\x01"
"""Ids that begin with 0 are libzmq's own."""
_ID_BYTES: Final = 16
_BURST: Final = 16
"""Of each source, so that a flood of handshakes does not keep the I/O thread."""
_FAILED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
DESCRIPTORS: Final = 4
"""What the handler and the monitor of the ROUTER take; the monitor of a DEALER takes two."""


class Failure(NamedTuple):
    """A handshake that failed."""

    peer: str | None
    """Whom we dialled; None if somebody dialled us."""
    reason: str


class _Monitor(NamedTuple):
    """Tells of handshakes that failed."""

    reader: zmq.Socket[bytes]
    watched: zmq.Socket[bytes]
    peer: str | None
    """Whom it dials; None for the ROUTER."""


class Curve:
    """The security of one peer's sockets. Used by its I/O thread, before it binds and until all sockets are closed.

    `refused` counts handshakes of others that failed here, `failed` own ones that failed there.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyDirectory) -> None:
        """Raises OSError when no socket is to be had, and zmq.ZMQError if another peer serves this context."""
        self.refused = 0
        self.failed = 0
        self.given_up: dict[int, float] = {}
        """Dialled sockets that libzmq connects no more, and since when (monotonic), by what `guard_dealer` returned."""
        self._context = context
        self._keys = keys
        self._numbers = count()
        self._failures: dict[Failure, int] = {}
        self._shut_out: dict[bytes, float] = {}
        """Keys in Z85 that are not let in until a time (monotonic)."""
        self._monitors: dict[int, _Monitor] = {}
        """By the descriptor of its reading end."""
        self._zap: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        try:
            self._zap.bind(_ZAP)
        except BaseException:
            self._zap.close()
            raise
        self.descriptors: set[int] = {self._zap.FD}
        """What is to be waited for, to be given to `serve`."""
        self._rest: dict[int, None] = dict.fromkeys(self.descriptors)
        """Those whose sockets may hold something that they do not tell of (see `Wire`)."""

    def guard_router(self, router: zmq.Socket[bytes]) -> None:
        """Before it is bound: nobody without a key that is in the directory gets in."""
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, self._keys.own.secret)
        router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def watch_router(self, router: zmq.Socket[bytes]) -> None:
        """Once it is bound, for a socket has one monitor at a time: count who fails to get in."""
        self._watch(router, None)

    def guard_dealer(self, dealer: zmq.Socket[bytes], peer: str) -> tuple[bytes, int]:
        """Before it connects: only `peer`, whose key is there, can answer.

        Returns that key, and the descriptor that tells when it could not.
        """
        key = self._keys.of(peer)
        assert key is not None, f"peer {peer} is not dialled without its key"
        dealer.setsockopt(zmq.CURVE_SERVERKEY, key)
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.own.public)
        dealer.setsockopt(zmq.CURVE_SECRETKEY, self._keys.own.secret)
        dealer.setsockopt(zmq.ROUTING_ID, _ID_MARK + secrets.token_bytes(_ID_BYTES))
        return key, self._watch(dealer, peer)

    def _watch(self, watched: zmq.Socket[bytes], peer: str | None) -> int:
        place = f"inproc://failed-{next(self._numbers)}"  # never one of before, which may not be free yet
        watched.monitor(place, _FAILED)
        reader = self._context.socket(zmq.PAIR)
        # Without a limit: libzmq's I/O thread waits for room to tell, and would keep all connections waiting with it.
        reader.setsockopt(zmq.RCVHWM, 0)
        reader.setsockopt(zmq.LINGER, 0)
        reader.connect(place)
        descriptor = reader.FD
        self._monitors[descriptor] = _Monitor(reader, watched, peer)
        self.descriptors.add(descriptor)
        self._rest[descriptor] = None
        return descriptor

    def unwatch(self, descriptor: int) -> None:
        """Before the socket is closed of which this tells."""
        self.given_up.pop(descriptor, None)
        self._rest.pop(descriptor, None)
        self.descriptors.discard(descriptor)
        monitor = self._monitors.pop(descriptor)
        monitor.watched.disable_monitor()
        monitor.reader.close()

    def serve(self, descriptor: int) -> None:
        """One of the descriptors tells of something: take it, without waiting, and leave the rest of a flood."""
        monitor = self._monitors.get(descriptor)
        socket = self._zap if monitor is None else monitor.reader
        self._rest[descriptor] = None
        for _ in range(_BURST):
            try:
                message = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                del self._rest[descriptor]
                return
            if monitor is None:
                self._judge(message)
            else:
                self._note(descriptor, monitor.peer, message)

    @property
    def has_rest(self) -> bool:
        """Whether `serve_rest` has something to do."""
        return bool(self._rest)

    def serve_rest(self) -> None:
        """Take more of what was left for later."""
        for descriptor in list(self._rest):
            self.serve(descriptor)

    def _judge(self, request: list[bytes]) -> None:
        # ZeroMQ RFC 27: behind two frames of routing come version, request id, domain, address, routing id, mechanism
        # and credentials.
        route, version, number, mechanism, credentials = request[:2], request[2], request[3], request[7], request[8:]
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else b""
        known = self._keys.name_of(key) is not None and not self._is_shut_out(key)
        answer = (b"200", b"OK", key) if known else (b"400", b"the key is not known here", b"")
        with suppress(zmq.Again):  # who asked has gone
            self._zap.send_multipart([*route, version, number, *answer, b""], zmq.DONTWAIT)

    def _note(self, descriptor: int, peer: str | None, message: list[bytes]) -> None:
        told = parse_monitor_message(message)
        if peer is None:
            self.refused += 1
        else:
            self.failed += 1
            if told["event"] != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self.given_up[descriptor] = monotonic()
        failure = Failure(peer, _reason(told["event"], told["value"], peer))
        self._failures[failure] = self._failures.get(failure, 0) + 1

    def take_failures(self) -> dict[Failure, int]:
        """What failed since the last call, and how often."""
        failures, self._failures = self._failures, {}
        return failures

    def sender(self, routing_id: bytes, frame: zmq.Frame) -> tuple[bytes, str] | None:
        """The key of the connection over which a frame came to the ROUTER, in Z85, and whose it is.

        None if it is not to be heard. It costs as much as to receive the frame.
        """
        key = b""
        with suppress(zmq.ZMQError):
            key = str(frame.get("User-Id")).encode()
        name = self._keys.name_of(key)
        if name is None or self._is_shut_out(key) or len(routing_id) != len(_ID_MARK) + _ID_BYTES:
            return None
        return key, name

    def shut_out(self, key: bytes, for_s: float) -> None:
        """Let nobody in with this key for so long."""
        self._shut_out[key] = monotonic() + for_s

    def _is_shut_out(self, key: bytes) -> bool:
        until_s = self._shut_out.get(key)
        if until_s is None:
            return False
        if monotonic() < until_s:
            return True
        del self._shut_out[key]
        return False

    def close(self) -> None:
        """Once no socket is left to be guarded. May be repeated."""
        for descriptor in list(self._monitors):
            self.unwatch(descriptor)
        self._zap.close()
        self.descriptors.clear()
        self._rest.clear()


def _reason(event: int, value: int, peer: str | None) -> str:
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "its key is not known here" if peer is None else "it does not know our key"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "it has no keys"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        return "it takes this peer for one with another key" if peer is None else "its key is another"
    return "the connection ended in the handshake"
