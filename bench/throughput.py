"""Settled messages per second, durable at both ends, beside a plain DEALER to ROUTER loop that promises nothing.

    python -m bench.throughput --messages 100000 --rounds 5

Sender and receiver are two processes. In each round every case runs once, in turn, so that what else the machine does
meets all of them; medians, spread and ratios to the plain loop are printed. A zmqrel message counts when its sender
knows that it was HANDLED; a plain one when the receiving loop has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq

import zmqrel

_BATCH = 1000
_END = b"end"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print a table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.throughput", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--messages", type=int, default=100_000, help="messages in each case and round")
    parser.add_argument("--size", type=int, default=100, help="bytes in a body")
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is run")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--receive", nargs=2, metavar=("CASE", "PLACE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.receive:
        _RECEIVERS[options.receive[0]](options.receive[1], options.messages)
        return 0
    rates: dict[str, list[float]] = {case: [] for case in _SENDERS}
    for number in range(options.rounds):
        for case in _SENDERS:
            print(f"\rround {number + 1} of {options.rounds}: {case:<12}", end="", file=sys.stderr, flush=True)
            rates[case].append(_measure(case, options.messages, options.size))
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    _show(rates, options)
    return 0


def _measure(case: str, messages: int, size: int) -> float:
    """One run of one case: messages per second."""
    with tempfile.TemporaryDirectory(prefix="zmqrel-bench-") as place:
        command = [sys.executable, "-m", "bench.throughput", "--receive", case, place, "--messages", str(messages)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            assert receiver.stdin is not None
            endpoint = receiver.stdout.readline().strip()
            elapsed_s = _SENDERS[case](endpoint, place, messages, b"x" * size, receiver.stdout.readline)
            receiver.stdin.close()
    return messages / elapsed_s


def _send_plain(endpoint: str, _place: str, messages: int, body: bytes, receiver_line: Callable[[], str]) -> float:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(endpoint)
        started = time.perf_counter()
        for _ in range(messages):
            dealer.send(body)
        receiver_line()
        return time.perf_counter() - started


def _receive_plain(_place: str, messages: int) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        print(f"tcp://127.0.0.1:{port}", flush=True)
        for _ in range(messages):
            router.recv_multipart()
        print("done", flush=True)
        sys.stdin.read()


def _send_zmqrel(durability: str, in_memory: bool = False) -> Callable[..., float]:
    def send(endpoint: str, place: str, messages: int, body: bytes, _line: Callable[[], str]) -> float:
        store: Any = zmqrel.MEMORY if in_memory else Path(place) / "sender"
        with zmqrel.Peer("sender", store, peers={"receiver": endpoint}, durability=durability) as peer:
            peer.send("receiver", _END).result(30)  # connected
            started = time.perf_counter()
            receipts = []
            for first in range(0, messages, _BATCH):
                receipts += peer.send_many("receiver", [body] * min(_BATCH, messages - first))
            outcomes = zmqrel.wait_all(receipts, 120)
            elapsed_s = time.perf_counter() - started
            assert set(outcomes) == {zmqrel.Outcome.HANDLED}
            return elapsed_s

    return send


def _receive_zmqrel(durability: str, in_memory: bool = False) -> Callable[[str, int], None]:
    def receive(place: str, _messages: int) -> None:
        store: Any = zmqrel.MEMORY if in_memory else Path(place) / "receiver"
        peer = zmqrel.Peer("receiver", store, bind="tcp://127.0.0.1:*", peers={"sender": None}, durability=durability)

        @peer.handler()
        def handle(message: zmqrel.Message) -> None:
            _ = message.body

        with peer:
            print(peer.endpoints[0], flush=True)
            sys.stdin.read()

    return receive


_SENDERS: dict[str, Callable[..., float]] = {
    "plain": _send_plain,
    "fsync": _send_zmqrel("fsync"),
    "relaxed": _send_zmqrel("relaxed"),
    "memory": _send_zmqrel("fsync", in_memory=True),
}
_RECEIVERS: dict[str, Callable[[str, int], None]] = {
    "plain": _receive_plain,
    "fsync": _receive_zmqrel("fsync"),
    "relaxed": _receive_zmqrel("relaxed"),
    "memory": _receive_zmqrel("fsync", in_memory=True),
}


def _show(rates: dict[str, list[float]], options: argparse.Namespace) -> None:
    medians = {case: statistics.median(values) for case, values in rates.items()}
    if options.json:
        figures = {
            case: {"median": medians[case], "min": min(values), "max": max(values)} for case, values in rates.items()
        }
        print(json.dumps({"messages": options.messages, "size": options.size, "per_second": figures}))
        return
    print(f"{options.messages} messages of {options.size} bytes, {options.rounds} rounds, per second")
    print(f"{'case':<10}{'median':>10}{'min':>10}{'max':>10}   of plain")
    for case, values in rates.items():
        ratio = medians[case] / medians["plain"]
        print(f"{case:<10}{medians[case]:>10,.0f}{min(values):>10,.0f}{max(values):>10,.0f}{ratio:>10.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
