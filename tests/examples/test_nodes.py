"""The nodes: their command lines, and what each does apart from sending and receiving."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nodes import functions, program, relay, rows, sink, source, worker
from tests.cli.launching import PATIENCE_S, ROOT, environment


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A node to its end, with nothing of a launcher in its environment."""
    env = {name: value for name, value in environment().items() if not name.startswith("ZMQREL_")}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=env,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("node", ["source", "worker", "relay", "sink"])
def test_help_has_an_example(node: str) -> None:
    ended = command(f"nodes.{node}", "--help")
    assert ended.returncode == 0, ended.stderr
    assert f"example:\n  python -m nodes.{node} " in ended.stdout


@pytest.mark.parametrize("node", ["source", "worker", "relay", "sink"])
def test_a_node_is_short_enough_to_be_read_and_copied(node: str) -> None:
    assert len((ROOT / "nodes" / f"{node}.py").read_text(encoding="utf-8").splitlines()) < 150


PEER = ["--peer", "a=tcp://127.0.0.1:7001"]
SINK = ["sink", "--db", "{tmp}/x", "--store", "{tmp}/s"]
MISUSES = {
    "no file": (["source", "none.csv", "--to", "a", *PEER], "argument file: none.csv is not a file"),
    "no directory": (["source", "no/x.log", "--follow", "--to", "a", *PEER], "argument file: no is not a directory"),
    "to nobody": (["source", "{tmp}", "--to", "b", *PEER], "argument --to: b is no peer; known are a"),
    "negative rate": (["source", "x", "--to", "a", "--rate", "-1"], "argument --rate: '-1' is not a number above 0"),
    "rate of a log": (
        ["source", "x", "--to", "a", *PEER, "--follow", "--rate", "1"],
        "arguments --key and --rate are not for --follow",
    ),
    "end of a file": (
        ["source", "{file}", "--to", "a", *PEER, "--until", "x"],
        "arguments --from-oldest and --until are for --follow",
    ),
    "long label": (["source", "x", "--to", "a", *PEER, "--label", "x" * 81], "argument --label: "),
    "nothing to do": (["worker"], "one of --handle and --setup is needed"),
    "no queue": (["worker", "--handle", "json:dumps"], '--handle: "json:dumps" is not of the form QUEUE=MODULE:FUN'),
    "no function": (["worker", "--handle", "q=json"], 'argument --handle: "json" is not of the form MODULE:FUNCTION'),
    "unknown module": (["worker", "--handle", "q=no_such:f"], "No module named 'no_such'"),
    "unknown function": (["worker", "--handle", "q=json:no_such"], "has no attribute 'no_such'"),
    "not a function": (["worker", "--setup", "json:__name__"], "argument --setup: json:__name__ is not a function"),
    "broken module": (["worker", "--setup", "antigravity_of_a_test:f"], "ZeroDivisionError in antigravity_of_a_test"),
    "no threads": (["worker", "--handle", "q=json:dumps", "--workers", "0"], "argument --workers: '0' is not a whole"),
    "no share": (["worker", "--handle", "q=json:dumps", "--fail", "2"], "argument --fail: '2' is not a number from 0"),
    "relay to nobody": (
        ["relay", "--function", "json:dumps", "--to", "b"],
        "argument --to: b is no peer; known are none",
    ),
    "no sink": (["sink"], "the following arguments are required: --db"),
    "bad name": (["sink", "--db", "{tmp}/x", "--name", "a b"], "ConfigError: name "),
    "bad endpoint": ([*SINK, "--bind", "7001"], "ConfigError: bind"),
    "far endpoint": ([*SINK, "--bind", "tcp://0.0.0.0:7001"], "ConfigError: bind: "),
    "bad queue": ([*SINK, "--queue", ""], "ConfigError: queue "),
    "bad queue to send to": (
        ["relay", "--function", "json:dumps", "--to", "a", *PEER, "--send-queue", " "],
        "ConfigError: queue ",
    ),
    "bad queue of a source": (["source", "{file}", "--to", "a", *PEER, "--queue", " "], "ConfigError: queue "),
    "bad peer": ([*SINK, "--peer", "a=b"], "ConfigError: peers['a'] "),
    "not a database": (["sink", "--db", "{file}"], "argument --db: {file}: file is not a database"),
}
NODES = {"source": source, "worker": worker, "relay": relay, "sink": sink}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_told_in_a_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("ZMQREL_")]:
        monkeypatch.delenv(name)
    (tmp_path / "antigravity_of_a_test.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "rows.csv"
    file.write_text("n\n" * 1000, encoding="utf-8")
    (node, *arguments), words = MISUSES[case]
    given = [argument.format(tmp=tmp_path, file=file) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        program.run(lambda: NODES[node].main(given))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert words.format(file=file) in said
    assert "Traceback" not in said


def test_a_mistake_in_the_environment_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZMQREL_PEERS", "[1]")
    with pytest.raises(SystemExit):
        sink.main(["--db", "x"])
    assert "ZMQREL_PEERS: '[1]' is not a JSON object" in capsys.readouterr().err


def test_rows_of_a_csv_file_whatever_its_line_ends_and_letters(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x, ""y"""\r\n2,\xa3\r\n3\r\n4,5,6\r\n')
    assert list(rows.rows_of(file)) == [
        {"a": "1", "b": 'x, "y"'},
        {"a": "2", "b": "\\xa3"},
        {"a": "3", "b": ""},
        {"a": "4", "b": "5", "rest": ["6"]},
    ]


def test_rows_of_a_file_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": [2]}\n', encoding="utf-8")
    assert list(rows.rows_of(file)) == [{"a": 1}, {"a": [2]}]


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"a": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(SystemExit, match=r"rows\.jsonl:2: not"):
        list(rows.rows_of(file))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    program.replace(file, {"a": 1})
    program.replace(file, {"a": 2})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": 2}
    assert list(tmp_path.iterdir()) == [file]


def test_a_body_as_json_can_say_it() -> None:
    assert sink.plain({b"k": [b"\x01", {"a": None}]}) == {"6b": ["01", {"a": None}]}


def test_a_handler_is_named_by_its_queue(tmp_path: Path) -> None:
    queue, function = functions.handler_of("rows=json:dumps")
    assert queue == "rows"
    assert function is json.dumps


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node in the background, ended with SIGTERM if it has not ended by itself."""
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=environment()) as process:
        try:
            yield process
            if process.poll() is None:
                process.terminate()
            # By the signal, if it came before the node was up.
            assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
        finally:
            process.kill()


def test_source_and_sink_without_a_launcher(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("n,who\n" + "".join(f"{n},c{n % 3}\n" for n in range(300)), encoding="utf-8")
    endpoint = f"ipc://{tmp_path}/sink.ipc"
    feeding = ["nodes.source", str(file), "--to", "sink", "--peer", f"sink={endpoint}", "--key", "who"]
    feeding += ["--store", f"{tmp_path}/source"]
    writing = ["nodes.sink", "--db", f"{tmp_path}/rows.sqlite", "--store", f"{tmp_path}/sink", "--bind", endpoint]
    writing += ["--peer", "source"]
    with running(*feeding) as source_process:
        with running(*writing, "--until-end") as until_end:
            assert until_end.wait(PATIENCE_S) == 0
        # What the first sink could not say any more before it ended, a second one does.
        with running(*writing):
            assert source_process.wait(PATIENCE_S) == 0
    with closing(sink.Table(tmp_path / "rows.sqlite")) as table:
        assert table.counts() == {"rows": 301, "duplicates": 0}
        assert table.complete()
    # Once more: nothing is new, so nobody is needed on the other side.
    ended = command(*feeding)
    assert (ended.returncode, ended.stderr) == (0, "")
