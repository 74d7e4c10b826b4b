"""Counts over the lives of a node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zmqrel.cli.counts import Counts


def test_lives_are_added_up_and_the_backlog_is_the_present_one(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    counts = Counts(file)
    counts.read(0.0)
    assert counts.total()["sent"] == 0
    for second, pid, sent, waiting in ((1.0, 1, 5, 3), (2.0, 1, 7, 2), (3.0, 2, 1, 9)):
        file.write_text(json.dumps({"pid": pid, "sent": sent, "outbox_messages": waiting}), encoding="utf-8")
        counts.read(second)
    assert counts.total()["sent"] == 8
    assert counts.total()["backlog"] == 9


def test_the_rate_is_that_between_two_reports(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    counts = Counts(file)
    for second, handled in ((1.0, 0), (1.5, 50)):
        file.write_text(json.dumps({"pid": 1, "handled": handled}), encoding="utf-8")
        counts.read(second)
    # The same report read once more is not a second without work.
    counts.read(2.0)
    assert counts.rate == 100


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x"}', "\xff"])
def test_a_report_that_is_none_changes_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.json"
    counts = Counts(file)
    file.write_bytes(content.encode("latin-1"))
    counts.read(1.0)
    assert counts.own() == {}
