"""What nobody should do: hostile frames, bad arguments, stores and endpoints that are taken, a disk that is full."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import zmqrel
from tests.real.net import LIMIT_S, Got, Net, is_empty, until
from tests.real.processes import Nursery
from zmqrel import ConfigError, Message, Outcome, Peer, Receipt, Retry
from zmqrel.core import frames
from zmqrel.runtime.parts import join, split

HELLO, WELCOME, OPEN, BYE, PING, PONG, DATA, ACK = range(1, 9)


class Plain:
    """A DEALER or ROUTER that speaks whatever it likes."""

    def __init__(self, kind: int = zmq.DEALER) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
        self.socket.setsockopt(zmq.SNDTIMEO, int(LIMIT_S * 1000))

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._context.term()

    def hello(self, name: str) -> None:
        """Introduce oneself as one who is not known."""
        self.socket.send(msgpack.packb([HELLO, os.urandom(8), 1, 0, [frames.PROTOCOL, name, 7], 0]))


def hostile_frames(rng: random.Random) -> Iterator[list[bytes]]:
    """Frames that no peer sends."""
    session, lane = bytes(16), 2**63 + 1
    data = [DATA, session, 1, 1, lane, 1, "default", 0, 1, [1], (4).to_bytes(4, "big")]
    good = [
        [HELLO, bytes(8), 1, 0, [frames.PROTOCOL, "shop", 7], 0],
        [OPEN, session, 1, 0, [frames.PROTOCOL, "shop", 7], [0, 0, 0], [None, 1, False, False, [], []]],
        [WELCOME, session, 1, 0, [frames.PROTOCOL, "shop", 7], [0, 0, 0], [None, 1, False, False, [], []]],
        [PING, session, 1, 0, 2**63],
        [PONG, session, 1, 0, 1, 2, 3],
        [ACK, session, 1, 0, [[lane, 2**63, 2**63, 2**63, True]]],
        [BYE, session, 1, 0, "x" * 200],
    ]
    yield [b""]
    yield [b"", b"", b""]
    yield [b"x"] * 8
    yield [b"x"] * 50
    yield [b"\x94\x01" + b"\xdd\xff\xff\xff\xff" * 4]
    yield [b"\x94\x01" + b"\x91" * 60_000]
    yield [msgpack.packb(data), b"body"]
    yield [msgpack.packb(data), b"body and more"]
    yield [msgpack.packb(data)]
    yield [msgpack.packb([*data[:9], [2**62, 2**62], b""]), b""]
    yield [msgpack.packb([*data[:9], [-1] * 70_000, b""]), b""]
    for frame in good:
        packed = msgpack.packb(frame)
        yield [packed]
        yield [packed[: rng.randrange(1, len(packed))]]
        yield [packed, b"a part too many"]
        yield [msgpack.packb([*frame, "more"])]
        yield [msgpack.packb([{"a": 1} if n == 4 else value for n, value in enumerate(frame)])]
        for _ in range(20):
            bent = bytearray(packed)
            bent[rng.randrange(len(bent))] = rng.randrange(256)
            yield [bytes(bent)]
    for _ in range(50):
        yield [rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 4))]


def traffic(shop: Peer, got: Got, n: int) -> None:
    """The honest pair goes on."""
    assert shop.send("billing", n, ttl=600).wait(LIMIT_S) is Outcome.HANDLED
    assert got.next().body == n


# --------------------------------------------------------------------------------------------------------- the wire


def test_hostile_frames_from_a_plain_socket(swift: Net) -> None:
    shop, billing = swift.pair()
    got = Got()
    billing.handler()(got)
    traffic(shop, got, 0)
    with Plain() as stranger:
        stranger.socket.connect(billing.endpoints[0])
        for number, parts in enumerate(hostile_frames(random.Random(1))):
            stranger.socket.send_multipart(parts) if number % 2 else stranger.socket.send(join(parts))
            if number % 50 == 0:
                traffic(shop, got, number)

        def is_heard_again() -> bool:
            stranger.hello("stranger")
            return billing.stats()["refused"] >= 1

        def is_read_or_thrown_away() -> bool:
            """Who goes on as a stranger is not read any more for a while."""
            stats = billing.stats()
            return stats["malformed"] + stats["throttled"] > 100

        until(is_heard_again)
        until(is_read_or_thrown_away)
    stats = billing.stats()
    assert stats["malformed"] > 0
    assert stats["received"] == stats["handled"]
    assert is_empty(billing)
    traffic(shop, got, -1)


def test_a_frame_that_is_too_large_ends_its_connection_only(swift: Net) -> None:
    billing = swift.receiver(max_body_bytes=1024)
    got = Got()
    billing.handler()(got)
    billing.start()
    shop = swift.sender()
    with Plain() as stranger:
        monitor = stranger.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        monitor.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
        stranger.socket.connect(billing.endpoints[0])
        stranger.socket.send(bytes(8 << 20))
        monitor.recv_multipart()
        stranger.socket.disable_monitor()
        monitor.close()
    traffic(shop, got, 1)


def test_garbage_over_a_plain_connection(swift: Net) -> None:
    shop, billing = swift.pair()
    got = Got()
    billing.handler()(got)
    endpoint = billing.endpoints[0]
    rng = random.Random(2)
    with ExitStack() as opened:
        for n, data in enumerate(
            [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f" + rng.randbytes(500)] * 5
        ):
            if endpoint.startswith("ipc://"):
                plain = opened.enter_context(socket.socket(socket.AF_UNIX))
                plain.connect(endpoint.removeprefix("ipc://"))
            else:
                host, port = endpoint.removeprefix("tcp://").split(":")
                plain = opened.enter_context(socket.create_connection((host, int(port))))
            with suppress(ConnectionError):
                plain.sendall(data)
                plain.sendall(rng.randbytes(1000))
            traffic(shop, got, n)


def test_a_name_in_use_is_not_taken_over(swift: Net) -> None:
    """Somebody who says that he is "shop" with another store, while "shop" answers."""
    shop, billing = swift.pair()
    got = Got()
    billing.handler()(got)
    traffic(shop, got, 1)
    with Plain() as thief:
        thief.socket.connect(billing.endpoints[0])

        def refused() -> bool:
            thief.hello("shop")
            traffic(shop, got, 2)
            return swift.log.has("refused", "another process with this name")

        until(refused)
    traffic(shop, got, 3)
    assert billing.stats()["peers_connected"] == 1
    assert billing.stats().get("peer_store_gone", 0) == 0


def test_hostile_answers_to_one_who_dials(swift: Net) -> None:
    with Plain(zmq.ROUTER) as imposter:
        imposter.socket.bind(swift.endpoint("billing"))
        shop = swift.sender()
        receipt = shop.send("billing", 1)
        link, message = imposter.socket.recv_multipart()
        [hello], *_again = split(message) or []
        half = msgpack.unpackb(hello)[1]
        answers = list(hostile_frames(random.Random(3)))
        info: list[Any] = [None, 1, False, False, [], []]
        answers.append(
            [msgpack.packb([WELCOME, half + bytes(8), 1, 0, [frames.PROTOCOL, "other", 7], [0, 0, 0], info])]
        )
        answers.append([msgpack.packb([WELCOME, half + bytes(8), 1, 0, [999, "billing", 7], [0, 0, 0], info])])
        for parts in answers:
            imposter.socket.send_multipart([link, join(parts)])
        until(lambda: shop.stats().get("refused", 0) >= 2)
        assert shop.stats()["malformed"] > 100
        assert receipt.outcome is None
        imposter.socket.unbind(swift.endpoint("billing"))
    if swift.transport == "ipc":
        Path(swift.endpoint("billing").removeprefix("ipc://")).unlink(missing_ok=True)
    billing = swift.receiver()
    billing.handler()(Got())
    billing.start()
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED


# ---------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("parameter", "arguments"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "a b"}),
        ("name", {"name": "x" * 65}),
        ("name", {"name": 5}),
        ("store", {"store": ""}),
        ("store", {"store": 5}),
        ("bind", {"bind": 5}),
        ("bind", {"bind": "udp://127.0.0.1:1"}),
        ("bind", {"bind": ["tcp://127.0.0.1"]}),
        ("peers", {"peers": ["a"]}),
        ("peers", {"peers": {"a b": None}}),
        ("peers", {"peers": {"b": "tcp://127.0.0.1:*"}}),
        ("insecure", {"bind": "tcp://0.0.0.0:*"}),
        ("insecure", {"peers": {"b": "tcp://192.0.2.1:7000"}}),
        ("durability", {"durability": "maybe"}),
        ("prefetch", {"prefetch": 0}),
        ("prefetch", {"prefetch": True}),
        ("window_bytes", {"window_bytes": "1"}),
        ("heartbeat_s", {"heartbeat_s": -1}),
        ("liveness_s", {"liveness_s": 0.5}),
        ("resend", {"resend": Retry.fixed(1, max_attempts=3)}),
        ("on_store_loss", {"on_store_loss": "panic"}),
        ("wall_clock", {"wall_clock": 5}),
        ("prefetch", {"prefech": 3}),
    ],
)
def test_bad_arguments_of_a_peer(parameter: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=parameter):
        Peer(**{"name": "a", "store": zmqrel.MEMORY, **arguments})


@pytest.mark.parametrize(
    ("parameter", "arguments"),
    [
        ("to", {"to": 5}),
        ("queue", {"queue": "a b"}),
        ("queue", {"queue": None}),
        ("key", {"key": 5}),
        ("key", {"key": ""}),
        ("headers", {"headers": {1: "x"}}),
        ("headers", {"headers": {"x": [1]}}),
        ("headers", {"headers": {"x": "\ud800"}}),
        ("id", {"id": ""}),
        ("id", {"id": "x" * 129}),
        ("id", {"id": "\ud800"}),
        ("ttl", {"ttl": -1}),
        ("ttl", {"ttl": "1"}),
        ("ttl", {"ttl": float("nan")}),
        ("deadline", {"deadline": datetime(2030, 1, 1)}),
        ("delay", {"delay": 1, "not_before": 2}),
        ("not_before", {"not_before": "soon"}),
        ("on_expiry", {"on_expiry": "queue:"}),
        ("on_expiry", {"on_expiry": "burn"}),
        ("max_attempts", {"max_attempts": 0}),
        ("room_timeout", {"room_timeout": -1}),
    ],
)
def test_bad_arguments_of_send(parameter: str, arguments: dict[str, Any]) -> None:
    with Net("memory") as net:
        shop = net.sender()
        call: dict[str, Any] = {"to": "billing", **arguments}
        with pytest.raises(ConfigError, match=parameter):
            shop.send(body=1, **call)
        with pytest.raises(ConfigError, match=parameter):
            shop.send_many(bodies=[1], **call)
        assert is_empty(shop)


def test_other_bad_calls() -> None:
    with Net("memory") as net:
        shop = net.sender()
        receipt = shop.send("billing", 1)
        odd: Any = 5
        calls: dict[str, Callable[[], object]] = {
            "timeout": lambda: receipt.wait(odd.__add__),
            "timeout ": lambda: receipt.wait_received(-1),
            "receipt_or_id": lambda: shop.recall(odd),
            "id": lambda: shop.receipt(odd),
            "workers": lambda: shop.handler(workers=0),
            "queue": lambda: shop.handler("a b"),
            "retry": lambda: shop.handler(retry=odd),
            "handler": lambda: shop.handler()(odd),
            "sent_after": lambda: shop.recall_where(sent_after=datetime(2030, 1, 1)),
            "all=True": lambda: shop.recall_where(),
            "endpoint": lambda: shop.connect("x", "nowhere"),
            "colour": lambda: shop.send_nowait("billing", 1, colour="red"),
        }
        for parameter, call in calls.items():
            with pytest.raises(ConfigError, match=parameter.strip()):
                call()
        with pytest.raises(zmqrel.UnknownPeer):
            shop.send("shop", 1)
        with pytest.raises(zmqrel.UnknownPeer):
            Peer("a", zmqrel.MEMORY, peers={"a": None})
        refused: list[tuple[type[Exception], dict[str, Any]]] = [
            (zmqrel.DeadlinePassed, {"deadline": 1.0}),
            (zmqrel.DeadlinePassed, {"ttl": 1, "delay": 2}),
            (zmqrel.NotSerializable, {"body": {"order": {"when": object()}}}),
            (zmqrel.NotSerializable, {"body": "\ud800"}),
            (zmqrel.NotSerializable, {"body": 2**64}),
            (zmqrel.MessageTooLarge, {"body": bytes(17 << 20)}),
        ]
        for error, arguments in refused:
            with pytest.raises(error):
                shop.send("billing", **{"body": 1, **arguments})
        shop.handler("taken")(Got())
        with pytest.raises(ConfigError, match="taken"):
            shop.handler("taken")(Got())
        with pytest.raises(ConfigError, match="taken"):
            shop.receive("taken", timeout=0)
        assert shop.stats()["outbox_messages"] == 1


def in_a_child(action: Callable[[], str]) -> str:
    """What `action` returned in a forked child."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "nothing was said"
        try:
            answer = action()
        finally:
            os.write(write_end, answer.encode())
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answers:
        said = answers.read()
    os.waitpid(child, 0)
    return said


