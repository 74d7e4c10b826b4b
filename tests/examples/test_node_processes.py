"""The nodes as processes: alone, ended in order, killed at any moment; what was read is written once."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.cli.launching import PATIENCE_S, environment

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts nodes in a directory of the test's own, and leaves none behind."""
    started: list[subprocess.Popen[bytes]] = []

    def run(node: str, *arguments: str, report: Path | None = None) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in environment().items() if not name.startswith("ZMQREL_")}
        env |= {"NOTES": str(tmp_path / "notes.sqlite")}
        if report is not None:
            env["ZMQREL_STATUS_FILE"] = str(report)
        command = [sys.executable, "-m", f"nodes.{node}", *arguments]
        with (tmp_path / "log").open("ab") as log:
            started.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


class Chain:
    """source -> relay -> sink, each with a store of its own, at ipc endpoints."""

    def __init__(self, start: Start, folder: Path, reading: list[str]) -> None:
        self._start = start
        relay, sink = f"ipc://{folder}/relay.ipc", f"ipc://{folder}/sink.ipc"
        self.database = folder / "rows.sqlite"
        self.commands = {
            "source": [*reading, "--to", "relay", "--peer", f"relay={relay}"],
            "relay": [
                "--bind", relay, "--peer", "source", "--peer", f"sink={sink}", "--to", "sink",
                "--function", "tests.examples.handlers:doubled",
            ],
            "sink": ["--bind", sink, "--peer", "relay", "--db", str(self.database), "--until-end"],
        }  # fmt: skip
        self.processes = {name: start(name, *arguments) for name, arguments in self.commands.items()}

    def kill(self, name: str) -> None:
        """SIGKILL, and a new life at once."""
        process = self.processes[name]
        if process.poll() is None:
            process.kill()
        process.wait()
        self.processes[name] = self._start(name, *self.commands[name])

    def bodies(self) -> list[object]:
        with closing(sqlite3.connect(self.database, timeout=30)) as db:
            return [json.loads(body) for (body,) in db.execute("SELECT body FROM messages ORDER BY n")]


def numbers(folder: Path, count: int) -> Path:
    file = folder / "numbers.csv"
    with file.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines).writerows([["n"], *([n] for n in range(100, 100 + count))])
    return file


def played(start: Start, folder: Path, seed: int, count: int, kills: int) -> None:
    rng = random.Random(seed)
    chain = Chain(start, folder, [str(numbers(folder, count)), "--rate", "200"])
    until = time.monotonic() + PATIENCE_S
    while chain.processes["sink"].poll() is None:
        assert time.monotonic() < until, (folder / "log").read_text(errors="replace")
        if kills:
            kills -= 1
            chain.kill(rng.choice(["source", "relay", "sink"]))
        try:
            # The moment of the next kill: any is as good as another.
            chain.processes["sink"].wait(rng.uniform(0.3, 1.2) if kills else PATIENCE_S)
        except subprocess.TimeoutExpired:
            continue
    assert chain.processes["sink"].returncode == 0, (folder / "log").read_text(errors="replace")
    assert sorted(body["n"] for body in chain.bodies() if body) == [2 * n for n in range(100, 100 + count)]  # type: ignore[index]


def test_a_file_through_three_nodes_that_are_killed(start: Start, tmp_path: Path) -> None:
    played(start, tmp_path, seed=0, count=300, kills=4)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 9))
def test_a_file_through_three_nodes_that_are_killed_often(start: Start, tmp_path: Path, seed: int) -> None:
    played(start, tmp_path, seed, count=1000, kills=12)


ASKED = [
    ("source", signal.SIGTERM),
    ("source", signal.SIGINT),
    ("worker", signal.SIGTERM),
    ("relay", signal.SIGINT),
    ("sink", signal.SIGTERM),
]


