"""`zmqrel` as a process of its own, and what it writes, checked against the schema that is documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.cli.launching import PATIENCE_S, environment
from tests.cli.schema import validated
from zmqrel.cli import main


def command(*arguments: object, stdin: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`zmqrel` to its end. Never a traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "zmqrel", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        input=stdin,
        timeout=PATIENCE_S,
        check=False,
        cwd=cwd,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


def called(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """`zmqrel` in this process: for what does not depend on having one of its own, a fraction of the time."""
    ended = CliRunner().invoke(main, list(map(str, arguments)), input=stdin, prog_name="zmqrel")
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return subprocess.CompletedProcess(["zmqrel"], ended.exit_code, ended.stdout, ended.stderr)


def assert_one_line(said: str) -> None:
    """A mistake is told in one line that says who speaks."""
    assert said.startswith("zmqrel: "), said
    assert said.count("\n") == 1, said
    assert said.endswith("\n"), said


def objects(name: str, *arguments: object, status: int = 0, stdin: str | None = None) -> list[Any]:
    """The JSON lines of a command that ends with `status`, each validated."""
    ended = called(*arguments, "--json", stdin=stdin)
    assert ended.returncode == status, (ended.returncode, ended.stdout, ended.stderr)
    return [validated(json.loads(line), name) for line in ended.stdout.splitlines()]


def one(name: str, *arguments: object, status: int = 0) -> Any:
    """The JSON object of a command, validated."""
    (found,) = objects(name, *arguments, status=status)
    return found
