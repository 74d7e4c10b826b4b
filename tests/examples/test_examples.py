"""The other examples, launched as their READMEs say: they end by themselves, and right; their judges are no yes-men."""

from __future__ import annotations

import importlib
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from examples.judge import Judge
from tests.cli.launching import ROOT, Launched, is_gone
from tests.examples.conftest import Example

EXAMPLES = sorted(file.parent.name for file in (ROOT / "examples").glob("*/topology.toml"))


class Case(NamedTuple):
    """How one example is run here, what its figures must show, and faults: book, statement, what the judge says."""

    settings: dict[str, str]
    shown: list[str]
    planted: list[tuple[str, str, str]]


CASES = {
    "logs": Case(
        {"rate": "120", "kill_every": "1.2"},
        ["rows", "... errors", "files of the log"],
        [
            ("sink", "DELETE FROM messages WHERE n = 3", "line that is missing: 2026-03-14T06:00:02.522"),
            ("sink", "DELETE FROM messages WHERE n = 3", "rows are as many as lines: 359 rows of 360 lines"),
            (
                "sink",
                "INSERT INTO messages (sender, id, sent_at, body) SELECT sender, id || '+:x', sent_at, body"
                " FROM messages WHERE n = 5",
                "row that was never written, or too often: 2026-03-14T06:00:07.222",
            ),
            ("sink", "UPDATE messages SET n = 1000 WHERE n = 7", "line before one that was written earlier: "),
            ("sink", "DELETE FROM messages WHERE expected IS NOT NULL", "no end: "),
        ],
    ),
    "notifications": Case(
        {"count": "150"},
        ["shown in time", "expired"],
        [
            ("feed", "DELETE FROM ended WHERE id = 'notification:0'", "without an outcome: notification:0"),
            ("feed", "DELETE FROM sent WHERE id = 'notification:0'", "of something that was not sent: notification:0"),
            ("feed", "DELETE FROM sent", "nothing was sent: "),
            ("feed", "UPDATE ended SET outcome = 'UNCERTAIN'", "ended neither shown nor expired: "),
            ("feed", "UPDATE ended SET outcome = 'EXPIRED'", "shown, and the sender was told otherwise: "),
            ("feed", "UPDATE ended SET outcome = 'HANDLED'", "not shown, and the sender was told otherwise: "),
            ("screen", "UPDATE shown SET times = 2", "shown twice: "),
            ("screen", "UPDATE shown SET age_s = 1.6", "shown late: "),
        ],
    ),
    "tasks": Case(
        {"count": "40"},
        ["done at the first attempt", "done at a later one", "refused", "... mended and done after all", "expired"],
        [
            ("planner", "UPDATE tasks SET outcome = 'HANDLED' WHERE id = 'task:6'", "ended otherwise than its kind"),
            ("planner", "UPDATE tasks SET attempts = 2 WHERE id = 'task:2'", "not as many attempts as its kind has: "),
            ("crew", "DELETE FROM attempts WHERE task = 'task:2' AND attempt = 1", "crew counts otherwise: task:2"),
            ("crew", "UPDATE attempts SET at = due - 1 WHERE task = 'task:0'", "begun before its time: task:0"),
            ("crew", "UPDATE attempts SET at = deadline + 2 WHERE task = 'task:0'", "begun after its deadline: task:0"),
            ("crew", "DELETE FROM done WHERE task = 'task:0'", "done, or not done, against its outcome: task:0"),
            ("crew", "UPDATE done SET times = 2 WHERE task = 'task:0'", "done twice: task:0"),
            ("planner", "DELETE FROM letters WHERE id = 'task:6'", "dead letter that is missing, or of another cause"),
            ("planner", "DELETE FROM mended WHERE id = 'task:4'", "broken and never mended, or mended and not broken"),
            ("planner", "DELETE FROM tasks", "nothing was planned: "),
        ],
    ),
    "edge": Case(
        {"kill_every": "3", "rounds": "6"},
        ["obeyed"],
        [
            ("hub", "DELETE FROM ended WHERE id = 'device-1:0'", "command without an end: device-1:0"),
            ("hub", "INSERT INTO ended VALUES ('device-1:0', 'EXPIRED', '', 1)", "command with two ends: device-1:0"),
            ("hub", "DELETE FROM commands WHERE id = 'device-1:0'", "command that was never given: device-1:0"),
            ("hub", "DELETE FROM commands WHERE id = 'device-1:0'", "obeyed, and never given: device-1:0"),
            ("hub", "UPDATE ended SET outcome = 'EXPIRED' WHERE id = 'device-1:0'", "end that such a command cannot"),
            (
                "hub",
                "UPDATE ended SET outcome = 'EXPIRED' WHERE id = 'device-1:0'",
                "and a device has obeyed: device-1",
            ),
            ("device-1", "DELETE FROM obeyed WHERE id = 'device-1:0'", "handled, and no device has obeyed: device-1:0"),
            ("device-1", "DELETE FROM obeyed WHERE id = 'device-1:0'", "reported and not obeyed: device-1:0"),
            ("device-2", "INSERT INTO obeyed VALUES ('device-1:0', 'plain', 1)", "obeyed by another device"),
            ("hub", "DELETE FROM reports WHERE id = 'device-1:0'", "handled and not reported: device-1:0"),
            ("hub", "UPDATE commands SET verdict = NULL", "verdict that is not what became of the command: "),
            ("hub", "DELETE FROM commands", "nothing was sent: "),
        ],
    ),
}


def judge(name: str) -> Judge:
    found: Judge = importlib.import_module(f"examples.{name}.verify").JUDGE
    return found


def ended_right(name: str, run: Launched, data: Path) -> dict[str, int]:
    """The figures of a run that ended by itself, without a fault, and left no process."""
    status = run.end()
    logs = "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in data.glob("logs/*.log"))
    assert status == 0, f"{run.events[-3:]}\n{run.stderr()}\n{logs}"
    assert run.summary()["end"] == "finished"
    assert all(is_gone(pid) for pid in run.pids())
    found, figures = judge(name).found(data)
    assert found == []
    return figures


@pytest.mark.parametrize("name", CASES)
def test_an_example_ends_right_and_its_judge_sees_what_is_wrong(name: str, example: Example, tmp_path: Path) -> None:
    case, data = CASES[name], tmp_path / "run"
    settings = [text for setting in case.settings.items() for text in ("--set", "=".join(setting))]
    figures = ended_right(name, example(name, data, *settings), data)
    assert [figure for figure in case.shown if not figures[figure]] == []
    for number, (book, statement, words) in enumerate(case.planted):
        spoilt = tmp_path / str(number)
        shutil.copytree(data, spoilt, ignore=lambda _, names: [each for each in names if not each.endswith(".sqlite")])
        with closing(sqlite3.connect(spoilt / f"{book}.sqlite")) as db, db:
            assert db.execute(statement).rowcount > 0, statement
        found, _ = judge(name).found(spoilt)
        assert any(words in fault for fault in found), (words, found)


@pytest.mark.parametrize("name", CASES)
def test_every_fault_is_planted_above(name: str) -> None:
    planted = [words for _, _, words in CASES[name].planted]
    assert [fault for fault in judge(name).faults if not any(seen_in(fault, words) for words in planted)] == []


def seen_in(fault: str, words: str) -> bool:
    said = words.partition(": ")[0]
    return said in fault


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_shows(name: str) -> None:
    assert name in [*CASES, "orders"]
    text = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
    assert f"zmqrel launch examples/{name}/topology.toml" in text
    assert "```mermaid" in text
    # The words with which a run ends well.
    assert judge(name).all_is_well in text
    assert f"examples/{name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_run_goes_on_where_it_was(name: str, example: Example, tmp_path: Path) -> None:
    run = example(name, tmp_path, "--every", "0.2")
    while not any(node["handled"] >= 3 for node in run.until("progress")["nodes"].values()):
        pass
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 1
    assert run.of("ended_badly") == []
    assert all(is_gone(pid) for pid in run.pids())
    ended_right(name, example(name, tmp_path), tmp_path)
    # And once more: there is nothing left to do.
    ended_right(name, example(name, tmp_path), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(5))
def test_lines_are_rows_however_often_everything_is_killed(attempt: int, example: Example, tmp_path: Path) -> None:
    run = example("logs", tmp_path, "--set", "rate=60", "--set", "kill_every=0.7", "--set", "each=20")
    figures = ended_right("logs", run, tmp_path)
    assert figures["rows"] == figures["lines written"] == 360
    assert len(run.of("died")) > 5
