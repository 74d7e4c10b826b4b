"""A run that fails is told so that a person can read it: shrunk, with a trace, and with a command that has it again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.sim.mutants import FOUND, start
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.case import parts_of, written
from zmqrel.testing.shrinking import kind_of

MOST_PARTS = 12
MOST_LINES = 80


@pytest.mark.long
@pytest.mark.parametrize(
    ("bug", "mix", "seed"),
    [
        ("sent_upto is not kept (F1)", "crashes", 9),
        ("a tombstone does not stop its message", "links", 12),
        ("an old copy goes on in its lanes (F3)", "rollback", 0),
    ],
)
def test_a_failure_is_shrunk_to_what_a_person_can_read_and_replays(bug: str, mix: str, seed: int) -> None:
    search = start("shrink", bug, mix, str(seed))
    said = search.communicate()[0]
    assert search.returncode == FOUND, said
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


def test_a_batch_that_fails_says_so_and_writes_down_what_failed(tmp_path: Path) -> None:
    failures = tmp_path / "failures"
    asked = ["calm", "--seeds", "1", "--steps", "5", "--failures", str(failures)]
    batch = start("with", "the floor is one too high", *asked)
    said = batch.communicate()[0]
    assert batch.returncode == 1, said
    assert "virtual seconds in" in said
    assert "times without the quiet ends" in said
    assert "seed 0 of 'calm' fails: PromiseBroken" in failures.read_text()


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
