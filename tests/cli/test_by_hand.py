"""Two shells: `zmqrel listen` in one, `zmqrel send` in the other."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import zmqrel
from tests.cli.commands import assert_one_line, called, command, objects, one
from tests.cli.launching import PATIENCE_S, environment
from tests.cli.schema import validated
from tests.real.net import until
from zmqrel.cli import speech
from zmqrel.control.asking import is_served


class Listening:
    """`zmqrel listen --json`, at an endpoint of its own."""

    def __init__(self, process: subprocess.Popen[str], endpoint: str) -> None:
        self.process = process
        self.endpoint = endpoint

    def next(self) -> Any:
        assert self.process.stdout is not None
        return validated(json.loads(self.process.stdout.readline()), "listened")


@contextmanager
def listening(folder: Path, *arguments: object) -> Iterator[Listening]:
    endpoint = f"ipc://{folder}/b"
    words = ["listen", "billing", "--bind", endpoint, "--json", *map(str, arguments)]
    process = subprocess.Popen(
        [sys.executable, "-m", "zmqrel", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield Listening(process, endpoint)
        if "--count" not in arguments:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # A socket's path has at most some hundred bytes.
    assert len(os.fsencode(tmp_path)) < 90
    return tmp_path


def test_what_is_sent_is_printed_and_handled(folder: Path) -> None:
    with listening(folder, "--queue", "q") as shell:
        arguments = [
            "--at",
            shell.endpoint,
            "--queue",
            "q",
            "--key",
            "k",
            "--header",
            "a=b",
            "--ttl",
            60,
            "--id",
            "mine",
        ]
        (sent,) = objects("sent", "send", "billing", '{"order": [42, null]}', "--as-json", *arguments)
        assert (sent["id"], sent["outcome"], sent["attempts"]) == ("mine", "HANDLED", 1)
        got = shell.next()
    assert (got["id"], got["queue"], got["key"], got["headers"]) == ("mine", "q", "k", {"a": "b"})
    assert got["body"] == {"order": [42, None]}
    assert got["sender"].startswith("send-")
    assert got["deadline"] is not None


def test_lines_of_standard_input_are_messages_and_count_ends_it(folder: Path) -> None:
    with listening(folder, "--count", 3) as shell:
        lines = "one\ntwo\r\nd\u00e9j\u00e0 vu"
        assert len(objects("sent", "send", "billing", "--at", shell.endpoint, stdin=lines)) == 3
        assert [shell.next()["body"] for _ in range(3)] == ["one", "two", "d\u00e9j\u00e0 vu"]
        assert shell.process.wait(PATIENCE_S) == 0


def test_a_text_for_people(folder: Path) -> None:
    with listening(folder) as shell:
        ended = command("send", "billing", "hello", "\x1b[31m", "--at", shell.endpoint)
        assert ended.returncode == 0
        assert [line.split(": ")[1].split(" (")[0] for line in ended.stdout.splitlines()] == ["HANDLED", "HANDLED"]
        assert shell.next()["body"] == "hello"
        assert shell.next()["body"] == "\x1b[31m"


def test_listen_prints_for_people_too(folder: Path) -> None:
    words = ["listen", "billing", "--bind", f"ipc://{folder}/b", "--count", "1"]
    program = [sys.executable, "-m", "zmqrel", *words]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"billing listens at ipc://{folder}/b; Ctrl-C ends it\n"
        with zmqrel.Peer("shop", zmqrel.MEMORY, peers={"billing": f"ipc://{folder}/b"}) as shop:
            assert shop.send("billing", b"\x1b").wait_received(PATIENCE_S)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert said.rstrip().endswith('shop default: {"base64": "Gw=="}')


def test_what_has_no_outcome_stays_in_a_store(folder: Path) -> None:
    arguments = ["--at", f"ipc://{folder}/b", "--store", folder / "shop"]
    (sent,) = objects("sent", "send", "billing", "later", *arguments, "--timeout", 0, status=1)
    assert (sent["outcome"], sent["state"]) == (None, "STORED")
    assert [item["id"] for item in objects("outgoing", "ls", folder / "shop", "outbox")] == [sent["id"]]
    with listening(folder, "--store", folder / "billing") as shell:
        assert objects("sent", "send", "billing", "now", *arguments)[0]["outcome"] == "HANDLED"
        assert [shell.next()["body"] for _ in "ab"] == ["later", "now"]
        assert one("status", "status", folder / "billing")["stats"]["handled"] == 2
    # The store keeps its name.
    assert shell.process.returncode == 0
    assert one("status", "status", folder / "shop")["peer"].startswith("send-")


def test_a_message_that_is_not_handled_is_status_1(folder: Path) -> None:
    billing = zmqrel.Peer("billing", zmqrel.MEMORY, bind=f"ipc://{folder}/b", accept="any")

    @billing.handler()
    def refuse(message: zmqrel.Message) -> None:
        raise zmqrel.Reject("no")

    with billing:
        (sent,) = objects("sent", "send", "billing", "x", "--at", f"ipc://{folder}/b", status=1)
    assert (sent["outcome"], sent["reason"]) == ("REJECTED", "no")


def test_a_peer_that_connects_to_the_sender(folder: Path) -> None:
    endpoint = f"ipc://{folder}/s"
    billing = zmqrel.Peer("billing", zmqrel.MEMORY, peers={"hand": endpoint})
    billing.handler()(lambda message: None)
    with billing:
        (sent,) = objects("sent", "send", "billing", "x", "--bind", endpoint, "--name", "hand")
    assert sent["outcome"] == "HANDLED"


def test_only_the_peers_named_are_listened_to(folder: Path) -> None:
    with listening(folder, "--peer", "shop") as shell:
        refused = objects("sent", "send", "billing", "x", "--at", shell.endpoint, "--timeout", 0.5, status=1)
        assert refused[0]["state"] == "STORED"
        assert (
            objects("sent", "send", "billing", "x", "--at", shell.endpoint, "--name", "shop")[0]["outcome"] == "HANDLED"
        )


MISUSES = {
    "no peer": (["send"], "Missing argument 'PEER'"),
    "a name": (["send", "a b", "x"], "takes a str of 1 to 64 of a-z"),
    "an endpoint": (["send", "b", "x", "--at", "7001"], "7001"),
    "an endpoint of others": (["send", "b", "x", "--at", "tcp://192.0.2.1:7001"], "insecure"),
    "two ways": (["send", "b", "x", "--at", "ipc:///x", "--bind", "ipc:///y"], "give --at or --bind, not both"),
    "no json": (["send", "b", "{", "--as-json"], "{: not JSON"),
    "a header": (["send", "b", "x", "--header", "a"], '"a" is not of the form NAME=VALUE'),
    "a ttl": (["send", "b", "x", "--ttl", "-1"], "'--ttl': takes a number of seconds from 0, not '-1'"),
    "a timeout that never comes": (["send", "b", "x", "--timeout", "nan"], "takes a number of seconds from 0, not"),
    "an endless timeout": (["send", "b", "x", "--timeout", "inf"], "takes a number of seconds from 0, not 'inf'"),
    "an endless delay": (["send", "b", "x", "--delay", "inf"], "takes a number of seconds from 0, not 'inf'"),
    "attempts": (["send", "b", "x", "--max-attempts", "x"], "takes a whole number from 1, not 'x'"),
    "a count": (["listen", "b", "--count", "0"], "takes a whole number from 1, not '0'"),
    "an empty endpoint": (["listen", "b", "--peer", "x="], "--peer takes NAME, or NAME=ENDPOINT"),
    "an id for two": (["send", "b", "x", "y", "--id", "z"], "--id names one message"),
    "a queue": (["send", "b", "x", "--queue", "a b"], "queue takes"),
    "a store that is a file": (["send", "b", "x", "--store", "{file}"], "is a file"),
    "a listener's name": (["listen", "a b"], "takes a str of 1 to 64 of a-z"),
    "an endpoint to bind": (["listen", "b", "--bind", "nowhere"], "nowhere"),
    "an open endpoint": (["listen", "b", "--bind", "tcp://0.0.0.0:7001"], "insecure"),
    "itself": (["listen", "b", "--peer", "b"], "is this peer itself"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_told_in_a_line(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").touch()
    arguments, words = MISUSES[case]
    ended = called(
        *[argument.format(file=tmp_path / "file") if "file" in argument else argument for argument in arguments]
    )
    assert ended.returncode == 2, ended.stderr
    assert words in ended.stderr
    assert_one_line(ended.stderr)


def test_an_endpoint_in_use_is_told_in_a_line(folder: Path) -> None:
    with listening(folder, "--count", 1) as shell:
        assert objects("sent", "send", "billing", "x", "--at", shell.endpoint)
        with zmqrel.Peer("other", zmqrel.MEMORY, bind=f"ipc://{folder}/c"):
            ended = called("listen", "billing", "--bind", f"ipc://{folder}/c")
    assert ended.returncode == 1
    assert "in use" in ended.stderr
    assert_one_line(ended.stderr)


def test_a_store_that_cannot_be_made_is_told_in_a_line(folder: Path) -> None:
    (folder / "file").touch()
    ended = called("listen", "billing", "--bind", f"ipc://{folder}/c", "--store", folder / "file" / "store")
    assert ended.returncode == 1
    assert str(folder / "file") in ended.stderr
    assert_one_line(ended.stderr)


def test_what_was_asked_of_the_timeout_is_told(folder: Path) -> None:
    ended = called("send", "billing", "x", "--at", f"ipc://{folder}/b", "--timeout", 0)
    assert ended.returncode == 1
    assert ended.stdout.endswith(
        ": no outcome within 0 s, it is STORED and gone with this command: there is no --store\n"
    )


def test_who_interrupts_send_is_told_so(folder: Path) -> None:
    words = ["send", "billing", "x", "--at", f"ipc://{folder}/b", "--timeout", "3600", "--store", str(folder / "shop")]
    program = [sys.executable, "-m", "zmqrel", *words]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            until(lambda: (folder / "shop" / "data.mdb").exists() and is_served(folder / "shop"))
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 1
    assert said.endswith(": interrupted, no outcome yet, it is STORED and stays in the store\n")


def test_what_the_library_repeats_within_a_second_is_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("zmqrel")
    monkeypatch.setattr(speech, "_REPEATED_S", 3600.0)
    with speech.log_told():
        for name in ("shop", "shop", "till", "shop"):
            log.warning("refused %s\x1b", name)
        monkeypatch.setattr(speech, "_REPEATED_S", 0.0)
        log.warning("refused shop\x1b")
    told = ["zmqrel: refused shop\\x1b", "zmqrel: refused till\\x1b", "zmqrel: refused shop\\x1b"]
    assert capsys.readouterr().err.splitlines() == told


def test_a_sender_that_is_refused_is_named_by_the_listener(folder: Path) -> None:
    words = ["send", "billing", "x", "--timeout", "3600", "--name", "thief", "--at"]
    with listening(folder, "--peer", "shop") as shell:
        program = [sys.executable, "-m", "zmqrel", *words, shell.endpoint]
        with subprocess.Popen(program, stdout=subprocess.DEVNULL, env=environment()) as thief:
            try:
                assert shell.process.stderr is not None
                assert shell.process.stderr.readline() == "zmqrel: peer billing: refused thief: not in `peers`\n"
            finally:
                thief.kill()
