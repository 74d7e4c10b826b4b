"""What comes from elsewhere harms nobody who looks at it, and bodies are shown only where they are asked for."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path

import msgpack
import pytest
import zmq
from click.testing import CliRunner
from rich.console import Console

import zmqrel
from zmqrel import Outcome, Peer, Reject
from zmqrel.cli import main

EVIL = "\x1b]0;owned\x07\x1b[2J[bold red]\u202eevil[/]\r\n\x9b31m"
"""Escape sequences of terminals, markup, a change of the direction of writing, lines of its own."""
LONG = EVIL * 40
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\u2029]")
SECRET = "tell-nobody-5f1c"
WAIT_S = 30


def shown(*arguments: object) -> str:
    """What a command prints, on both streams."""
    ended = CliRunner().invoke(main, [str(each) for each in arguments], prog_name="zmqrel")
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.stdout + ended.stderr


def assert_harmless(text: str, most: int = 3000) -> None:
    assert not RAW.search(text), ascii(text)
    assert max(map(len, text.splitlines()), default=0) <= most
    # Square brackets are text: nothing was taken for markup.
    console = Console(file=io.StringIO(), force_terminal=True, width=10_000)
    console.print(text, markup=False, highlight=False)
    assert "\x1b[1;31m" not in console.file.getvalue()


class Scene:
    """Two peers on disk, between which whatever can be hostile was."""

    def __init__(self, directory: Path, body: object = "x") -> None:
        self.shop_dir, self.bill_dir = directory / "shop", directory / "billing"
        self.billing = Peer("billing", self.bill_dir, bind=f"ipc://{directory}/b.sock", peers={"shop": None})
        self.shop = Peer("shop", self.shop_dir, peers={"billing": f"ipc://{directory}/b.sock"})
        self.body = body

        @self.billing.handler("rejecting")
        def reject(message: zmqrel.Message) -> None:
            raise Reject(LONG)

        @self.billing.handler("failing", retry=zmqrel.Retry.fixed(0.01, max_attempts=2))
        def fail(message: zmqrel.Message) -> None:
            raise ValueError(LONG)

    def __enter__(self) -> Scene:
        self.billing.start()
        self.shop.start()
        given = {"key": f"k{EVIL}", "headers": {f"h{EVIL}": EVIL}}
        self.receipts = [
            self.shop.send("billing", self.body, queue=queue, id=f"{queue}{EVIL}", **given)
            for queue in ("rejecting", "failing", "lying")
        ]
        self.receipts.append(self.shop.send("billing", self.body, ttl=0.05, id=f"expiring{EVIL}", **given))
        assert self.receipts[0].wait(WAIT_S) is Outcome.REJECTED
        assert self.receipts[1].wait(WAIT_S) is Outcome.EXHAUSTED
        assert self.receipts[2].wait_received(WAIT_S)
        assert self.receipts[3].wait(WAIT_S) is Outcome.EXPIRED
        return self

    def __exit__(self, *_error: object) -> None:
        self.shop.close()
        self.billing.close()

    def everything_shown(self) -> Iterator[str]:
        """What commands, reprs and errors say of it, but for what shows a body because it was asked to."""
        for directory in (self.shop_dir, self.bill_dir):
            yield shown("status", directory)
            yield shown("verify", directory)
            for table in ("outbox", "inbox", "dead"):
                yield shown("ls", directory, table)
        yield shown("recall", self.shop_dir, f"lying{EVIL}", "--timeout", "0")
        yield shown("show", self.shop_dir, f"unknown{EVIL}")
        yield shown("dead", self.bill_dir, "retry", f"unknown{EVIL}")
        for receipt in self.receipts:
            yield repr(receipt)
            yield repr(receipt.recall())
            with suppress(zmqrel.NotHandled, TimeoutError):
                receipt.result(0)
        yield from map(repr, self.billing.inbox())
        yield from map(repr, self.billing.dead_letters())
        yield from map(repr, self.shop.outbox())
        yield repr(self.billing.stats())
        for error in self.errors():
            yield str(error)

    def errors(self) -> Iterator[Exception]:
        calls = (
            lambda: self.receipts[0].result(0),
            lambda: self.shop.send("billing", "other", id=f"lying{EVIL}"),
            lambda: self.shop.receipt(f"unknown{EVIL}"),
            lambda: self.shop.send(f"nobody{EVIL}", self.body),
            lambda: self.shop.send("billing", {"a": [self.body, object()]}),
        )
        for call in calls:
            try:
                call()
            except zmqrel.Error as error:
                yield error


def test_hostile_text_harms_nobody_who_looks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Scene(tmp_path) as scene:
        for said in scene.everything_shown():
            assert_harmless(said)
        for directory in (scene.shop_dir, scene.bill_dir):
            for receipt in scene.receipts:
                assert_harmless(shown("show", directory, receipt.id), 5000)
    for record in caplog.records:
        assert_harmless(record.getMessage())
    assert any("an attempt in queue failing failed" in record.getMessage() for record in caplog.records)


def test_what_listen_and_send_print_harms_nobody(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/l.sock"
    with Peer("shop", zmqrel.MEMORY, peers={"listener": endpoint}) as shop:
        shop.send("listener", {EVIL: EVIL}, key=EVIL, headers={EVIL: EVIL}, id=EVIL)
        said = shown("listen", "listener", "--bind", endpoint, "--count", 1)
        assert_harmless(said)
        assert "owned" in said, "a body is printed where it is asked for"
        assert shop.receipt(EVIL).wait(WAIT_S) is Outcome.HANDLED
    with Peer("b", zmqrel.MEMORY, bind=endpoint, accept="any") as billing:
        billing.handler("default")(lambda message: (_ for _ in ()).throw(Reject(LONG)))
        said = shown("send", "b", EVIL, "--at", endpoint, "--id", EVIL)
        assert_harmless(said)
        assert "REJECTED" in said


def test_names_of_strangers_harm_nobody_who_reads_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Frames that no peer of zmqrel says, from a socket of ZeroMQ."""
    hello = [1, b"halfhalf", 1, 1, [1, "stranger", 5], 0]
    said = [
        hello,
        [*hello[:4], [1, EVIL, 5], 0],
        [*hello[:4], [1, "x" * 600, 5], 0],
        [2, b"\0" * 16, 1, 1, EVIL],
        [4, b"\0" * 16, 1, 1, LONG],
        [7, b"\0" * 16, 1, 1, 1, 1, EVIL, 0, 1, [1], b"\0\0\0\0"],
    ]
    with (
        caplog.at_level(logging.DEBUG),
        Peer("b", zmqrel.MEMORY, bind="tcp://127.0.0.1:*", peers={"a": None}) as peer,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.linger = 0
        dealer.connect(peer.endpoints[0])
        for frame in said:
            dealer.send(msgpack.packb(frame))
        dealer.send(b"\xff" + EVIL.encode())
        give_up_at = time.monotonic() + WAIT_S
        while peer.stats()["malformed"] < 5 and time.monotonic() < give_up_at:
            assert dealer.poll(10) >= 0
        assert peer.stats()["malformed"] >= 5
        assert peer.stats()["refused"] >= 1
    for record in caplog.records:
        assert_harmless(record.getMessage(), 500)
    assert sum("malformed" in record.getMessage() for record in caplog.records) >= 1


def test_bodies_are_shown_nowhere_unless_they_are_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    body = {"card": SECRET, SECRET: [SECRET.encode()]}
    out = io.StringIO()
    with caplog.at_level(logging.DEBUG), redirect_stdout(out), Scene(tmp_path, body) as scene:
        message = scene.billing.receive("lying", WAIT_S)
        assert message is not None
        said = [*scene.everything_shown(), repr(message)]
        asked = shown("show", scene.shop_dir, scene.receipts[2].id)
        message.retry(reason="later")
    assert SECRET in asked, "show is asked for this message"
    captured = capfd.readouterr()
    logged = [f"{record.getMessage()} {record.exc_text or ''} {record.__dict__}" for record in caplog.records]
    for text in (*said, *logged, captured.out, captured.err, out.getvalue()):
        # The path to what cannot be sent names keys of the body: the application has just given it.
        assert SECRET not in text.replace(f"$['{SECRET}']", ""), text