@pytest.mark.parametrize(("node", "number"), ASKED)
def test_a_node_that_is_asked_to_end_does_in_order(
    node: str, number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    peer = ["--peer", "other=tcp://127.0.0.1:9"]
    (tmp_path / "x.log").write_text("a line\n", encoding="utf-8")
    arguments = {
        "source": ["x.log", "--follow", "--to", "other", *peer],
        "worker": ["--handle", "rows=tests.examples.handlers:note", *peer],
        "relay": ["--function", "tests.examples.handlers:doubled", "--to", "other", *peer],
        "sink": ["--db", "rows.sqlite", *peer],
    }[node]
    report = tmp_path / "report.json"
    process = start(node, *arguments, report=report)
    # It is up when its first report is there.
    runs_until(process, report.exists)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "log").read_bytes() == b""


def test_a_worker_told_to_fail_and_crash_handles_everything(start: Start, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/worker.ipc"
    reading = [str(numbers(tmp_path, 30)), "--to", "worker", "--peer", f"worker={endpoint}"]
    working = ["--bind", endpoint, "--peer", "source", "--handle", "rows=tests.examples.handlers:note"]
    troubles = ["--fail", "0.2", "--stall", "0.2", "--stall-seconds", "0.01", "--crash", "0.1"]
    source = start("source", *reading)
    worker = start("worker", *working, *troubles)
    # Its last message is its end, which the function notes like any other; it ends when all have their outcome.
    while source.poll() is None:
        if worker.poll() is not None:
            assert worker.returncode == -signal.SIGKILL
            worker = start("worker", *working, *troubles)
        with contextlib.suppress(subprocess.TimeoutExpired):
            source.wait(0.05)
    assert source.returncode == 0
    with closing(sqlite3.connect(tmp_path / "notes.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM notes").fetchone()[0] == 31


def test_a_log_is_followed_by_a_source_that_is_killed(start: Start, tmp_path: Path) -> None:
    endpoint, log, database = f"ipc://{tmp_path}/sink.ipc", tmp_path / "app.log", tmp_path / "rows.sqlite"
    reading = [str(log), "--follow", "--until", "end", "--to", "sink", "--peer", f"sink={endpoint}"]
    start("sink", "--bind", endpoint, "--peer", "source", "--db", str(database))
    written: list[str] = []
    for life in range(2):
        with log.open("a", encoding="utf-8") as file:
            for _ in range(100):
                written.append(f"line {len(written)}")
                file.write(f"{written[-1]}\n")
        source = start("source", *reading)
        runs_until(source, partial(has_rows, database, len(written)))
        source.kill()
        source.wait()
        # While nobody reads: a part that is not read yet, then rotated, in one way or the other.
        with log.open("a", encoding="utf-8") as file:
            written.append(f"late line {life}")
            file.write(f"{written[-1]}\n")
        rotated = tmp_path / f"app.log.{2 - life}"
        if life % 2:
            log.rename(rotated)
        else:
            shutil.copyfile(log, rotated)
            os.truncate(log, 0)
    with log.open("a", encoding="utf-8") as file:
        file.write("end\nand what comes after it\n")
    assert start("source", *reading).wait(PATIENCE_S) == 0
    with closing(sqlite3.connect(database, timeout=30)) as db:
        *rows, end = db.execute("SELECT body, expected FROM messages ORDER BY n").fetchall()
    assert [json.loads(body) for body, _ in rows] == written
    assert end == ("null", len(written))
    # What is sent is sent: it would be sent again when its ids are forgotten.
    with closing(sqlite3.connect(tmp_path / "data" / "source.journal.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM unsent").fetchone()[0] == 0


def runs_until(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Wait until it is so, which it is to be while the process runs."""
    until = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < until
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"ended with {process.wait(0.02)}")


def has_rows(database: Path, count: int) -> bool:
    with closing(sqlite3.connect(database, timeout=30)) as db, contextlib.suppress(sqlite3.OperationalError):
        return bool(db.execute("SELECT count(*) >= ? FROM messages", (count,)).fetchone()[0])
    return False
