"""Launched runs that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.launching import Launched


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Launched]]:
    """Starts `zmqrel launch` on the text of a topology; its temporary files go below tmp_path."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    started: list[Launched] = []

    def start(text: str, *arguments: str) -> Launched:
        topology = tmp_path / "run.toml"
        topology.write_text(text, encoding="utf-8")
        started.append(Launched(topology, *arguments))
        return started[-1]

    yield start
    for launched in started:
        launched.leave_nothing()
