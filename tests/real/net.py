"""Peers of one test: their endpoints and stores, what they log, and that nothing of them is left behind."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from time import monotonic
from types import TracebackType
from typing import Any, Final, Literal

import zmqrel
from zmqrel import Message, Peer, Receipt

LIMIT_S: Final = float(os.environ.get("ZMQREL_TEST_LIMIT_S", "100"))
"""Ends a test in which nothing happens. No test is meant to come near it."""

SLACK_S: Final = 20.0
"""How late a busy machine may make what is due: far more than it will, far less than a wrong clock would."""

Transport = Literal["tcp", "ipc", "memory"]


class Log(logging.Handler):
    """What the peers of this process log, to be waited for."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self._news = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        with self._news:
            self.lines.append(record.getMessage())
            self._news.notify_all()

    def wait(self, *words: str) -> str:
        """The first line that contains all of these words."""

        def found() -> str | None:
            return next((line for line in self.lines if all(word in line for word in words)), None)

        with self._news:
            line = self._news.wait_for(found, LIMIT_S)
        assert line is not None, f"nobody logged {words}: {self.lines}"
        return line

    def has(self, *words: str) -> bool:
        """Whether there is such a line now."""
        with self._news:
            return any(all(word in line for word in words) for line in self.lines)


class Got:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self._messages: Queue[Message] = Queue()

    def __call__(self, message: Message) -> None:
        """Handle one message."""
        self._messages.put(message)

    def next(self) -> Message:
        """The next message that came."""
        return self._messages.get(timeout=LIMIT_S)

    def next_bodies(self, count: int) -> list[Any]:
        """The bodies of the next messages."""
        return [self.next().body for _ in range(count)]

    def has_more(self) -> bool:
        """Whether something came that was not taken yet."""
        return not self._messages.empty()

    def rest(self) -> list[Any]:
        """The bodies of what came and was not taken yet."""
        bodies = []
        while not self._messages.empty():
            bodies.append(self._messages.get_nowait().body)
        return bodies


class Net:
    """Makes the peers of one test; closes them at its end and looks for what they left."""

    def __init__(self, transport: Transport = "ipc", durability: str = "fsync") -> None:
        self.transport = transport
        self.durability = durability
        # Of its own, for the path of a socket has at most some hundred bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="zr-"))
        self.log = Log()
        self._peers: list[Peer] = []
        self._endpoints: dict[str, str] = {}
        self._ports: list[socket.socket] = []

    def __enter__(self) -> Net:
        logger = logging.getLogger("zmqrel")
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.close(0 if kind else LIMIT_S)
        logging.getLogger("zmqrel").removeHandler(self.log)
        for port in self._ports:
            port.close()
        sockets = [path for path in self.folder.iterdir() if path.is_socket()]
        shutil.rmtree(self.folder)
        if kind is None:
            assert not sockets, f"left behind: {sockets}"
            left = [thread.name for thread in threading.enumerate() if thread.name.startswith("zmqrel-")]
            assert not left, f"left behind: {left}"
            assert not self.log.has("the I/O loop failed")

    def endpoint(self, name: str) -> str:
        """Where the peer of that name listens, in all of its lives."""
        if name not in self._endpoints:
            self._endpoints[name] = self._free_port() if self.transport != "ipc" else f"ipc://{self.folder}/{name}.s"
        return self._endpoints[name]

    def _free_port(self) -> str:
        # Kept bound, without listening, so that nobody is given this port between two lives of the peer.
        port = socket.socket()
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", 0))
        self._ports.append(port)
        return f"tcp://127.0.0.1:{port.getsockname()[1]}"

    def store(self, name: str) -> str:
        """Where the peer of that name keeps its store."""
        return zmqrel.MEMORY if self.transport == "memory" else str(self.folder / name)

    def peer(self, name: str, dials: str | None = None, *, hears: str = "", bind: bool = True, **options: Any) -> Peer:
        """A peer, not started, that dials one other and is dialled by those named in `hears`."""
        peers: dict[str, str | None] = dict.fromkeys(hears.split())
        if dials is not None:
            peers[dials] = self.endpoint(dials)
        options.setdefault("durability", self.durability)
        peer = Peer(name, self.store(name), bind=self.endpoint(name) if bind else (), peers=peers, **options)
        self._peers.append(peer)
        return peer

    def sender(self, **options: Any) -> Peer:
        """The peer "shop", started, that dials "billing"."""
        return self.peer("shop", "billing", **options).start()

    def receiver(self, **options: Any) -> Peer:
        """The peer "billing", not started, that is dialled by "shop"."""
        return self.peer("billing", hears="shop", **options)

    def pair(self, **options: Any) -> tuple[Peer, Peer]:
        """Both, started: first the one that is dialled, for a refused connection is tried again after 0.1 s or more."""
        billing = self.receiver(**options).start()
        return self.sender(**options), billing


def until(condition: Callable[[], object]) -> None:
    """Ask until the condition holds; for what peers tell only if they are asked, such as `stats`."""
    limit = monotonic() + LIMIT_S
    while not condition():
        assert monotonic() < limit, "nothing happened in time"


def in_time(send: Callable[[float], Receipt], is_there: Callable[[Receipt], object]) -> list[Receipt]:
    """Send with a time to live until one message gets there before its deadline; the last one did.

    A machine that is too busy for the first is given longer, so that no test fails by being slow.
    """
    receipts: list[Receipt] = []
    limit = monotonic() + LIMIT_S
    for ttl_s in (0.3, 2.0, 10.0, 50.0):
        receipts.append(receipt := send(ttl_s))
        while not (arrived := is_there(receipt)) and receipt.outcome is None:
            assert monotonic() < limit, "nothing happened in time"
        if arrived:
            return receipts
    raise AssertionError(f"{receipts} all ended on the way")


def connected(*peers: Peer) -> None:
    """Wait until each of them has a session."""
    until(lambda: all(peer.stats()["peers_connected"] for peer in peers))


def is_empty(peer: Peer) -> bool:
    """Whether no message lies in the peer's store."""
    stats = peer.stats()
    return not (stats["outbox_messages"] or stats["inbox_messages"])
