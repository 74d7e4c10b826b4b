"""A peer that does its worst, with a valid key. Written from docs/wire.md on raw pyzmq, with no code of zmqrel.

    python hostile.py ENDPOINT NAME OTHER [SERVER_KEY PUBLIC_KEY SECRET_KEY]

It attacks from each line "flood" or "needle" on its standard input to the next line "rest", which it answers with how
many messages of each kind it has sent so far, as JSON; it ends with its input. To needle is to send no more than a few
hundred small messages a second, in the hope not to be shut out.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from time import monotonic, sleep
from typing import Any
from zlib import crc32

import msgpack
import zmq

HELLO, WELCOME, OPEN, BYE, PING, PONG, DATA, ACK = range(1, 9)
CONTROL, MESSAGES, DELAYED, LOCAL = range(4)
WITHDRAW, SETTLE, NOTICE, STATE, DENY = range(1, 6)
EDGES = [0, 1, 2, 3, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]
CONNECTIONS = 4
STORE = 0x5708E
QUEUE = "dump"


def sealed(payload: bytes) -> bytes:
    """With the CRC-32 that each record ends in."""
    return payload + crc32(payload).to_bytes(4, "little")


def record(body: bytes, *, sent_us: int = 1, deadline_us: int = 0, meta: bytes = b"") -> bytes:
    """A MESSAGE."""
    return sealed(struct.pack(">IQQ", len(meta), sent_us, deadline_us) + meta + body)


def parts(*pieces: bytes) -> bytes:
    """A frame of several parts as one message."""
    return b"\xc1" + struct.pack(f">H{len(pieces)}I", len(pieces), *map(len, pieces)) + b"".join(pieces)


class Connection:
    """One DEALER, and the session that it may have. Who is not let in comes again."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, keys: Sequence[str]) -> None:
        self._made_with = context, endpoint, keys
        self.connect()

    def connect_again(self) -> None:
        """Nothing was taken for a while."""
        if monotonic() - self.took_s > 0.3:
            self.socket.close()
            self.connect()

    def connect(self) -> None:
        """A new socket."""
        context, endpoint, keys = self._made_with
        self.took_s = monotonic()
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 8)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        if keys:
            server, public, secret = (key.encode() for key in keys)
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, server)
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
            self.socket.setsockopt(zmq.ROUTING_ID, b"\x01" + os.urandom(16))
        self.socket.connect(endpoint)
        self.session = b""
        self.half = os.urandom(8)


