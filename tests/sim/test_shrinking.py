"""A run that fails is told so that a person can read it: shrunk, with a trace, and with a command that has it again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.sim.mutants import start
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.case import parts_of, written
from zmqrel.testing.shrinking import kind_of

MOST_PARTS = 12
MOST_LINES = 80


@pytest.mark.long
@pytest.mark.parametrize(
    ("bug", "mix"),
    [
        ("sent_upto is not kept (F1)", "crashes"),
        ("a tombstone does not stop its message", "links"),
        ("an old copy goes on in its lanes (F3)", "rollback"),
    ],
)
def test_a_failure_is_shrunk_to_what_a_person_can_read_and_replays(bug: str, mix: str, tmp_path: Path) -> None:
    batch = start("with", bug, mix, "--seeds", "2", "--failures", str(tmp_path / "failures"))
    batch.communicate()
    assert batch.returncode == 1
    said = (tmp_path / "failures").read_text().split("\n\nseed ")[0]
    command = re.search(r"^a small one: +python -m zmqrel.testing (.*)$", said, re.MULTILINE)
    assert command is not None, said
    trace = said.partition("parts are left after")[2].splitlines()[2:]
    assert len(trace) <= MOST_LINES, said
    again = start("with", bug, *shlex.split(command[1]))
    replayed = again.communicate()[0].splitlines()
    assert again.returncode == 1
    assert trace[-1].strip() in (line.strip() for line in replayed)
    only = shlex.split(command[1])[-1]
    assert len(parts_of(only)) <= MOST_PARTS, said


def test_parts_are_read_as_they_are_written() -> None:
    parts = ("loss", "3:send0", "3:crash", "17:recall")
    assert written(parts) == "loss 3:send0,crash 17:recall"
    assert parts_of(written(parts)) == parts
    for wrong in ("3:", "x:send0"):
        with pytest.raises(ValueError, match=wrong):
            parts_of(wrong)


def test_failures_are_of_one_kind_whatever_their_numbers() -> None:
    first = PromiseBroken("at 1.5: message '12': handed over 0.3 s after its deadline")
    other = PromiseBroken("at 2.25: message '7003': handed over 0.214 s after its deadline\nmore")
    assert kind_of(first) == kind_of(other)
    assert kind_of(first) != kind_of(PromiseBroken("at 1.5: message '12': it has no outcome"))
