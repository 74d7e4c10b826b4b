"""One seed gives one run, to the byte: whatever seed hashes have, wherever objects lie, whichever Python runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = (
    *("everything", "1", "40"),
    *("neighbours", "4", "50"),
    *("tiny", "1", "50"),
    *("swarm", "3", "50"),
    *("relaxed power", "1", "40"),
    *("odds", "3", "50"),
    *("forgetting", "5", "40"),
)


def python(executable: str, *arguments: str, hash_seed: str = "0") -> subprocess.Popen[str]:
    """A process that sees this source tree."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [executable, *arguments], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def digests(process: subprocess.Popen[str]) -> list[str]:
    """What a run of digests.py said: which Python it was, and a line for each run."""
    said, wrong = process.communicate()
    assert process.returncode == 0, wrong
    return said.splitlines()


def others() -> dict[str, str]:
    """Version -> interpreter of each other Python on PATH, or in an environment of tox, that can run the simulator."""
    places = [Path(place) for place in os.get_exec_path()] + [path / "bin" for path in ROOT.glob(".tox/*")]
    found = {str(path) for place in places for path in place.glob("python3.1[0-9]") if os.access(path, os.X_OK)}
    asking = [
        (path, python(path, "-c", "import sys, zmqrel.testing; print(sys.version.split()[0])"))
        for path in sorted(found)
        if not path.endswith("-config")
    ]
    versions = {}
    for path, process in asking:
        version = process.communicate()[0].strip()
        if process.returncode == 0 and version != sys.version.split()[0]:
            versions.setdefault(version, path)
    return versions


def test_a_run_is_the_same_under_every_hash_seed() -> None:
    processes = [python(sys.executable, "-m", "tests.sim.digests", *RUNS, hash_seed=seed) for seed in ("1", "2")]
    one, other = map(digests, processes)
    assert one == other


@pytest.mark.long
def test_a_run_is_the_same_on_every_python(capsys: pytest.CaptureFixture[str]) -> None:
    mine = digests(python(sys.executable, "-m", "tests.sim.digests", *RUNS))
    found = others()
    for version, path in found.items():
        assert digests(python(path, "-m", "tests.sim.digests", *RUNS))[1:] == mine[1:], version
    with capsys.disabled():
        print(f"\nruns of {mine[0]} were compared with those of: {', '.join(found) or 'no other, none was found'}")
