"""The sockets, over real TCP and ipc connections. Every wait ends with an event, or fails at its limit."""

from __future__ import annotations

import os
import random
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from zmqrel.errors import ConfigError
from zmqrel.runtime import wire as wire_module
from zmqrel.runtime.descriptors import Bell
from zmqrel.runtime.parts import MAX_PARTS, MAX_TOGETHER, join, split
from zmqrel.runtime.wire import Link, Wire

LIMIT_S = 20.0
ANY_TCP = "tcp://127.0.0.1:*"


class Node:
    """A wire and the frames that it received."""

    def __init__(
        self,
        *bind: str,
        max_frame_bytes: int = 1 << 24,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self.wire = Wire(bind, max_frame_bytes=max_frame_bytes, rng=random.Random(1), context=context)
        self.got: list[tuple[Link, list[bytes]]] = []

    @property
    def endpoint(self) -> str:
        return self.wire.endpoints[0]

    @property
    def frames(self) -> list[list[bytes]]:
        return [parts for _, parts in self.got]

    def turn(self) -> None:
        self.wire.wait(0.002, never)
        self.got += self.wire.receive(64, 1 << 20)


def never() -> bool:
    return False


def until(condition: Callable[[], object], *nodes: Node) -> None:
    """Turn the nodes until the condition holds."""
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, "nothing happened in time"
        for node in nodes:
            node.turn()


def deliver(sender: Node, link: Link, parts: list[bytes], receiver: Node, *, resend: bool = False) -> Link:
    """Send one frame as soon as the link takes it, wait until it is received and return the receiver's link.

    With `resend` it is sent until it is received, for connections that are about to be lost.
    """
    seen = len(receiver.got)
    sent = False

    def arrived() -> bool:
        nonlocal sent
        if parts in receiver.frames[seen:]:
            return True
        if resend or not sent:
            sent = sender.wire.send(link, parts)
        return False

    until(arrived, sender, receiver)
    return next(link for link, got in receiver.got[seen:] if got == parts)


@pytest.fixture
def open_node() -> Iterator[Callable[..., Node]]:
    with ExitStack() as stack:

        def make(*bind: str, **options: object) -> Node:
            node = Node(*bind, **options)  # type: ignore[arg-type]
            stack.callback(node.wire.close)
            return node

        yield make


MakeNode = Callable[..., Node]


def looked_just_before(wire: Wire) -> Callable[[], bool]:
    """A `ready` that finds nothing, with the wake right behind it: only the bell can end that wait."""

    def ready() -> bool:
        wire.wake()
        return False

    return ready


def free_endpoint() -> str:
    """An endpoint that was bound a moment ago and is free again."""
    node = Node(ANY_TCP)
    node.wire.close()
    return node.endpoint


# Exchange


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_frames_go_both_ways(kind: str, open_node: MakeNode, tmp_path: Path) -> None:
    server = open_node(ANY_TCP if kind == "tcp" else f"ipc://{tmp_path}/s")
    client = open_node()
    link = client.wire.dial(server.endpoint)
    until(lambda: client.wire.send(link, [b"one", b"", b"\x00three"]), client)
    until(lambda: server.got, server)
    ((back, parts),) = server.got
    assert parts == [b"one", b"", b"\x00three"]
    assert server.wire.send(back, [b"answer"])
    until(lambda: client.got, client)
    assert client.got == [(link, [b"answer"])]


def test_one_router_has_several_endpoints(open_node: MakeNode, tmp_path: Path) -> None:
    server = open_node(ANY_TCP, ANY_TCP, f"ipc://{tmp_path}/s")
    client = open_node()
    assert len(set(server.wire.endpoints)) == 3
    for endpoint in server.wire.endpoints:
        deliver(client, client.wire.dial(endpoint), [endpoint.encode()], server)
    assert len({link for link, _ in server.got}) == 3


def test_a_name_can_be_dialled(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    port = server.endpoint.rpartition(":")[2]
    deliver(client, client.wire.dial(f"tcp://localhost:{port}"), [b"x"], server)


def test_ipv6_beside_ipv4(open_node: MakeNode) -> None:
    try:
        server = open_node("tcp://[::1]:*", ANY_TCP)
    except ConfigError:
        pytest.skip("this system has no IPv6")
    client = open_node()
    assert server.endpoint.startswith("tcp://[::1]:")
    assert server.wire.endpoints[1].startswith("tcp://127.0.0.1:")
    for endpoint in server.wire.endpoints:
        deliver(client, client.wire.dial(endpoint), [endpoint.encode()], server)


@pytest.mark.parametrize("size", [64 * 1024, 256 * 1024, 5_000_000])
def test_large_parts_arrive_whole(size: int, open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    body = random.Random(size).randbytes(size)
    deliver(client, client.wire.dial(server.endpoint), [b"head", body], server)


def test_links_are_never_reused(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    links = []
    for _ in range(3):
        links.append(client.wire.dial(server.endpoint))
        client.wire.hang_up(links[-1])
    assert links == [1, 2, 3]
    assert not client.wire._readiness._link_at, "closed sockets are polled"


# Absent, returning and slow peers


def test_a_peer_that_is_absent_and_comes(open_node: MakeNode) -> None:
    endpoint = free_endpoint()
    client = open_node()
    link = client.wire.dial(endpoint)
    assert not client.wire.send(link, [b"too early"])
    server = open_node(endpoint)
    deliver(client, link, [b"now"], server)
    assert [b"too early"] not in server.frames


def test_a_peer_that_goes_and_comes_back(open_node: MakeNode) -> None:
    first, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(first.endpoint)
    deliver(client, link, [b"first life"], first)
    first.wire.close()
    until(lambda: not client.wire.send(link, [b"nobody"]), client)
    second = open_node(first.endpoint)
    back = deliver(client, link, [b"second life"], second, resend=True)
    until(lambda: second.wire.send(back, [b"answer"]), second)
    until(lambda: client.got, client)
    assert client.got == [(link, [b"answer"])]


def test_unknown_links_are_refused(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    for node in (server, client):
        for link in (-1, 0, 1, 77):
            assert not node.wire.send(link, [b"x"])
            node.wire.hang_up(link)


def test_a_link_that_was_hung_up_is_refused(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"x"], server)
    client.wire.hang_up(link)
    assert not client.wire.send(link, [b"x"])
    until(lambda: not server.wire.send(back, [b"to nobody"]), server)


def test_an_inbound_link_whose_connection_is_gone_is_told_apart_from_a_slow_one(open_node: MakeNode) -> None:
    server, client, other = open_node(ANY_TCP), open_node(), open_node()
    back = deliver(client, client.wire.dial(server.endpoint), [b"x"], server)
    slow = deliver(other, other.wire.dial(server.endpoint), [b"y"], server)
    until(lambda: not server.wire.send(slow, [bytes(100_000)]))
    assert server.wire.closed == set()
    client.wire.close()
    until(lambda: not server.wire.send(back, [b"to nobody"]), server)
    assert server.wire.closed == {back}
    server.wire.hang_up(back)
    assert server.wire.closed == set()


@pytest.mark.parametrize("stopped", ["server", "client"])
def test_a_stopped_reader_makes_later_and_loses_nothing(stopped: str, open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"hello"], server)
    sender, to, reader = (client, link, server) if stopped == "server" else (server, back, client)
    until(lambda: sender.wire.send(to, [b"0"]), sender)
    sent, body = 1, bytes(100_000)
    while sender.wire.send(to, [b"%d" % sent, body]):
        sent += 1
        assert sent < 10_000, "nothing limits what is queued for a stopped reader"
    assert sent > 100
    last = b"%d" % (sent - 1)
    until(lambda: reader.frames and reader.frames[-1][0] == last, reader)
    numbers = [int(parts[0]) for parts in reader.frames if parts[0] != b"hello"]
    assert numbers == list(range(sent))
    deliver(sender, to, [b"again"], reader)


# What others may send


def test_an_oversized_part_ends_the_connection_only(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP, max_frame_bytes=1000), open_node()
    link = client.wire.dial(server.endpoint)
    before = deliver(client, link, [bytes(1000)], server)
    assert client.wire.send(link, [bytes(1001)])
    after = deliver(client, link, [b"small"], server, resend=True)
    assert after != before, "the connection was not made anew"
    assert not [parts for parts in server.frames if len(parts[0]) > 1000]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" * 1000,
        random.Random(4).randbytes(5000),
        b"",
    ],
)
def test_garbage_does_no_harm(garbage: bytes, open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"before"], server)
    port = int(server.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as stranger:
        with suppress(ConnectionError):  # The quicker it throws us out the better.
            stranger.sendall(garbage)
        assert deliver(client, link, [b"during"], server) == back
    assert deliver(client, link, [b"after"], server) == back


def test_bytes_without_a_handshake_become_frames_of_a_link_of_their_own(open_node: MakeNode) -> None:
    # libzmq speaks ZMTP 1.0, which has none: whoever reads frames must expect anything in them.
    server, client = open_node(ANY_TCP), open_node()
    back = deliver(client, client.wire.dial(server.endpoint), [b"x"], server)
    port = int(server.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as stranger:
        stranger.sendall(b"\x01\x00\x06\x00hello")
        until(lambda: [b"hello"] in server.frames, server)
    assert {link for link, _ in server.got} == {back, back + 1}


@pytest.mark.parametrize("direction", ["to server", "to client"])
def test_frames_of_too_many_parts_are_dropped_and_counted(direction: str, open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"hello"], server)
    sender, to, reader = (client, link, server) if direction == "to server" else (server, back, client)
    reader.got.clear()
    most = [b"%d" % number for number in range(MAX_PARTS)]
    for parts in (most, [*most, b"one more"], [b""] * 5000, [b"last"]):
        until(lambda parts=parts: sender.wire.send(to, parts), sender)  # type: ignore[misc]
    until(lambda: [b"last"] in reader.frames, reader)
    assert reader.frames == [most, [b"last"]]
    assert reader.wire.dropped == 2


# Receiving


def test_dropped_frames_count_as_received(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    until(lambda: client.wire.send(link, [b""] * 9), client)
    for _ in range(19):
        assert client.wire.send(link, [b""] * 9)
    before = 0
    while server.wire.dropped < 20:
        server.wire.wait(LIMIT_S, never)
        assert server.wire.receive(4, 1000) == []
        assert before < server.wire.dropped <= before + 4
        before = server.wire.dropped


def test_receive_keeps_to_its_bounds(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    deliver(client, link, [b"hello"], server)
    server.got.clear()
    for number in range(60):
        until(lambda number=number: client.wire.send(link, [b"%02d" % number, bytes(998)]), client)  # type: ignore[misc]
    sizes: list[int] = []
    while len(server.got) < 60:
        server.wire.wait(LIMIT_S, never)
        by_bytes = server.wire.receive(1000, 2500)
        by_frames = server.wire.receive(4, 1 << 20)
        sizes += [len(by_bytes), len(by_frames)]
        assert len(by_bytes) <= 3
        assert len(by_frames) <= 4
        server.got += by_bytes + by_frames
    assert max(sizes[::2]) == 3
    assert max(sizes[1::2]) == 4
    assert [parts[0] for parts in server.frames] == [b"%02d" % number for number in range(60)]


def test_nothing_to_receive(open_node: MakeNode) -> None:
    assert open_node(ANY_TCP).wire.receive(10, 1000) == []
    assert open_node().wire.receive(10, 1000) == []


@pytest.mark.parametrize(("at_a_time", "calls"), [(1, 3), (16, 3), (64, 1)])
def test_busy_sockets_do_not_starve_a_quiet_one(at_a_time: int, calls: int, open_node: MakeNode) -> None:
    reader, quiet = open_node(ANY_TCP), open_node(ANY_TCP)
    busy = [open_node(ANY_TCP), open_node(ANY_TCP)]
    backs = [deliver(reader, reader.wire.dial(node.endpoint), [b"hi"], node) for node in (*busy, quiet)]
    for node, back in zip(busy, backs, strict=False):
        while node.wire.send(back, [bytes(10_000)]):
            pass
    assert quiet.wire.send(backs[2], [b"me too"])
    until(lambda: len(reader.wire._readiness._with_frames(reader.wire._dialled)) == 3)
    taken = [frame for _ in range(calls) for frame in reader.wire.receive(at_a_time, 1 << 30)]
    assert [b"me too"] in [parts for _, parts in taken]


def test_a_link_hung_up_between_wait_and_receive(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"x"], server)
    assert server.wire.send(back, [b"unread"])
    client.wire.wait(LIMIT_S, never)
    client.wire.hang_up(link)
    assert client.wire.receive(10, 1000) == []
    client.wire.wait(0.0, never)
    assert client.wire.receive(10, 1000) == []


# Inbound links


def test_a_forgotten_inbound_link_comes_back_as_a_fresh_one(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    first = deliver(client, link, [b"x"], server)
    server.wire.hang_up(first)
    assert not server.wire.send(first, [b"y"])
    second = deliver(client, link, [b"z"], server)
    assert second != first
    assert server.wire.send(second, [b"y"])


def test_the_longest_silent_inbound_link_makes_room(open_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "MAX_INBOUND", 2)
    server, client = open_node(ANY_TCP), open_node()
    one, two, three = (client.wire.dial(server.endpoint) for _ in range(3))
    first = deliver(client, one, [b"1"], server)
    second = deliver(client, two, [b"2"], server)
    assert deliver(client, one, [b"1 again"], server) == first
    third = deliver(client, three, [b"3"], server)
    assert not server.wire.send(second, [b"x"])
    assert server.wire.send(first, [b"x"])
    assert server.wire.send(third, [b"x"])


# Waiting and waking


def test_wait_ends_at_its_time_out(open_node: MakeNode) -> None:
    started = time.monotonic()
    open_node(ANY_TCP).wire.wait(0.05, never)
    assert 0.04 <= time.monotonic() - started < LIMIT_S


def test_wait_takes_a_time_out_that_is_past(open_node: MakeNode) -> None:
    open_node(ANY_TCP).wire.wait(-1.0, never)


def test_wait_ends_with_a_frame(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    until(lambda: client.wire.send(link, [b"x"]), client)
    server.wire.wait(None, never)
    server.wire.wait(None, never)  # It is still there.
    assert len(server.wire.receive(10, 1000)) == 1


def test_wait_does_not_sleep_when_there_is_work(open_node: MakeNode) -> None:
    open_node(ANY_TCP).wire.wait(None, lambda: True)


def test_wake_from_another_thread_ends_wait(open_node: MakeNode) -> None:
    wire = open_node().wire
    asleep = threading.Event()
    work: list[str] = []

    def producer() -> None:
        asleep.wait(LIMIT_S)
        work.append("x")
        wire.wake()

    def ready() -> bool:
        found = bool(work)
        asleep.set()
        return found

    thread = threading.Thread(target=producer)
    thread.start()
    wire.wait(None, ready)
    thread.join()
    assert work == ["x"]


def test_work_queued_between_the_flag_and_the_look_is_seen(open_node: MakeNode) -> None:
    wire = open_node().wire
    wire.wait(None, looked_just_before(wire))


def test_work_queued_before_wait_is_not_lost(open_node: MakeNode) -> None:
    wire = open_node().wire
    work = ["x"]
    wire.wake()
    wire.wait(None, lambda: bool(work))


def test_the_flag_is_lowered_before_the_bell_is_rung(open_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other order loses a wake once in so many runs that only a look inside can tell.
    wire = open_node().wire
    sleeping: list[bool] = []
    ring = wire._readiness._bell.ring

    def look_and_ring() -> None:
        sleeping.append(wire._readiness._sleeping)
        ring()

    monkeypatch.setattr(wire._readiness._bell, "ring", look_and_ring)
    wire.wait(None, looked_just_before(wire))
    assert sleeping == [False]


def test_no_wake_is_lost_among_many_threads(open_node: MakeNode) -> None:
    wire = open_node().wire
    work: deque[int] = deque()
    each = 5000

    def producer() -> None:
        for number in range(each):
            work.append(number)
            wire.wake()

    threads = [threading.Thread(target=producer) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = 0
    started = time.monotonic()
    while taken < 4 * each:
        wire.wait(LIMIT_S, lambda: bool(work))
        while work:
            work.popleft()
            taken += 1
        assert time.monotonic() - started < LIMIT_S, "a wake was lost"
    for thread in threads:
        thread.join()
    assert taken == 4 * each


def test_a_bell_made_of_sockets(open_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd", raising=False)
    wire = open_node().wire
    for _ in range(3):
        wire.wait(None, looked_just_before(wire))
    started = time.monotonic()
    wire.wait(0.05, never)
    assert time.monotonic() - started >= 0.04, "the bell was not hushed"


def test_ringing_a_full_bell_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd", raising=False)
    bell = Bell()
    for _ in range(100_000):
        bell.ring()
    bell.close()
    bell.ring()


# Endpoints


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "x",
        "tcp:/127.0.0.1:1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:99999",
        "tcp://127.0.0.1:http",
        "tcp://127.0.0.999:7001",
        "tcp://::1:7001",
        "tcp://[::g]:7001",
        "tcp://[127.0.0.1]:7001",
        "tcp://127.0.0.1:7001 ",
        "tcp://-x:7001",
        "tcp://127.0.0.1:7001;127.0.0.1:7002",
        "udp://127.0.0.1:7001",
        "inproc://x",
        "ipc://",
        "ipc://*",
        "ipc://@abstract",
        "ipc://a\0b",
        "ipc:///" + "long/" * 40,
    ],
)
def test_malformed_endpoints_are_refused(endpoint: str, open_node: MakeNode) -> None:
    with pytest.raises(ConfigError, match=r"bind takes tcp://ADDRESS:PORT .* or ipc://PATH .*, not '"):
        Node(endpoint)
    with pytest.raises(ConfigError, match=r"endpoint takes tcp://HOST:PORT .* or ipc://PATH .*, not '"):
        open_node().wire.dial(endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://*:7001", "tcp://127.0.0.1:*"])
def test_what_can_be_bound_but_not_dialled(endpoint: str, open_node: MakeNode) -> None:
    with pytest.raises(ConfigError, match="endpoint takes"):
        open_node().wire.dial(endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://192.0.2.1:7001", "tcp://no.such.host.invalid:7001"])
def test_addresses_of_others_cannot_be_bound(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="bind takes .* which gives: ") as caught:
        Node(endpoint)
    assert endpoint in str(caught.value)


def test_a_port_in_use_is_refused_and_stays_with_its_owner(open_node: MakeNode) -> None:
    owner, client = open_node(ANY_TCP), open_node()
    with pytest.raises(ConfigError, match="not in use") as caught:
        Node(ANY_TCP, owner.endpoint)
    assert owner.endpoint in str(caught.value)
    deliver(client, client.wire.dial(owner.endpoint), [b"x"], owner)


# Socket files


def test_a_socket_file_is_its_owners_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    node = Node(f"ipc://{path}")
    assert node.wire.endpoints == [f"ipc://{path}"]
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    node.wire.close()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path(open_node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server, client = open_node("ipc://s"), open_node()
    deliver(client, client.wire.dial("ipc://s"), [b"x"], server)
    monkeypatch.chdir("/")
    server.wire.close()
    assert list(tmp_path.iterdir()) == []


def test_the_socket_file_of_a_dead_process_is_replaced(open_node: MakeNode, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    server, client = open_node(f"ipc://{path}"), open_node()
    deliver(client, client.wire.dial(f"ipc://{path}"), [b"x"], server)


def test_a_dialler_waits_for_a_socket_file(open_node: MakeNode, tmp_path: Path) -> None:
    client = open_node()
    link = client.wire.dial(f"ipc://{tmp_path}/s")
    assert not client.wire.send(link, [b"x"])
    deliver(client, link, [b"x"], open_node(f"ipc://{tmp_path}/s"))


def test_the_socket_file_of_a_living_process_is_left_to_it(open_node: MakeNode, tmp_path: Path) -> None:
    server, client = open_node(f"ipc://{tmp_path}/s"), open_node()
    with pytest.raises(ConfigError, match="not in use"):
        Node(server.endpoint)
    deliver(client, client.wire.dial(server.endpoint), [b"x"], server)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not in use"):
        Node(f"ipc://{path}")
    assert path.read_text() == "precious"


def test_the_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    node = Node(f"ipc://{path}")
    path.rename(tmp_path / "ours")  # Keeps its inode number from being given to the successor.
    path.write_text("successor")
    node.wire.close()
    assert path.read_text() == "successor"


def test_a_file_that_somebody_removed_is_not_missed(tmp_path: Path) -> None:
    node = Node(f"ipc://{tmp_path}/s")
    (tmp_path / "s").unlink()
    node.wire.close()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Node(f"ipc://{tmp_path}/none/s")


def test_a_failed_bind_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Node(f"ipc://{tmp_path}/s", "tcp://192.0.2.1:7001")
    assert list(tmp_path.iterdir()) == []


# Options, contexts and closing


def test_configure_sees_each_socket_before_it_is_used() -> None:
    seen: list[tuple[object, bool]] = []

    def configure(socket: zmq.Socket[bytes], server: bool) -> None:
        assert socket.getsockopt(zmq.LAST_ENDPOINT) in (b"", b"\0")
        socket.setsockopt(zmq.RCVHWM, 7)
        seen.append((socket.getsockopt(zmq.TYPE), server))

    wire = Wire([ANY_TCP], max_frame_bytes=1000, rng=random.Random(1), configure=configure)
    wire.dial(wire.endpoints[0])
    wire.close()
    assert seen == [(zmq.ROUTER, True), (zmq.DEALER, False)]


@pytest.mark.parametrize("io_threads", [1, 2])
def test_a_context_that_was_given_is_left_open(io_threads: int) -> None:
    with zmq.Context(io_threads) as context:
        server, client = Node(ANY_TCP, context=context), Node(context=context)
        port = server.endpoint.rpartition(":")[2]
        deliver(client, client.wire.dial(f"tcp://localhost:{port}"), [b"x"], server)
        client.wire.close()
        server.wire.close()
        assert not context.closed


def test_no_more_sockets(open_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "_MAX_SOCKETS", 4)
    server = open_node(ANY_TCP)

    def dial_many() -> None:
        for _ in range(4):
            server.wire.dial(server.endpoint)

    with pytest.raises(OSError, match="no socket can be opened"):
        dial_many()


def test_a_closed_wire_is_quiet(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"x"], server)
    for node, to in ((client, link), (server, back)):
        node.wire.close()
        node.wire.close()
        node.wire.wake()
        assert not node.wire.send(to, [b"x"])
        assert node.wire.receive(10, 1000) == []


def test_close_does_not_wait_for_unsent_frames() -> None:
    server, client = Node(ANY_TCP), Node()
    link = client.wire.dial(server.endpoint)
    until(lambda: client.wire.send(link, [bytes(1_000_000)]), client)
    while client.wire.send(link, [bytes(1_000_000)]):
        pass
    started = time.monotonic()
    client.wire.close()
    server.wire.close()
    assert time.monotonic() - started < LIMIT_S


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what /proc lists")
def test_close_leaves_no_descriptors_or_threads(tmp_path: Path) -> None:
    def one_life() -> tuple[int, int]:
        server, client = Node(ANY_TCP, f"ipc://{tmp_path}/s"), Node()
        for endpoint in (*server.wire.endpoints, free_endpoint()):
            link = client.wire.dial(endpoint)
            if endpoint in server.wire.endpoints:
                deliver(client, link, [b"x"], server)
        server.wire.close()
        client.wire.close()
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))

    after_one = one_life()
    for _ in range(3):
        assert one_life() <= after_one


# Connections that end while frames are read


def test_the_heartbeats_of_libzmq_are_off_and_those_of_tcp_are_on() -> None:
    """With its own, libzmq 4.3.5 ends the process (stream_engine_base.cpp, `!_io_error`): if a connection ends when the
    receiving mark is reached, and nothing is read until the next of them is due, as when the process was stopped."""
    options: list[tuple[int, int]] = []

    def configure(socket: zmq.Socket[bytes], server: bool) -> None:
        options.append((socket.getsockopt(zmq.HEARTBEAT_IVL), socket.getsockopt(zmq.TCP_KEEPALIVE)))

    wire = Wire([ANY_TCP], max_frame_bytes=1000, rng=random.Random(1), configure=configure)
    wire.dial(wire.endpoints[0])
    wire.close()
    assert options == [(0, 1), (0, 1)]


# What a frame begins with is part of how frames are told apart.
a_part = st.sampled_from([b"", b"\xc1", b"\xc2"]).flatmap(lambda mark: st.binary(max_size=100).map(mark.__add__))
a_frame = st.lists(a_part, min_size=1, max_size=MAX_PARTS)


@given(st.lists(a_frame, min_size=1, max_size=MAX_TOGETHER))
def test_frames_are_one_part_on_the_way(frames: list[list[bytes]]) -> None:
    assert split(join(*frames)) == frames


@given(st.binary(max_size=100))
def test_what_was_not_joined_is_one_part_or_nothing(data: bytes) -> None:
    assert split(data) == [[data]] or data[:1] in (b"\xc1", b"\xc2")
    for mark in (b"\xc1", b"\xc2"):
        frames = split(mark + data)
        assert frames is None or split(join(*frames)) == frames


@pytest.mark.parametrize(
    "message",
    [
        join(*[[b"x"]] * (MAX_TOGETHER + 1)),
        join([b"x"] * (MAX_PARTS + 1)),
        join([b"x"], [b"x"] * (MAX_PARTS + 1)),
        b"\xc2\x00\x00",
        b"\xc2\x00\x01" + (7).to_bytes(4, "big") + join([b"x"], [])[:7],
        b"\xc2\x00\x01" + len(join([b"x"], [b"y"])).to_bytes(4, "big") + join([b"x"], [b"y"]),
        join([b"x"], [b"y", b"z"]) + b"!",
        join([b"x"], [b"y", b"z"])[:-1],
    ],
    ids=[
        "too many frames",
        "too many parts",
        "too many parts of one",
        "none",
        "cut",
        "frames in frames",
        "long",
        "short",
    ],
)
def test_a_message_that_is_not_whole_is_nothing(message: bytes) -> None:
    assert split(message) is None


def test_frames_that_are_given_together_come_together_and_in_order(open_node: MakeNode) -> None:
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"hello"], server)
    frames = [[b"head", b"payload"], [b"head"], [b"\xc1", b""]]
    assert client.wire.send(link, *frames)
    server.wire.wait(LIMIT_S, never)
    assert server.wire.receive(1, 1) == [(back, frame) for frame in frames]


def test_no_frame_is_torn_when_its_connection_ends_while_it_is_read(open_node: MakeNode) -> None:
    """libzmq looks for ended connections with every hundredth part that is read, be it in the middle of a message."""
    server, client = open_node(ANY_TCP), open_node()
    link = client.wire.dial(server.endpoint)
    back = deliver(client, link, [b"hello"], server)
    frame, frames = [b"head", b"body"], 60
    with client.wire._dialled[link].get_monitor_socket(zmq.EVENT_CONNECT_RETRIED) as lost:
        for _ in range(frames):
            assert server.wire.send(back, frame)
        client.wire.wait(LIMIT_S, never)
        server.wire.close()
        assert lost.poll(LIMIT_S * 1000)
        # Not asked again whether there is something: that would be another look for ended connections.
        client.got += client.wire.receive(frames, 1 << 20)
        client.wire._dialled[link].disable_monitor()
    assert client.frames == [frame] * frames
    assert client.wire.dropped == 0
