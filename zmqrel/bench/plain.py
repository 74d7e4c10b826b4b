"""What a user writes first: a DEALER to ROUTER loop; the same with acknowledgements; a round trip; a commit.

None of them keeps anything: what is under way when a process ends is lost.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path

import lmdb
import zmq

from zmqrel.bench.processes import Line, cpu_s, now_s

_RESEND_AFTER_S = 0.5
_MOST_UNACKNOWLEDGED = 5_000


def receive_plain(line: Line, messages: int) -> None:
    """Take so many messages; tell when the last one was there, and the processor seconds."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        line.tell(_bound(router))
        used_s = cpu_s()
        for _ in range(messages):
            router.recv_multipart()
        line.tell((now_s(), cpu_s() - used_s))
        line.hear()


def send_plain(line: Line, endpoint: str, messages: int, size: int) -> None:
    """Send so many messages; tell from when to when, and the processor seconds."""
    body = b"x" * size
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        _dial(dealer, endpoint)
        started_s, used_s = now_s(), cpu_s()
        for _ in range(messages):
            dealer.send(body)
        line.tell((started_s, now_s(), cpu_s() - used_s))
        line.hear()


def _dial(dealer: zmq.Socket[bytes], endpoint: str) -> None:
    """Connect and wait until the connection stands: no contestant is charged with making it."""
    monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    dealer.connect(endpoint)
    monitor.recv_multipart()
    dealer.disable_monitor()


def _bound(router: zmq.Socket[bytes]) -> str:
    return f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"


# ------------------------------------------------------------------------------------ acknowledged by hand


def receive_acknowledging(line: Line, messages: int) -> None:
    """Take so many different messages and acknowledge each; what comes twice counts once."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        line.tell(_bound(router))
        used_s = cpu_s()
        seen = 0
        while seen < messages:
            seen = max(seen, _acknowledge(router) + 1)
        line.tell((now_s(), cpu_s() - used_s))
        # The sender may have sent the last ones again: unread, they would fill the sockets, and it would wait in its
        # `send` for ever.
        while not line.waits(0):
            if router.poll(100):
                _acknowledge(router)


def _acknowledge(router: zmq.Socket[bytes]) -> int:
    """Take a message and answer with its number."""
    sender, number, _body = router.recv_multipart()
    router.send_multipart([sender, number])
    return int.from_bytes(number, "big")


def send_acknowledged(line: Line, endpoint: str, messages: int, size: int) -> None:
    """Send so many, keep each until it is acknowledged, send it again when that takes too long."""
    body = b"x" * size
    waiting: OrderedDict[bytes, float] = OrderedDict()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        _dial(dealer, endpoint)
        started_s, used_s = now_s(), cpu_s()
        sent = 0
        while sent < messages or waiting:
            while sent < messages and len(waiting) < _MOST_UNACKNOWLEDGED:
                number = sent.to_bytes(8, "big")
                waiting[number] = time.monotonic()
                dealer.send_multipart([number, body])
                sent += 1
            _take_acknowledgements(dealer, waiting)
            _resend(dealer, waiting, body)
        line.tell((started_s, now_s(), cpu_s() - used_s))


def _take_acknowledgements(dealer: zmq.Socket[bytes], waiting: OrderedDict[bytes, float]) -> None:
    if not dealer.poll(100):
        return
    while True:
        try:
            waiting.pop(dealer.recv(zmq.NOBLOCK), None)
        except zmq.Again:
            return


def _resend(dealer: zmq.Socket[bytes], waiting: OrderedDict[bytes, float], body: bytes) -> None:
    now = time.monotonic()
    while waiting:
        number, sent_at = next(iter(waiting.items()))
        if now - sent_at < _RESEND_AFTER_S:
            return
        waiting[number] = now
        waiting.move_to_end(number)
        dealer.send_multipart([number, body])


# ----------------------------------------------------------------------------------------------- one at a time


def answer_plain(line: Line) -> None:
    """Send back whatever comes, until nobody listens any more."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        line.tell(_bound(router))
        while True:
            parts = router.recv_multipart()
            router.send_multipart(parts)
            if parts[1] == b"end":
                return


def ask_plain(line: Line, endpoint: str, times: int, size: int) -> None:
    """So many round trips, one after the other; tells the seconds of each."""
    body = b"x" * size
    taken_s = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        _dial(dealer, endpoint)
        for _ in range(times):
            started_s = now_s()
            dealer.send(body)
            dealer.recv()
            taken_s.append(now_s() - started_s)
        dealer.send(b"end")
        dealer.recv()
        line.tell(taken_s)


def commit_alone(line: Line, place: str, times: int, size: int) -> None:
    """So many LMDB commits of one row each, flushed to the disk; tells the seconds of each."""
    body = b"x" * size
    taken_s = []
    with lmdb.open(str(Path(place) / "commits"), map_size=1 << 30, sync=True, metasync=True) as environment:
        for number in range(times):
            started_s = now_s()
            with environment.begin(write=True) as transaction:
                transaction.put(number.to_bytes(8, "big"), body)
            taken_s.append(now_s() - started_s)
    line.tell(taken_s)
