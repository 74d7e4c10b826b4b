"""The nodes: their command lines, and what each does apart from sending and receiving."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes import common, sink, source, worker
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


@pytest.mark.parametrize("node", ["source", "worker", "sink"])
def test_help_has_an_example(node: str) -> None:
    ended = command(f"nodes.{node}", "--help")
    assert ended.returncode == 0, ended.stderr
    assert f"example:\n  python -m nodes.{node} " in ended.stdout


@pytest.mark.parametrize("node", ["source", "worker", "sink"])
def test_a_node_is_short_enough_to_be_read_and_copied(node: str) -> None:
    assert len((ROOT / "nodes" / f"{node}.py").read_text(encoding="utf-8").splitlines()) < 150


MISUSES = {
    "no file": (["nodes.source", "none.csv", "--to", "a"], 2, "none.csv is not a file"),
    "nothing to do": (["nodes.worker"], 2, "one of --handle and --setup is needed"),
    "no queue": (["nodes.worker", "--handle", "json:dumps"], 2, "not of the form QUEUE=MODULE:FUNCTION"),
    "no function": (["nodes.worker", "--handle", "q=json"], 2, "not of the form MODULE:FUNCTION"),
    "unknown module": (["nodes.worker", "--handle", "q=no_such:f"], 2, "No module named 'no_such'"),
    "unknown function": (["nodes.worker", "--handle", "q=json:no_such"], 2, "has no attribute 'no_such'"),
    "not a function": (["nodes.worker", "--handle", "q=json:__name__"], 2, "is not a function"),
    "bad name": (["nodes.sink", "--db", "{tmp}/x", "--name", "a b"], 2, "ConfigError: "),
    "bad endpoint": (["nodes.sink", "--db", "{tmp}/x", "--store", "{tmp}/s", "--bind", "7001"], 2, "ConfigError: "),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_told_in_a_line(case: str, tmp_path: Path) -> None:
    arguments, status, words = MISUSES[case]
    ended = command(*[argument.format(tmp=tmp_path) for argument in arguments])
    assert ended.returncode == status
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_rows_of_a_csv_file_whatever_its_line_ends_and_letters(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x, ""y"""\r\n2,\xa3\r\n3\r\n4,5,6\r\n')
    assert list(source.rows_of(file)) == [
        {"a": "1", "b": 'x, "y"'},
        {"a": "2", "b": "\ufffd"},
        {"a": "3", "b": ""},
        {"a": "4", "b": "5", "rest": ["6"]},
    ]


def test_rows_of_a_file_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": [2]}\n', encoding="utf-8")
    assert list(source.rows_of(file)) == [{"a": 1}, {"a": [2]}]


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"a": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(SystemExit, match=r"rows\.jsonl:2: not"):
        list(source.rows_of(file))


def test_progress_outlives_the_process_and_may_be_lost(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    progress = source.Progress(file)
    assert progress.rows("a") == 0
    progress.advance("a", 5)
    progress.advance("b", 6)
    assert source.Progress(file).rows("a") == 5
    assert source.Progress(file).rows("b") == 6
    file.write_text("{", encoding="utf-8")
    assert source.Progress(file).rows("a") == 0


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    common.replace(file, {"a": 1})
    common.replace(file, {"a": 2})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": 2}
    assert list(tmp_path.iterdir()) == [file]


def test_a_body_as_json_can_say_it() -> None:
    assert sink.plain({b"k": [b"\x01", {"a": None}]}) == {"6b": ["01", {"a": None}]}


def test_a_handler_is_named_by_its_queue(tmp_path: Path) -> None:
    queue, function = worker.handler_of("rows=json:dumps")
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
    file.write_text("n,who\n" + "".join(f"{n},c{n % 3}\n" for n in range(1000)), encoding="utf-8")
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
    table = sink.Table(tmp_path / "rows.sqlite")
    assert table.counts() == {"rows": 1001, "duplicates": 0}
    assert table.complete()
    # Once more: nothing is new, so nobody is needed on the other side.
    ended = command(*feeding)
    assert (ended.returncode, ended.stderr) == (0, "")
