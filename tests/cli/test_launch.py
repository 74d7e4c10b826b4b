"""Runs of small programs that need no peer: started, restarted, given up, judged, and ended in order."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.commands import assert_one_line
from tests.cli.launching import PATIENCE_S, ROOT, Launched, environment, is_gone
from tests.cli.schema import validated
from tests.real.net import until
from zmqrel.cli.supervise import State, View
from zmqrel.cli.table import COLUMNS, OFTEN, table

Launch = Callable[..., Launched]

FOREVER = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); signal.pause()"


def node(name: str, program: str, *lines: str) -> str:
    """A node that runs a small Python program."""
    literal = json.dumps(program.replace("{", "{{").replace("}", "}}"))
    return "\n".join([f"[node.{name}]", f"program = ['{{python}}', '-c', {literal}]", *lines, ""])


def checked(pids: list[int]) -> None:
    assert pids
    assert all(is_gone(pid) for pid in pids)


def test_a_node_that_always_dies_is_given_up_with_its_last_words(launch: Launch) -> None:
    words = "import sys; [print(f'word {n}', file=sys.stderr) for n in range(30)]; sys.exit(7)"
    run = launch(node("good", FOREVER) + node("bad", words, "backoff = 0.01"))
    assert run.end() == 1
    given_up = run.of("given_up")[0]
    assert given_up["node"] == "bad"
    assert given_up["starts"] == 5
    assert given_up["why"] == "exit status 7"
    assert given_up["tail"] == [f"word {n}" for n in range(10, 30)]
    assert [event["again_in"] for event in run.of("died")] == [0.01, 0.02, 0.04, 0.08]
    assert run.summary()["end"] == "failed"
    assert run.summary()["reason"] == "bad was given up"
    assert {name: each["state"] for name, each in run.summary()["nodes"].items()} == {
        "good": "stopped",
        "bad": "failed",
    }
    checked(run.pids())


def test_without_json_the_last_words_go_to_stderr(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(node("bad", "raise SystemExit('it is all wrong')", "restart = 'never'"), encoding="utf-8")
    ended = command("launch", str(file), "--data", str(tmp_path / "data"))
    assert ended.returncode == 1
    assert "bad was given up after 1 starts (exit status 1); its last lines:\n  | it is all wrong" in ended.stderr
    assert "bad: exit status 1, given up" in ended.stdout
    assert f"exit status 1; data kept in {tmp_path / 'data'}" in ended.stdout


def test_a_node_that_dies_is_started_again_and_the_run_goes_on(launch: Launch, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    program = (
        f"import os, pathlib, signal; flag = pathlib.Path({str(flag)!r})\n"
        "if not flag.exists(): flag.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = launch(node("a", program, "backoff = 0.01"))
    assert run.end() == 0
    assert run.of("died") == [{"event": "died", "node": "a", "why": "killed by SIGKILL", "again_in": 0.01}]
    assert run.summary()["nodes"]["a"]["starts"] == 2
    assert run.summary()["end"] == "finished"


def test_a_node_is_not_started_again_against_its_rule(launch: Launch) -> None:
    run = launch(node("a", "raise SystemExit(3)", "restart = 'never'"))
    assert run.end() == 1
    assert len(run.of("started")) == 1


def test_a_node_that_was_used_wrongly_is_not_started_again(launch: Launch) -> None:
    words = "import sys; print('--rate takes a number', file=sys.stderr); sys.exit(2)"
    run = launch(node("a", words))
    assert run.end() == 1
    assert len(run.of("started")) == 1
    assert run.of("given_up")[0]["tail"] == ["--rate takes a number"]


def test_a_steady_life_makes_up_for_earlier_deaths(launch: Launch, tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    program = (
        f"import pathlib; lives = pathlib.Path({str(lives)!r}); lives.open('a').write('x')\n"
        "raise SystemExit(lives.read_text() < 'x' * 6)"
    )
    # Every life is longer than 0 s, so no two deaths are in a row.
    run = launch(node("a", program, "tries = 2", "steady = 0", "backoff = 0.01"))
    assert run.end() == 0
    assert run.summary()["nodes"]["a"]["starts"] == 6


def test_the_end_of_one_node_can_finish_the_run(launch: Launch) -> None:
    run = launch(node("long", FOREVER) + node("short", "pass") + "[end]\nwhen = ['short']")
    assert run.end() == 0
    assert run.summary()["reason"] == "short ended"
    assert run.summary()["nodes"]["long"]["state"] == "stopped"
    checked(run.pids())


@pytest.mark.parametrize("status", [0, 1, 5])
def test_the_verdict_of_the_verifier_is_the_exit_status(launch: Launch, tmp_path: Path, status: int) -> None:
    program = f"import pathlib, sys; print('judged', pathlib.Path(sys.argv[1]).is_dir()); sys.exit({status})"
    verify = f"[end]\nverify = ['{{python}}', '-c', {json.dumps(program)}, '{{data}}']"
    run = launch(node("a", "pass") + verify)
    assert run.end() == status
    assert run.summary()["status"] == status
    assert run.stderr() == "judged True\n"
    assert run.summary()["kept"] == (status != 0)
    assert Path(run.summary()["data"]).exists() == (status != 0)


def test_a_failed_run_is_not_judged(launch: Launch) -> None:
    verify = "[end]\nverify = ['{python}', '-c', 'pass']"
    run = launch(node("a", "raise SystemExit(1)", "restart = 'never'") + verify)
    assert run.end() == 1
    assert not run.of("verifying")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_nodes_in_the_order_of_the_file(
    launch: Launch, tmp_path: Path, number: signal.Signals
) -> None:
    order = tmp_path / "order"
    program = (
        "import pathlib, signal, sys\n"
        "def end(*_):\n"
        f"    pathlib.Path({str(order)!r}).open('a').write(sys.argv[1])\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'up-' + sys.argv[1]).touch()\n"
        "signal.pause()"
    )
    run = launch("".join(node(name, program, f"args = ['{name}']") for name in "cab"), "--every", "0.1")
    while not all((tmp_path / f"up-{name}").exists() for name in "cab"):
        run.until("progress")
    run.process.send_signal(number)
    # Without an end rule nothing was left undone.
    assert run.end() == 0
    assert order.read_text() == "cab"
    assert run.summary()["reason"] == f"interrupted by {number.name}"
    assert run.summary()["kept"]
    checked(run.pids())


def test_an_interrupted_run_with_an_end_rule_did_not_end_well(launch: Launch) -> None:
    run = launch(node("a", FOREVER) + "[end]\nwhen = ['a']")
    run.until("started")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 1


STUBBORN = (
    "import pathlib, signal, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch()\n"
    "while True: signal.pause()"
)


def stubborn(launch: Launch, flag: Path, seconds: float) -> Launched:
    text = node("a", STUBBORN, f"args = ['{flag}']") + f"[run]\nstop_timeout = {seconds}"
    run = launch(text, "--every", "0.1")
    while not flag.exists():
        run.until("progress")
    run.process.send_signal(signal.SIGINT)
    return run


def test_a_node_that_does_not_end_is_killed(launch: Launch, tmp_path: Path) -> None:
    run = stubborn(launch, tmp_path / "up", 0.2)
    assert run.end() == 0
    assert run.of("killed") == [{"event": "killed", "node": "a", "after": 0.2}]
    checked(run.pids())


def test_a_second_signal_does_not_wait(launch: Launch, tmp_path: Path) -> None:
    run = stubborn(launch, tmp_path / "up", 3600)
    run.until("stopping")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0
    checked(run.pids())


def test_no_further_signal_costs_the_summary(launch: Launch, tmp_path: Path) -> None:
    run = stubborn(launch, tmp_path / "up", 3600)
    while run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(0.001)
    run.end()
    assert run.summary()["kept"]
    assert Path(run.summary()["data"]).is_dir()
    checked(run.pids())


def test_a_node_that_is_killed_in_a_hurry_was_not_given_the_whole_time(launch: Launch, tmp_path: Path) -> None:
    run = stubborn(launch, tmp_path / "up", 3600)
    run.until("stopping")
    run.process.send_signal(signal.SIGTERM)
    assert run.until("killed")["after"] < 3600
    assert run.end() == 0


def test_the_verifier_is_interrupted_and_the_summary_stays(launch: Launch, tmp_path: Path) -> None:
    flag = tmp_path / "up"
    verify = f"[end]\nverify = ['{{python}}', '-c', {json.dumps(STUBBORN)}, '{flag}']"
    run = launch(node("a", "pass") + verify)
    run.until("verifying")
    until(flag.exists)
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 128 + signal.SIGKILL
    assert run.summary()["kept"]


def test_a_node_that_fails_when_it_is_to_end_is_named(launch: Launch, tmp_path: Path) -> None:
    flag = tmp_path / "up"
    program = (
        "import pathlib, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n"
        "pathlib.Path(sys.argv[1]).touch(); signal.pause()"
    )
    run = launch(node("a", program, f"args = ['{flag}']"), "--every", "0.1")
    while not flag.exists():
        run.until("progress")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    assert run.of("ended_badly") == [{"event": "ended_badly", "node": "a", "why": "exit status 4"}]


def test_what_a_node_has_started_ends_with_it(launch: Launch, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = (
        "import pathlib, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))"
    )
    run = launch(node("a", program))
    assert run.end() == 0
    # Killed, but reaped by whoever adopts orphans here, if anyone does.
    assert is_gone(int(pid.read_text())) or is_zombie(int(pid.read_text()))


def is_zombie(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:1] in ("Z", "")


def test_a_run_that_takes_too_long_is_ended(launch: Launch) -> None:
    run = launch(node("a", FOREVER), "--timeout", "0.3")
    assert run.end() == 1
    assert run.summary()["reason"] == "not finished within 0.3 s"
    checked(run.pids())


def test_a_run_that_nobody_listens_to_any_more_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(node("a", FOREVER) + node("b", FOREVER), encoding="utf-8")
    arguments = ["launch", str(file), "--data", str(tmp_path / "data"), "--json", "--every", "0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zmqrel", *arguments], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    pids = [json.loads(process.stdout.readline())["pid"] for _ in "ab"]
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 1
    checked(pids)


def test_given_data_is_kept_and_holds_the_logs(launch: Launch, tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    run = launch(node("a", "print('said')"), "--data", str(data))
    assert run.end() == 0
    assert run.summary()["data"] == str(data)
    assert run.summary()["kept"]
    assert (data / "logs" / "a.log").read_text() == "said\n"
    again = launch(node("a", "print('more')"), "--data", str(data))
    assert again.end() == 0
    assert (data / "logs" / "a.log").read_text() == "said\nmore\n"


def test_data_of_a_run_that_went_well_is_removed_unless_given(launch: Launch, tmp_path: Path) -> None:
    run = launch(node("a", "pass"))
    assert run.end() == 0
    assert not run.summary()["kept"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_program_that_went_away_is_no_traceback(launch: Launch, tmp_path: Path) -> None:
    program = tmp_path / "once"
    program.write_text('#!/bin/sh\nrm "$0"\nexit 1\n')
    program.chmod(0o755)
    run = launch("[node.a]\nprogram = ['./once']\nbackoff = 0.01")
    assert run.end() == 1
    assert run.of("given_up")[0]["why"] == "cannot be started: No such file or directory"
    assert "Traceback" not in run.stderr()


REPORT = (
    "import json, os, pathlib, signal, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    "file = pathlib.Path(os.environ['ZMQREL_STATUS_FILE']); new = file.with_suffix('.new')\n"
    "counts = {'sent': 12, 'inbox_messages': 3, 'rows': 5}\n"
    "new.write_text(json.dumps({'pid': os.getpid(), 'time': 1, **counts}))\n"
    "new.replace(file)\n"
)


def test_the_counts_of_nodes_are_shown(launch: Launch) -> None:
    run = launch(node("a", REPORT + "signal.pause()") + node("b", FOREVER), "--every", "0.1")
    while run.until("progress")["nodes"]["a"]["sent"] != 12:
        pass
    nodes = run.events[-1]["nodes"]
    assert nodes["a"]["backlog"] == 3
    assert nodes["a"]["report"]["rows"] == 5
    assert nodes["b"]["handled"] == 0
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0


PEER = (
    "import os, signal, threading, zmqrel\n"
    "stop = threading.Event()\n"
    "signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
    "with zmqrel.Peer('a', os.environ['ZMQREL_STORE'], peers={'b': None}) as peer:\n"
    "    peer.send_many('b', ['x'] * 3)\n"
    "    stop.wait()\n"
)


def test_a_node_that_reports_nothing_is_asked(launch: Launch) -> None:
    run = launch(node("a", PEER), "--every", "0.1")
    while run.until("progress")["nodes"]["a"]["backlog"] != 3:
        pass
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0


def test_counts_of_an_earlier_run_are_not_added(launch: Launch, tmp_path: Path) -> None:
    for sent in (12, 0):
        run = launch(node("a", REPORT if sent else "pass"), "--data", str(tmp_path / "data"))
        assert run.end() == 0
        assert run.summary()["nodes"]["a"]["sent"] == sent


def test_plain_lines_show_counts_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(node("a", REPORT), encoding="utf-8")
    ended = command("launch", str(file), "--data", str(tmp_path / "data"))
    assert ended.returncode == 0, ended.stderr
    assert "a: started, process " in ended.stdout
    assert "  a                ended      sent 12, backlog 3, 0/s\n" in ended.stdout
    assert "finished after" in ended.stdout
    assert "\x1b" not in ended.stdout


def test_what_the_counts_of_a_restarted_node_lack_is_said(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    program = (
        "import os, pathlib, signal; up = pathlib.Path('up')\n"
        "if not up.exists(): up.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    file.write_text(node("a", program, "backoff = 0.01") + node("b", "pass"), encoding="utf-8")
    ended = command("launch", str(file), "--data", str(tmp_path / "data"))
    assert ended.returncode == 0, ended.stderr
    note = "restarted: a; what a killed life counted after its last report is not in the figures"
    assert ended.stdout.splitlines()[-2] == note


def test_a_table_fits_80_columns_without_breaking_a_heading() -> None:
    wide = {column: 1_234_567 if column in OFTEN else 12 for column in COLUMNS}
    wide["backlog"] = 123
    views = [View("warehouse", State.RESTARTING, 2, wide, 0.0, {}), View("source", State.RUNNING, 1, wide, 12345.0, {})]
    written = io.StringIO()
    Console(width=80, file=written).print(table(views))
    said = written.getvalue()
    head = next(text for text in said.splitlines() if "node" in text)
    assert head.split() == ["node", "state", "sent", "received", "handled", "backlog", "per", "s"]
    assert said.count("1,234,567") == 6
    assert " warehouse: retried 12, recalled 12, expired 12, dead 12" in [text.rstrip() for text in said.splitlines()]
    assert max(map(len, said.splitlines())) <= 80


def test_a_terminal_shows_a_table(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(node("a", REPORT), encoding="utf-8")
    master, slave = pty.openpty()
    arguments = [sys.executable, "-m", "zmqrel", "launch", str(file), "--data", str(tmp_path / "data")]
    env = {**environment(), "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(arguments, stdout=slave, stderr=slave, stdin=slave, env=env)
    os.close(slave)
    said = b""
    try:
        while chunk := os.read(master, 65536):
            said += chunk
    except OSError:
        # How Linux says that the other end of a terminal is closed.
        pass
    finally:
        os.close(master)
    assert process.wait(PATIENCE_S) == 0
    text = said.decode()
    assert "received" in text
    assert "backlog" in text
    assert "finished after" in text


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`zmqrel` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "zmqrel", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
    )


def test_check_shows_the_plan_and_makes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(node("a", "pass", "endpoint = 'tcp://127.0.0.1:7001'"), encoding="utf-8")
    checking = ["launch", str(file), "--check", "--data", str(tmp_path / "data")]
    ended = command(*checking)
    assert ended.returncode == 0, ended.stderr
    assert "a at tcp://127.0.0.1:7001, restart on-failure" in ended.stdout
    described = validated(json.loads(command(*checking, "--json").stdout), "plan")
    assert described["nodes"]["a"]["command"][1:] == ["-c", "pass"]
    assert not (tmp_path / "data").exists()


MISUSES = {
    "no such file": (["launch", "none.toml"], "none.toml: cannot be read: No such file or directory"),
    "no file": (["launch"], "Missing argument 'TOPOLOGY'"),
    "no such option": (["launch", "x", "--jsno"], "--jsno"),
    "no such command": (["lunch"], "No such command 'lunch'"),
    "no such input": (["launch", "x", "--input", "none.csv"], "'none.csv' does not exist"),
    "no input": (["launch", "{file}", "--input", "{file}"], "parameters.input: not a parameter"),
    "no seconds": (["launch", "{file}", "--every", "inf"], "takes a number of seconds from 0.1 to 3600, not 'inf'"),
    "no end": (["launch", "{file}", "--timeout", "nan"], "takes a number of seconds from 0, not 'nan'"),
    "no equals": (["launch", "{file}", "--set", "x"], '"x" is not of the form NAME=VALUE'),
    "data is a file": (["launch", "{file}", "--data", "{file}"], "is a file"),
    "data below a file": (["launch", "{file}", "--data", "{file}/x"], "cannot be made: Not a directory"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_told_in_a_line(case: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(node("a", "pass"), encoding="utf-8")
    arguments, words = MISUSES[case]
    ended = command(*[argument.format(file=file) for argument in arguments])
    assert ended.returncode == 2
    assert words in ended.stderr
    assert_one_line(ended.stderr)


@pytest.mark.parametrize("arguments", [["--help"], ["launch", "--help"]])
def test_help_has_an_example(arguments: list[str]) -> None:
    ended = command(*arguments)
    assert ended.returncode == 0, ended.stderr
    assert "zmqrel launch examples/orders/topology.toml" in ended.stdout


@pytest.mark.parametrize("module", ["click", "rich"])
def test_without_the_extra_its_name_is_told(module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from zmqrel.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 2
    assert ended.stderr == f'zmqrel: the command line needs {module}; install it with: pip install "zmqrel[cli]"\n'


def test_nodes_with_keys_are_made_some_that_their_peers_know(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3,4\n")
    text = f"""
        [run]
        keys = "held"
        python_path = ["{ROOT}"]
        [node.reader]
        module = "nodes.source"
        args = ["{tmp_path}/rows.csv", "--to", "table"]
        peers = ["table"]
        [node.table]
        module = "nodes.sink"
        args = ["--db", "{{data}}/rows.sqlite", "--until-end"]
        [end]
        when = ["table"]
    """
    public = set()
    for data in ("first", "second"):
        run = launch(text, "--data", str(tmp_path / data))
        assert run.end() == 0
        with contextlib.closing(sqlite3.connect(tmp_path / data / "rows.sqlite")) as rows:
            assert rows.execute("SELECT count(*) FROM messages").fetchone() == (3,)  # and that it is the end
        public.add((tmp_path / "held" / "table" / "public.key").read_text())
        assert (tmp_path / "held" / "reader" / "peers" / "table").read_text() in public
        assert [path.name for path in (tmp_path / "held" / "table" / "peers").iterdir()] == ["reader"]
    assert len(public) == 1  # those that were made are kept
    (tmp_path / "held" / "table" / "secret.key").write_text("spoilt")
    run = launch(text)
    assert run.end() == 2
    assert_one_line(run.stderr())
    assert "held/table/secret.key: it holds no key" in run.stderr()