class Attacker:
    """What it knows of its victim, and what it makes of that."""

    def __init__(self, endpoint: str, name: str, other: str, keys: Sequence[str]) -> None:
        self.rng = Random(1)
        self.name, self.other = name, other
        self.instance = 1
        self.victim_store = 0
        self.victim_lanes: list[int] = [0]
        self.floors: dict[int, int] = {}
        self.control = 0xC0
        self.sent: Counter[str] = Counter()
        context: zmq.Context[Any] = zmq.Context()
        self.connections = [Connection(context, endpoint, keys) for _ in range(CONNECTIONS)]
        self.kinds: list[Callable[[Connection], bytes | list[bytes]]] = [
            self.garbage, self.nested, self.wrong_state, self.hello, self.open, self.bye, self.ping, self.pong,
            self.ack, self.gap, self.forged_lane, self.runs, self.withdraw, self.tombstones, self.settle, self.notice,
            self.state, self.deny, self.message, self.many_lanes, self.many_parts, self.together, self.multipart,
            self.large,
        ]  # fmt: skip

    # -------------------------------------------------------------------------------------------- as a peer would

    def hear(self, connection: Connection) -> None:
        """Everything that came: sessions, lanes and floors."""
        while True:
            try:
                message = connection.socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            for header in headers(message):
                self.learn(connection, header)

    def learn(self, connection: Connection, header: list[Any]) -> None:
        """What one frame tells."""
        if header[0] == WELCOME and header[1][:8] == connection.half:
            connection.session = header[1]
            self.victim_store = header[4][2]
            self.victim_lanes += [lane[0] for lane in header[6][5]]
            info = [None, 2**40, False, False, [], []]
            self.say(connection, [OPEN, *self.head(connection), [1, self.name, STORE], [0, 0, 0], info])
        elif header[0] == BYE:
            connection.session = b""
        elif header[0] == ACK:
            self.floors.update((lane[0], lane[1]) for lane in header[4])
        elif header[0] == DATA:
            self.victim_lanes.append(header[4])
        del self.victim_lanes[:-50]

    def head(self, connection: Connection) -> list[Any]:
        """Session, instance and commit count."""
        return [connection.session or connection.half, self.instance, self.rng.choice([1, 5, 2**64 - 1])]

    def say(self, connection: Connection, header: list[Any]) -> None:
        """A header alone, if there is room for it."""
        with suppress(zmq.Again):
            connection.socket.send(msgpack.packb(header), zmq.DONTWAIT)

    def introduce(self, connection: Connection) -> None:
        """Ask for a session."""
        connection.half = os.urandom(8)
        self.say(connection, [HELLO, connection.half, self.instance, 0, [1, self.name, STORE], 0])

    def data(self, connection: Connection, lane: list[Any], first: int, runs: list[int], records: list[bytes]) -> bytes:
        """DATA; `lane` is its id, kind and queue."""
        sizes = b"".join(len(each).to_bytes(4, "big") for each in records)
        header = [DATA, *self.head(connection), *lane, 0, first, runs, sizes]
        return parts(msgpack.packb(header), b"".join(records))

    def entries(self, connection: Connection, *entries: list[Any]) -> bytes:
        """The next entries of the control lane."""
        records = [sealed(msgpack.packb(entry)) for entry in entries]
        first = self.floors.get(self.control, 0) + 1
        return self.data(connection, [self.control, CONTROL, ""], first, [len(records)], records)

    # ------------------------------------------------------------------------------------------------ its worst

    def edge(self) -> int:
        return self.rng.choice(EDGES)

    def lane(self) -> int:
        return self.rng.choice([*self.victim_lanes, *self.floors, self.edge(), 0xDA7A])

    def ranges(self) -> list[list[int]]:
        """Endless, negative and senseless ones too."""
        return [self.rng.choice([[1, 2**63], [self.edge(), self.edge()], [5, 1], [-3, 7]]) for _ in range(3)]

    def garbage(self, _: Connection) -> bytes:
        return self.rng.randbytes(self.rng.choice([0, 1, 30, 1000, 100_000]))

    def nested(self, _: Connection) -> bytes:
        kind = self.rng.choice([b"\x91", b"\x81\x01", b"\xdd\xff\xff\xff\xff", b"\x90"])
        return bytes([0x95, self.rng.randrange(1, 9)]) + kind * self.rng.choice([100, 10_000, 200_000])

    def wrong_state(self, connection: Connection) -> bytes:
        """Each type, with what belongs into it, in sessions that are none or another's."""
        session = self.rng.choice([os.urandom(16), connection.half, connection.half + bytes(8), bytes(16)])
        identity, info = [1, self.name, STORE], [None, 1, False, False, [], []]
        fields: list[Any] = self.rng.choice(
            [
                [WELCOME, identity, [0, 0, 0], info], [OPEN, identity, [0, 0, 0], info], [BYE, "x"], [PING, 5],
                [PONG, 5, 5, 5], [ACK, [[self.lane(), self.edge(), 5, 5, True]]],
                [DATA, 7, MESSAGES, QUEUE, 0, 1, [-1], b""],
            ]
        )  # fmt: skip
        header = msgpack.packb([fields[0], session, self.instance, 1, *fields[1:]])
        return parts(header, b"") if fields[0] == DATA else header

    def hello(self, _: Connection) -> bytes:
        name = self.rng.choice([self.name, self.other, "nobody", "x" * 64, "../x", ""])
        store = self.rng.choice([STORE, 5])
        return bytes(msgpack.packb([HELLO, os.urandom(8), self.edge(), self.edge(), [1, name, store], self.edge()]))

    def open(self, connection: Connection) -> bytes:
        heard = self.rng.choice([None, [self.victim_store, self.edge(), self.edge()]])
        old = [self.rng.random() < 0.2, self.rng.random() < 0.2]
        floors = [[self.lane(), self.edge()] for _ in range(3)]
        lanes = [[self.lane(), MESSAGES, QUEUE, False, 1, self.edge(), self.edge()] for _ in range(3)]
        identity = [1, self.rng.choice([self.name, self.other]), STORE]
        info = [heard, self.edge(), *old, floors, lanes]
        return bytes(msgpack.packb([OPEN, *self.head(connection), identity, [self.edge()] * 3, info]))

    def bye(self, connection: Connection) -> bytes:
        session = os.urandom(16) if self.rng.random() < 0.99 else connection.session
        return bytes(msgpack.packb([BYE, session, self.instance, 1, "x" * 200]))

    def ping(self, connection: Connection) -> bytes:
        return bytes(msgpack.packb([PING, *self.head(connection), self.edge()]))

    def pong(self, connection: Connection) -> bytes:
        return bytes(msgpack.packb([PONG, *self.head(connection), self.edge(), self.edge(), self.edge()]))

    def ack(self, connection: Connection) -> bytes:
        """Forged floors, huge grants."""
        lanes = [[self.lane(), self.edge(), self.edge(), self.edge(), False] for _ in range(self.rng.choice([1, 5000]))]
        return bytes(msgpack.packb([ACK, *self.head(connection), lanes]))

    def gap(self, connection: Connection) -> bytes:
        lanes = [[lane, 0, 2**63, 2**63, True] for lane in self.victim_lanes]
        return bytes(msgpack.packb([ACK, *self.head(connection), lanes]))

    def forged_lane(self, connection: Connection) -> bytes:
        kind = self.rng.choice([CONTROL, MESSAGES, DELAYED, LOCAL, 7, 2**64 - 1])
        queue = self.rng.choice(["", QUEUE, "work", "\0", "x" * 64])
        return self.data(connection, [self.lane(), kind, queue], self.edge(), [1], [record(b"\xc0")])

    def runs(self, connection: Connection) -> bytes:
        runs = self.rng.choice([[-(2**63)], [-1] * 60_000, [2**63], [1, -(2**62), -(2**62)], [0], [-(10**9)]])
        return self.data(connection, [self.lane(), MESSAGES, QUEUE], self.rng.choice([1, self.edge()]), runs, [])

    def withdraw(self, connection: Connection) -> bytes:
        cause = self.rng.choice([1, 2, 3, 4])
        return self.entries(connection, [WITHDRAW, STORE, self.lane(), MESSAGES, QUEUE, self.ranges(), cause])

    def tombstones(self, connection: Connection) -> bytes:
        """Of what will never come, for millions."""
        first = self.rng.randrange(1, 10**9)
        return self.entries(connection, [WITHDRAW, STORE, 0xDA7A, MESSAGES, QUEUE, [[first, first + 19_999]], 1])

    def settle(self, connection: Connection) -> bytes:
        """Of what was never sent, or to somebody else."""
        ranges = [[1, 2**63, self.rng.randrange(8), "x" * 500, 1, 5, 5, False]] * self.rng.choice([1, 250, 5000])
        store = self.rng.choice([self.victim_store, 5])
        return self.entries(connection, [SETTLE, store, self.lane(), ranges])

    def notice(self, connection: Connection) -> bytes:
        return self.entries(connection, [NOTICE, self.victim_store, self.lane(), self.edge(), self.edge()])

    def state(self, connection: Connection) -> bytes:
        ranges = [[2 * n, 2 * n] for n in range(1, self.rng.choice([3, 9000]))]
        received = [[self.lane(), 1, 2**63, ranges, [[self.edge(), 1]]]]
        sent = [[self.lane(), 1, 2**63, 2**63, bool(self.rng.randrange(2)), ranges[:5]]]
        return self.entries(connection, [STATE, STORE, self.victim_store, received, sent, True])

    def deny(self, connection: Connection) -> bytes:
        return self.entries(connection, [DENY, self.victim_store, self.lane(), self.ranges(), "x" * 300])

    def message(self, connection: Connection) -> bytes:
        """To a queue that nobody serves, as many as it is let."""
        lane = 0xDA7A
        meta = self.rng.choice([b"", bytes(70_000), msgpack.packb(["k", None, None, 2**60, "drop", None, None, None])])
        records = [record(msgpack.packb(bytes(self.rng.choice([1, 3000]))), meta=meta) for _ in range(20)]
        return self.data(connection, [lane, MESSAGES, QUEUE], self.floors.get(lane, 0) + 1, [20], records)

    def many_lanes(self, connection: Connection) -> bytes:
        lane = [self.rng.getrandbits(63), MESSAGES, f"{QUEUE}-{self.rng.randrange(10**6)}"]
        return self.data(connection, lane, 1, [-1], [])

    def many_parts(self, _: Connection) -> bytes:
        return parts(*[b"x"] * self.rng.choice([3, 9, 65_535]))

    def together(self, connection: Connection) -> bytes:
        """Many frames as one message, also more than may be, and some in some."""
        frames = [self.ping(connection)] * self.rng.choice([2, 16, 17, 60_000])
        bundle = b"\xc2" + struct.pack(f">H{len(frames)}I", len(frames), *map(len, frames)) + b"".join(frames)
        return self.rng.choice([bundle, b"\xc2\x00\x01" + len(bundle).to_bytes(4, "big") + bundle])

    def multipart(self, connection: Connection) -> list[bytes]:
        return [self.ping(connection)] * self.rng.choice([2, 300])

    def large(self, _: Connection) -> bytes:
        """Also more than a frame may have, which ends the connection. Seldom, for it would be all that is seen."""
        return bytes(self.rng.choice([6 << 20, 3 << 20]) if self.rng.random() < 0.03 else 70_000)

    def needle(self) -> None:
        """Small messages, one every few milliseconds."""
        sleep(0.003)
        self.attack(lambda message: len(message) < 2000)

    def attack(self, fits: Callable[[bytes | list[bytes]], bool] = bool) -> None:
        """One message over one connection, waiting a little if it is not taken."""
        connection = self.rng.choice(self.connections)
        self.hear(connection)
        if not connection.session and self.rng.random() < 0.2:
            self.introduce(connection)
        kind = self.rng.choice(self.kinds)
        try:
            message = kind(connection)
        except OverflowError:
            return  # a number that MessagePack cannot carry
        if not fits(message):
            return
        pieces = message if isinstance(message, list) else [message]
        try:
            connection.socket.send_multipart(pieces, zmq.DONTWAIT)
            self.sent[kind.__name__] += 1
            connection.took_s = monotonic()
        except zmq.Again:
            connection.socket.poll(5, zmq.POLLOUT)
            connection.connect_again()