def test_in_a_forked_child_every_call_says_so_and_the_parent_goes_on(local: Net) -> None:
    billing = local.receiver().start()
    shop = local.sender()
    waiting = shop.send("billing", "late", delay=3600)
    held = shop.send("billing", "held")
    message = billing.receive(timeout=LIMIT_S)
    assert message is not None
    recall = zmqrel.Recall(waiting)
    listing = shop.outbox()
    calls: dict[str, Callable[[], object]] = {
        "start": shop.start,
        "close": shop.close,
        "connect": lambda: shop.connect("x", None),
        "disconnect": lambda: shop.disconnect("billing"),
        "forget": lambda: shop.forget("billing"),
        "send": lambda: shop.send("billing", 1),
        "send_nowait": lambda: shop.send_nowait("billing", 1),
        "send_many": lambda: shop.send_many("billing", [1]),
        "send_many_nowait": lambda: shop.send_many_nowait("billing", [1]),
        "flush": shop.flush,
        "recall": lambda: shop.recall(waiting),
        "recall_where": lambda: shop.recall_where(all=True),
        "receipt": lambda: shop.receipt(waiting.id),
        "find": lambda: shop.find(waiting.id),
        "handler": lambda: shop.handler()(Got()),
        "on_outcome": lambda: shop.on_outcome()(Got()),  # type: ignore[arg-type]
        "receive": lambda: shop.receive(timeout=0),
        "messages": shop.messages,
        "outbox": shop.outbox,
        "inbox": shop.inbox,
        "dead_letters": shop.dead_letters,
        "next": lambda: next(listing),
        "stats": shop.stats,
        "endpoints": lambda: shop.endpoints,
        "wait": waiting.wait,
        "result": waiting.result,
        "wait_received": waiting.wait_received,
        "receipt.recall": waiting.recall,
        "recall.wait": recall.wait,
        "callback": lambda: waiting.add_done_callback(Got()),  # type: ignore[arg-type]
        "wait_all": lambda: zmqrel.wait_all([waiting]),
        "as_completed": lambda: list(zmqrel.as_completed([waiting])),
        "ack": message.ack,
    }

    def all_are_refused() -> str:
        for name, call in calls.items():
            try:
                call()
            except zmqrel.ForkedPeer:
                continue
            except BaseException as error:
                return f"{name} raised {error!r}"
            return f"{name} was let through"
        return "all were refused"

    assert in_a_child(all_are_refused) == "all were refused"
    message.ack()
    assert held.wait(LIMIT_S) is zmqrel.Outcome.HANDLED
    assert waiting.recall(timeout=LIMIT_S).verdict is zmqrel.Verdict.RECALLED


def test_a_forked_child_makes_peers_of_its_own(local: Net) -> None:
    shop = local.sender()

    def another_peer() -> str:
        with Peer("other", zmqrel.MEMORY, peers={"billing": None}) as other:
            receipt = other.send("billing", 1)
            return other.recall(receipt, timeout=LIMIT_S).verdict.name

    assert in_a_child(another_peer) == "RECALLED"
    assert shop.stats()["accepted"] == 0


# ------------------------------------------------------------------------------------------- stores and endpoints


def test_a_store_that_is_a_file(local: Net) -> None:
    place = local.folder / "file"
    place.write_text("a text")
    with pytest.raises(ConfigError, match=r"store.*file"):
        Peer("a", place).start()
    assert place.read_text() == "a text"


def test_a_store_that_is_in_use(local: Net) -> None:
    shop = local.sender()
    with pytest.raises(zmqrel.StoreLocked, match="this process"):
        Peer("twin", local.store("shop")).start()
    shop.close()
    with Nursery() as nursery:
        child = nursery.start("holder", store=local.store("shop"))
        assert child.expect("ready")
        with pytest.raises(zmqrel.StoreLocked, match="process"):
            local.sender()
        child.kill()
        local.sender()


def test_an_endpoint_that_is_in_use(swift: Net) -> None:
    billing = swift.receiver().start()
    other = swift.peer("other")
    other._bind = tuple(billing.endpoints)
    with pytest.raises(ConfigError, match=r"bind.*in use"):
        other.start()
    # Its store was let go, and it is not half started.
    swift.peer("other").start()


