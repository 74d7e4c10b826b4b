"""`zmqrel bench` measures what it says, and the counts of bench/ are exact and guarded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import smoke
from tests.cli.commands import objects


@pytest.mark.long
def test_a_quick_look_measures_every_contestant() -> None:
    measured = objects("measured", "bench", "--messages", "200", "--rounds", "1", "--json")
    cases = {case["case"]: case for case in measured}
    assert set(cases) == {"stream-100", "single", "threads-fsync"}
    for case in cases.values():
        assert all(medians[case["figure"]] > 0 for medians in case["medians"].values())
    assert {"plain", "acknowledged", "zmqrel fsync", "zmqrel relaxed", "zmqrel memory"} == set(
        cases["stream-100"]["medians"]
    )


@pytest.mark.long
@pytest.mark.parametrize("group", ["fans", "backlogs", "costs", "idle"])
def test_what_is_measured_in_the_repository_gives_figures(group: str, tmp_path: Path) -> None:
    measuring = [sys.executable, "-m", "bench", group, "--rounds", "1", "--scale", "0.0001", "--out", str(tmp_path)]
    done = subprocess.run(measuring, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["cases"]
    for case in figures["cases"].values():
        assert all(samples and samples[0][case["figure"]] > 0 for samples in case["samples"].values())


@pytest.mark.parametrize(("share", "status"), [(1.0, 0), (0.95, 0), (0.85, 1)])
def test_a_count_that_rose_by_more_than_a_tenth_fails(
    share: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "RECORDED", tmp_path / "counts.json")
    counts = {"stream: calls": 100.0, "stream: frames": 0.005}
    recorded = counts | {"stream: frames": share * 0.005}
    smoke.RECORDED.write_text(json.dumps({smoke.VERSION: recorded}), encoding="utf-8")
    assert smoke.compare(Console(quiet=True), counts) == status
