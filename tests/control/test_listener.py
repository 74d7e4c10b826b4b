"""The control socket of a running peer: who may speak to it, and what becomes of those who speak nonsense."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import msgpack
import pytest

import zmqrel
from tests.real.net import LIMIT_S, until
from zmqrel.control.asked import looked_at
from zmqrel.control.asking import NoAnswer, connected
from zmqrel.control.listener import ControlListener
from zmqrel.control.place import MOST_QUESTION_BYTES, SOCKET, framed
from zmqrel.errors import ConfigError, StoreLocked, UnknownMessage
from zmqrel.store.directory import StoreDirectory

NONSENSE = {
    "a length that is too large": pack(">I", MOST_QUESTION_BYTES + 1) + b"x",
    "the largest length": b"\xff" * 8,
    "more than it said": pack(">I", 1) + b"\x80\x80",
    "nothing": pack(">I", 0),
    "no map": pack(">I", 1) + b"\x01",
    "a map of numbers": pack(">I", 3) + msgpack.packb({1: 1}),
    "an extension": pack(">I", 6) + msgpack.packb({"a": msgpack.ExtType(1, b"x")}),
    "a list that claims much": pack(">I", 7) + b"\x81\xa1a" + b"\xdd\xff\xff\xff",
    "http": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[zmqrel.Peer]:
    with zmqrel.Peer("shop", tmp_path / "shop", peers={"billing": None}) as running:
        yield running


def speak(directory: Path, data: bytes) -> bytes:
    """What is answered to these bytes until the connection ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT_S)
        connection.connect(str(directory / SOCKET))
        try:
            connection.sendall(data)
            return connection.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            return b""


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_counted_and_dropped(peer: zmqrel.Peer, tmp_path: Path, case: str) -> None:
    assert speak(tmp_path / "shop", NONSENSE[case]) == b""
    with connected(tmp_path / "shop") as ask:
        assert ask("status")["control"]["dropped"] == 1


def test_random_bytes_do_no_harm(peer: zmqrel.Peer, tmp_path: Path) -> None:
    rng = random.Random(1)
    for _ in range(200):
        body = rng.randbytes(rng.randrange(1, 300))
        speak(tmp_path / "shop", pack(">I", len(body)) + body)
    with connected(tmp_path / "shop") as ask:
        assert ask("status")["peer"] == "shop"


def test_who_says_nothing_holds_up_nobody(peer: zmqrel.Peer, tmp_path: Path) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for connection in silent:
            connection.connect(str(tmp_path / "shop" / SOCKET))
            connection.sendall(b"\0")
        with connected(tmp_path / "shop") as ask:
            assert ask("status")["peer"] == "shop"
    finally:
        for connection in silent:
            connection.close()
    until(lambda: peer.stats() and _dropped(tmp_path / "shop") == 20)


def test_who_takes_an_answer_slowly_does_not_make_others_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqrel.control.listener._QUESTION_S", 0.2)
    monkeypatch.setattr("zmqrel.control.listener._ANSWER_S", 0.6)
    answering = threading.Event()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        answering.set()
        return {"answer": b"x" * question["size"]}

    listener = ControlListener("peer", tmp_path, answer)
    listener.start()
    try:
        with socket.socket(socket.AF_UNIX) as slow, socket.socket(socket.AF_UNIX) as other:
            for connection in (slow, other):
                connection.settimeout(LIMIT_S)
                connection.connect(str(tmp_path / SOCKET))
            until(lambda: len(listener._asking) == 2)
            slow.sendall(framed({"size": 8 << 20}))
            assert answering.wait(LIMIT_S)
            other.sendall(framed({"size": 1}))
            assert other.recv(4096) == framed({"answer": b"x"})
    finally:
        listener.close()


def _dropped(directory: Path) -> int:
    with connected(directory) as ask:
        return int(ask("status")["control"]["dropped"])