def test_a_loop_that_cannot_start_leaves_nothing(local: Net) -> None:
    threads = threading.active_count()
    for _ in range(3):
        with pytest.raises(ConfigError):
            Peer("a", local.folder / "a", bind=f"ipc://{local.folder}/none/a.s").start()
    assert threading.active_count() == threads
    Peer("a", local.folder / "a").start().close()


@pytest.mark.parametrize("endpoint", ["ipc://@abstract", "tcp://999.9.9.9:80", "tcp://127.1:80", "ipc:///" + "x" * 200])
def test_an_endpoint_that_can_never_be_dialled(endpoint: str) -> None:
    with Net("memory") as net:
        shop = net.peer("shop", insecure=True).start()
        with pytest.raises(ConfigError, match="endpoint"):
            shop.connect("billing", endpoint)
        with pytest.raises(ConfigError):
            Peer("shop", zmqrel.MEMORY, peers={"billing": endpoint}, insecure=True)
        assert shop.stats()["peers_connected"] == 0


def test_a_socket_that_is_not_to_be_had_now(swift: Net) -> None:
    """No descriptors are left, say: the peer goes on, and dials again."""
    billing = swift.receiver()
    billing.handler()(Got())
    billing.start()
    shop = swift.peer("shop").start()
    loop = shop._loop
    assert loop is not None
    dial, refusals = loop._wire.dial, [OSError("too many open files")] * 2

    def refuse(endpoint: str, peer: str) -> int:
        if refusals:
            raise refusals.pop()
        return dial(endpoint, peer)

    loop._wire.dial = refuse  # type: ignore[method-assign]
    shop.connect("billing", swift.endpoint("billing"))
    swift.log.wait("peer shop", "not_dialled", "too many open files")
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED


# ------------------------------------------------------------------------------------------------- odd exceptions


class Mute(Exception):
    """Says nothing of itself, loudly."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Killer(Exception):
    """Ends whoever asks."""

    def __str__(self) -> str:
        raise SystemExit(1)


class HalfReject(zmqrel.Reject):
    """Never told its reason."""

    def __init__(self) -> None:
        pass


class HalfLater(zmqrel.RetryLater):
    """Takes back what it was told."""

    def __init__(self) -> None:
        super().__init__(1)
        self.delay = "soon"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Mute(), "Mute"),
        (Killer(), "Killer"),
        (HalfReject(), "HalfReject"),
        (HalfLater(), "HalfLater: 1.0"),
        (ValueError("\ud800"), "ValueError: \\ud800"),
        (ValueError("x" * 10_000_000), "ValueError: " + "x" * 488),
        (asyncio.CancelledError("stop"), "CancelledError: stop"),
    ],
)
def test_a_handler_that_raises_odd_things(failure: BaseException, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A log that holds a lone surrogate cannot be passed on from a process that tests run in side by side.
    monkeypatch.setattr(logging.getLogger("zmqrel"), "propagate", False)
    with Net("memory") as net:
        shop, billing = net.pair()

        @billing.handler(retry=Retry.fixed(0, max_attempts=2))
        def work(message: Message) -> None:
            if message.body:
                raise failure

        receipt = shop.send("billing", True)
        assert receipt.wait(LIMIT_S) is Outcome.EXHAUSTED
        assert receipt.reason == reason
        assert receipt.attempts == 2
        assert shop.send("billing", False).wait(LIMIT_S) is Outcome.HANDLED


@pytest.mark.parametrize("text", ["\ud800", "x" * 10_000_000, "", "\0"])
def test_odd_reasons(text: str) -> None:
    with Net("memory") as net:
        shop, billing = net.pair()

        @billing.handler()
        def work(message: Message) -> None:
            if message.body == "raise":
                raise zmqrel.Reject(text)
            if message.body == "reject":
                message.reject(text)
            if message.attempt == 1:
                message.retry(0, text)

        receipts = shop.send_many("billing", ["raise", "reject", "retry"])
        assert [receipt.wait(LIMIT_S).name for receipt in receipts] == ["REJECTED", "REJECTED", "HANDLED"]
        assert receipts[0].reason == receipts[1].reason
        assert len(str(receipts[0].reason)) <= 2000


# --------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_a_full_disk_refuses_settles_and_goes_on(small_disk: Path, local: Net, durability: str) -> None:
    local.store = lambda name: str(small_disk / name) if name == "shop" else str(local.folder / name)  # type: ignore[method-assign]
    shop = local.sender(durability=durability)
    accepted: list[Receipt] = []
    with suppress(zmqrel.StoreFull):
        while len(accepted) < 10_000:
            accepted.append(shop.send("billing", bytes(10_000), id=f"m{len(accepted)}"))
    assert 100 < len(accepted) < 10_000
    with pytest.raises(zmqrel.StoreFull):
        shop.send("billing", bytes(10_000), room_timeout=0)
    assert {shop.recall(receipt, timeout=LIMIT_S).verdict for receipt in accepted[:10]} == {zmqrel.Verdict.RECALLED}
    billing = local.receiver(durability=durability)
    got = Got()
    billing.handler()(got)
    billing.start()
    assert {receipt.wait(LIMIT_S) for receipt in accepted[10:]} == {Outcome.HANDLED}
    assert is_empty(shop)

    def takes_again() -> bool:
        try:
            return shop.send("billing", bytes(10_000)).wait(LIMIT_S) is Outcome.HANDLED
        except zmqrel.StoreFull:
            return False

    until(takes_again)
    shop.close()
    shop = local.sender(durability=durability)
    assert shop.receipt("m11").outcome is Outcome.HANDLED


def test_the_receivers_disk_is_full(small_disk: Path, local: Net) -> None:
    """It takes what fits, hands over nothing of what it could not note, and goes on when there is room."""
    local.store = lambda name: str(small_disk / name) if name == "billing" else str(local.folder / name)  # type: ignore[method-assign]
    rest = small_disk / "of someone else"
    billing = local.receiver()
    got = Got()
    billing.handler("quick")(got)
    billing.start()
    shop = local.sender()
    assert shop.send("billing", 0, queue="quick").wait(LIMIT_S) is Outcome.HANDLED
    with rest.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(65_536)):
            pass
    receipts = [shop.send("billing", bytes(100_000)) for _ in range(200)]
    until(lambda: receipts[0].state is not zmqrel.State.STORED)
    assert receipts[-1].outcome is None
    rest.unlink()
    billing.handler()(got)
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    assert shop.send("billing", 1, queue="quick").wait(LIMIT_S) is Outcome.HANDLED
    until(lambda: is_empty(billing))


def test_a_store_is_not_opened_under_another_name(local: Net) -> None:
    with local.peer("shop", bind=False):
        pass
    with pytest.raises(ConfigError, match="the store is that of peer 'shop' and takes no peer 'billing'"):
        Peer("billing", local.store("shop")).start()
    with local.peer("shop", bind=False) as again:
        assert again.stats()["commits"] > 1