def headers(message: bytes) -> list[list[Any]]:
    """Those of all frames of a message."""
    if message.startswith(b"\xc2"):
        return [header for frame in apart(message) for header in headers(frame)]
    frame = apart(message)[0] if message.startswith(b"\xc1") else message
    return [msgpack.unpackb(frame)]


def apart(message: bytes) -> list[bytes]:
    """What was put together with a table of lengths in front."""
    count = int.from_bytes(message[1:3], "big")
    at, pieces = 3 + 4 * count, []
    for length in struct.unpack_from(f">{count}I", message, 3):
        pieces.append(message[at : at + length])
        at += length
    return pieces


def main() -> None:
    endpoint, name, other, *keys = sys.argv[1:]
    attacker = Attacker(endpoint, name, other, keys)
    ways = {"flood": attacker.attack, "needle": attacker.needle}
    way: list[Callable[[], None]] = [attacker.attack]
    going, ended = threading.Event(), threading.Event()
    resting = threading.Event()

    def obey() -> None:
        for line in sys.stdin:
            if line.strip() in ways:
                way[0] = ways[line.strip()]
                resting.clear()
                going.set()
            else:
                going.clear()
                resting.wait()
                print(json.dumps(attacker.sent), flush=True)
        ended.set()
        going.set()

    threading.Thread(target=obey, daemon=True).start()
    while not ended.is_set():
        going.wait()
        until_s = monotonic() + 0.02
        while going.is_set() and monotonic() < until_s:
            way[0]()
        if not going.is_set():
            resting.set()


if __name__ == "__main__":
    main()