WRONG = {
    "no question": ({}, "version 1, not None"),
    "another version": ({"version": 2, "ask": "status"}, "version 1, not 2"),
    "an unknown question": ({"version": 1, "ask": "stauts"}, "ask takes status or outbox"),
    "a question that is a list": ({"version": 1, "ask": []}, "ask takes"),
    "an id that is none": ({"version": 1, "ask": "find", "id": 7}, "id takes a str"),
    "left": ({"version": 1, "ask": "outbox", "left": [1]}, "left takes what the page before said"),
    "left with negative numbers": ({"version": 1, "ask": "inbox", "left": [[-1, 1, 1]]}, "left takes"),
    "a queue": ({"version": 1, "ask": "inbox", "queue": "a b"}, "queue takes"),
    "a number": ({"version": 1, "ask": "retry_dead", "number": -1}, "number takes a whole number from 0"),
    "no number": ({"version": 1, "ask": "purge_dead"}, "first takes a whole number from 0"),
    "a time": ({"version": 1, "ask": "purge_dead", "first": 1, "last": 1, "before": "x"}, "before takes POSIX seconds"),
    "a key": ({"version": 1, "ask": "examine", "behind": b"x" * 512}, "behind takes a key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_question_is_told_what_is_wrong(peer: zmqrel.Peer, tmp_path: Path, case: str) -> None:
    question, words = WRONG[case]
    data = msgpack.packb(question)
    said = speak(tmp_path / "shop", pack(">I", len(data)) + data)
    assert words.encode() in said[4:] or words[:40].encode() in said


def test_the_socket_is_its_owners_alone_and_goes_with_the_peer(tmp_path: Path) -> None:
    path = tmp_path / "shop" / SOCKET
    with zmqrel.Peer("shop", tmp_path / "shop"):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert not path.exists()


def test_a_path_that_is_longer_than_the_address_of_a_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120) / "shop"
    with zmqrel.Peer("shop", directory), connected(directory) as ask:
        assert ask("status")["running"]
        assert (directory / SOCKET).is_socket()
    assert not (directory / SOCKET).exists()


def test_a_relative_path_means_the_same_when_the_program_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    peer = zmqrel.Peer("shop", "shop").start()
    monkeypatch.chdir("/")
    with connected(tmp_path / "shop") as ask:
        assert ask("status")["store"] == str(tmp_path / "shop")
    peer.close()
    assert not (tmp_path / "shop" / SOCKET).exists()


def test_the_socket_of_a_dead_peer_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "shop"
    with zmqrel.Peer("shop", directory):
        pass
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(directory / SOCKET))
    left.close()
    with connected(directory) as ask:
        assert not ask("status")["running"]
    with zmqrel.Peer("shop", directory), connected(directory) as ask:
        assert ask("status")["running"]


def test_a_file_in_its_place_is_left_and_the_peer_runs(tmp_path: Path) -> None:
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / SOCKET).write_text("mine")
    with zmqrel.Peer("shop", directory) as peer:
        assert peer.stats()["commits"]
        with pytest.raises(NoAnswer, match="no control socket"), connected(directory):
            pass
    assert (directory / SOCKET).read_text() == "mine"


def test_a_forked_child_does_not_seem_to_listen(tmp_path: Path) -> None:
    peer = zmqrel.Peer("shop", tmp_path / "shop").start()
    child = os.fork()
    if not child:
        signal.pause()
    try:
        peer.close()
        with connected(tmp_path / "shop") as ask:
            assert not ask("status")["running"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_errors_keep_their_class(peer: zmqrel.Peer, tmp_path: Path) -> None:
    with connected(tmp_path / "shop", change=True) as ask:
        with pytest.raises(UnknownMessage, match="no message 'none' was sent from 'shop'"):
            ask("recall", id="none")
        with pytest.raises(ConfigError, match="id takes"):
            ask("recall", id="")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "shop"
    with zmqrel.Peer("shop", directory):
        # As if the directory had been opened to all: the socket itself still says no.
        for path in (directory, *directory.parents):
            if path.stat().st_uid == os.geteuid() and path != Path("/"):
                path.chmod(0o755)
        directory.joinpath(SOCKET).chmod(0o666)
        child = os.fork()
        if not child:
            os.setuid(65534)
            try:
                with connected(directory) as ask:
                    ask("status")
            except NoAnswer:
                os._exit(7)
            except BaseException:
                os._exit(8)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_who_looks_for_long_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zmqrel.Peer("shop", tmp_path / "shop"):
        pass
    monkeypatch.setattr("zmqrel.store.directory._LOOK_S", 0.05)
    with looked_at(tmp_path / "shop"), pytest.raises(StoreLocked, match="already open in this process"):
        StoreDirectory(tmp_path / "shop")


def test_who_only_looks_keeps_no_peer_from_starting(tmp_path: Path) -> None:
    with zmqrel.Peer("shop", tmp_path / "shop"):
        pass
    peer = zmqrel.Peer("shop", tmp_path / "shop")
    starting = threading.Thread(target=peer.start)
    with looked_at(tmp_path / "shop"):
        starting.start()
    starting.join(LIMIT_S)
    assert peer.stats()["commits"]
    peer.close()
