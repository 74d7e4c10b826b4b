"""Other processes and other users, for what one process cannot show of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NOBODY = 65534


class Child:
    """A Python process that runs `code` and is talked to in lines; it dies with its `with` block."""

    def __init__(self, code: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def line(self) -> str:
        """The next line that it prints; "" once it has ended."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> list[str]:
        """End it with SIGKILL; the lines that it had still printed."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.kill()
        self.process.wait()
        if self.process.stdout.closed:
            return []
        # Not by communicate, which passes over what line() has read ahead.
        rest = self.process.stdout.read().split()
        self.process.stdin.close()
        self.process.stdout.close()
        return rest


def in_fork(act: Callable[[], str], user: int | None = None) -> str:
    """What `act` returns in a forked child, as `user`; or the name and text of the exception that it raises."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if user is not None:
                os.setgroups([])
                os.setuid(user)
            answer = act()
        except Exception as error:
            answer = "".join(traceback.format_exception_only(error)).strip()
        finally:
            os.write(write_end, answer.encode())
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer
