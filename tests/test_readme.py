"""What the README shows runs as pasted, and says what the design says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_README = (_ROOT / "README.md").read_text()
_PROGRAMS = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)


@pytest.mark.parametrize(
    ("program", "said"),
    list(zip(_PROGRAMS, (["charging", "HANDLED"], ["Verdict.RECALLED", "[]"], ["Outcome.EXPIRED"]), strict=True)),
)
def test_the_programs_run_as_pasted(tmp_path: Path, program: str, said: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(_ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    for words in said:
        assert words in run.stdout


def _pasted(tmp_path: Path, page: str, begin: str) -> str:
    """What the one block of shell lines on a page that begins so says, run to its end."""
    (block,) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if block.startswith(begin))
    program = tmp_path / "bin" / "zmqrel"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zmqrel "$@"\n')
    program.chmod(0o755)
    run = subprocess.run(
        ["bash", "-ec", f"{block}wait"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout


def test_the_command_line_runs_as_pasted(tmp_path: Path) -> None:
    said = _pasted(tmp_path, _README, "zmqrel listen")
    for words in (
        'default: "hello"',
        ": HANDLED (attempt 1",
        "nobody is there",
        "billing: running",
        "order-42",
        "whole;",
    ):
        assert words in said
    assert "RECALLED: it was not and never will be handed over" in said


@pytest.mark.parametrize("page", ["README.md", "docs/security.md"])
def test_the_keys_are_made_and_used_as_pasted(tmp_path: Path, page: str) -> None:
    said = _pasted(tmp_path, (_ROOT / page).read_text(), "zmqrel keygen")
    assert "shop may connect: billing-keys/peers/shop" in said
    assert 'shop default: "hello"' in said
    assert ": HANDLED (attempt 1" in said


def test_the_first_program_is_short() -> None:
    assert len(_PROGRAMS[0].splitlines()) < 15


def test_the_files_that_it_names_exist() -> None:
    names = re.findall(r"\]\(([^)#:]+)\)", _README)
    assert names
    assert [name for name in names if not (_ROOT / name).exists()] == []
