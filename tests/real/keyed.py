"""Keys for the peers of a test, and strangers on raw sockets who have some too."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgpack
import zmq

from tests.real.net import LIMIT_S
from zmqrel.core import frames
from zmqrel.core.entries import Settled
from zmqrel.core.lane import CONTROL
from zmqrel.outcome import Outcome
from zmqrel.runtime import keys
from zmqrel.runtime.parts import join, split

Mechanism = Literal["null", "plain", "curve"]


class Keyring:
    """The directories of keys of one test, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, name: str) -> Path:
        """The directory of a peer."""
        directory = self._folder / f"{name}.keys"
        if not directory.exists():
            keys.generate(directory)
        return directory

    def introduce(self, *names: str) -> None:
        """Each of these peers has the keys of the others."""
        for name in names:
            for other in names:
                if other != name:
                    self.give(name, other)

    def give(self, to: str, name: str, *, key_of: str | None = None) -> None:
        """A peer has the key of another one, or under that name the key of a third one; as a user would do it."""
        shutil.copy(self.of(key_of or name) / keys.PUBLIC, self.of(to) / keys.PEERS / name)

    def take(self, at: str, name: str) -> None:
        """A peer has the key of another one no more."""
        (self.of(at) / keys.PEERS / name).unlink()

    def public(self, name: str) -> bytes:
        """The public key of a peer, in Z85."""
        return keys.own_public(self.of(name))

    def secret(self, name: str) -> bytes:
        """The secret key of a peer, in Z85."""
        return (self.of(name) / keys.SECRET).read_bytes().splitlines()[1]


class Stranger:
    """A DEALER that speaks whatever it likes, and what it needs to get in, or not."""

    def __init__(self, endpoint: str, mechanism: Mechanism = "null", **curve: bytes) -> None:
        """For "curve": `server`, `public` and `secret` in Z85; `routing_id` if it is not to be a good one."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
        if mechanism == "plain":
            self.socket.setsockopt(zmq.PLAIN_USERNAME, b"shop")
            self.socket.setsockopt(zmq.PLAIN_PASSWORD, b"secret")
        elif mechanism == "curve":
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, curve["server"])
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, curve["public"])
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, curve["secret"])
            routing_id = curve.get("routing_id", b"\x01" + secrets.token_bytes(16))
            if routing_id:
                self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.socket.connect(endpoint)
        self._frames: deque[list[bytes]] = deque()

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.socket.close()
        self._context.term()

    def say(self, *parts: bytes) -> None:
        """One frame; lost if the handshake was refused, for then libzmq gives the connection up."""
        with suppress(zmq.Again):
            self.socket.send(join(parts), zmq.DONTWAIT)

    def hello(self, name: str, *, store_id: int = 7, instance: int = 1) -> bytes:
        """Introduce oneself under a name; returns the half of the session's id."""
        half = os.urandom(8)
        identity = [frames.PROTOCOL, name, store_id]
        self.say(msgpack.packb([frames.HELLO, half, instance, 0, identity, 0]))
        return half

    def heard(self) -> list[Any]:
        """The header of the next frame that comes."""
        if not self._frames:
            self._frames += split(self.socket.recv()) or []
        header: list[Any] = msgpack.unpackb(self._frames.popleft()[0])
        return header

    def heard_of(self, kind: int) -> list[Any]:
        """The header of the next frame of this type."""
        while (header := self.heard())[0] != kind:
            pass
        return header

    def open(self, name: str, *, instance: int = 1, lanes: list[Any] | None = None) -> bytes:
        """Have a session under a name, as an honest peer gets one; returns its id."""
        half = self.hello(name, instance=instance)
        while (answer := self.heard())[0] != frames.WELCOME or answer[1][:8] != half:
            if answer[0] == frames.BYE and answer[1] == half:
                half = self.hello(name, instance=instance)
        session: bytes = answer[1]
        identity = [frames.PROTOCOL, name, 7]
        reading = [0, 0, 0]
        info = [None, 1 << 20, False, False, [], lanes or []]
        self.say(msgpack.packb([frames.OPEN, session, instance, 0, identity, reading, info]))
        self.heard_of(frames.PING)
        return session


def control_frame(session: bytes, instance: int, lane_id: int, seq: int, record: bytes) -> list[bytes]:
    """A DATA frame of one entry of a control lane."""
    head = [frames.DATA, session, instance, 9, lane_id, CONTROL, "", 0, seq, [1], frames.pack_sizes([record])]
    return [msgpack.packb(head), record]


def settled(seq: int, outcome: Outcome) -> Settled:
    """That one message has this outcome."""
    return Settled(seq, seq, outcome, None, 1, 0, 0, False)
