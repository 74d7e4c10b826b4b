"""A log that is written, rotated and read in any order, by a reader that dies at any time: each line once, in order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodes import log_file
from nodes.log_file import CHUNK_BYTES, MARK_BYTES, Line, LogFile, Position

WRITER = [
    "write",
    "write",
    "write",
    "write part",
    "rename",
    "rename, no file",
    "copy",
    "truncate",
    "truncate and write",
]
READER = ["read", "read", "die"]
# A reader that looks at the directory or into a file, and the writer takes a step just before.
STEPS = st.one_of(
    st.sampled_from(WRITER + READER),
    st.tuples(st.sampled_from(READER), st.integers(1, 4), st.sampled_from(WRITER[2:])),
)
Steps = list["str | tuple[str, int, str]"]


class Interrupting:
    """The module `os`, as the reader sees it when somebody else acts just before."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before

    def __getattr__(self, name: str) -> Any:
        if name in ("pread", "scandir", "open"):
            self._before()
        return getattr(os, name)


class Log:
    """A log in a directory, its writer and its reader."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "app.log"
        self.written: list[str] = []
        """What every file held, in order."""
        self.open = ""
        self.lines: list[Line] = []
        self.committed: Position | None = None
        self.copied = False
        self._n = 0
        self._looks_left: int | None = None
        self._meanwhile = ""
        self.reader = self._reader()
        self.reader.begin()

    def step(self, what: str | tuple[str, int, str]) -> None:
        """One step, or one of the reader with one of the writer before its n-th look."""
        if not isinstance(what, str):
            what, self._looks_left, self._meanwhile = what
        getattr(self, what.replace(", ", "_").replace(" ", "_"))()
        self._looks_left = None

    def _reader(self) -> LogFile:
        return LogFile(self.path, self.committed)

    def look(self) -> None:
        """The reader is about to call the system."""
        if self._looks_left is not None:
            self._looks_left -= 1
            if self._looks_left == 0:
                self._looks_left = None
                self.step(self._meanwhile)

    # The writer

    def write(self, end: str = "\n") -> None:
        if self.copied:
            # What is written between a copy and the truncation is lost by whoever rotates so.
            return
        self._n += 1
        text = f"{self._n} ".ljust(MARK_BYTES if self._n % 3 else 20, ".") + end
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        self.open += text

    def write_part(self) -> None:
        self.write(end="")

    def rename(self) -> None:
        self.rename_no_file()
        self.path.touch()

    def rename_no_file(self) -> None:
        if self.path.exists() and not self.copied:
            self._shift()
            self.path.rename(self._rotated(1))
            self._close()

    def copy(self) -> None:
        # A smaller one is copied and truncated in no time.
        if self.path.exists() and not self.copied and len(self.open) >= MARK_BYTES:
            self._shift()
            shutil.copyfile(self.path, self._rotated(1))
            self.copied = True

    def truncate(self) -> None:
        if self.copied:
            os.truncate(self.path, 0)
            self.copied = False
            self._close()
        elif self.path.exists():
            self._shift()
            shutil.copyfile(self.path, self._rotated(1))
            os.truncate(self.path, 0)
            self._close()

    def truncate_and_write(self) -> None:
        self.truncate()
        self.write()

    def _close(self) -> None:
        self.written.append(self.open)
        self.open = ""

    def _rotated(self, number: int) -> Path:
        return self.path.with_name(f"app.log.{number}")

    def _shift(self) -> None:
        for number in range(len(list(self.path.parent.iterdir())), 0, -1):
            if self._rotated(number).exists():
                self._rotated(number).rename(self._rotated(number + 1))

    # The reader

    def read(self) -> list[Line]:
        lines = self.reader.read()
        self.lines += lines
        self.committed = self.reader.at
        return lines

    def die(self) -> None:
        """Read, and die before that is committed."""
        self.reader.read()
        self.reader.close()
        self.reader = self._reader()

    def read_all(self) -> None:
        while self.read():
            pass

    def expected(self) -> list[str]:
        files = [*self.written, self.open]
        return [line for file in files for line in file.removesuffix("\n").split("\n") if file]


def played(steps: Steps, directory: Path) -> Log:
    log = Log(directory)
    with mock.patch.object(log_file, "os", Interrupting(log.look)):
        for step in steps:
            log.step(step)
    if log.copied:
        log.truncate()
    log.write()
    log.read_all()
    log.reader.close()
    return log


def check(steps: Steps) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = played(steps, Path(directory))
    assert [line.text for line in log.lines] == log.expected()
    assert len({line.id for line in log.lines}) == len(log.lines)


BEHIND = ["write", "write", "write"]


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=30))
@example([*BEHIND, "copy", "read", "read", "truncate", "write"])
@example(["write", "read", "rename", *BEHIND, "die", "copy", "read", "truncate"])
@example(["write", "read", "write", "truncate", "write", "truncate", "die", "write"])
@example([*BEHIND, ("read", 2, "truncate and write")])
@example(["write", ("read", 1, "write part"), "rename", *BEHIND, "die", ("read", 7, "copy")])
def test_every_line_once_and_in_order(steps: Steps) -> None:
    check(steps)


@pytest.mark.long
@settings(max_examples=5_000, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_every_line_once_and_in_order_at_length(steps: Steps) -> None:
    check(steps)


def test_what_was_rotated_before_the_beginning_is_not_read(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    (tmp_path / "app.log.1").write_text("old\n", encoding="utf-8")
    log.write_text("new\n", encoding="utf-8")
    reader = LogFile(log, None)
    reader.begin()
    assert [line.text for line in reader.read()] == ["new"]
    reader.close()


@pytest.mark.parametrize(
    "name", ["app.log.1", "app.log-20260131", "app-20260131.log", "app.log.2026-01-31_06", "app.log.old"]
)
def test_names_of_rotated_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("rotated\n", encoding="utf-8")
    os.utime(tmp_path / name, (1, 1))
    (tmp_path / "app.log").write_text("log\n", encoding="utf-8")
    reader = LogFile(tmp_path / "app.log", None)
    assert [line.text for line in [*reader.read(), *reader.read()]] == ["rotated", "log"]
    reader.close()


@pytest.mark.parametrize("name", ["app-error.log", "app.log.1.gz", "app.log.new", "other.log.1", "app.log.swp"])
def test_names_of_other_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("another\n", encoding="utf-8")
    reader = LogFile(tmp_path / "app.log", None)
    assert reader.read() == []


def test_lines_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    # A hole, as a writer leaves that does not append; an empty line; one that ends as in Windows; one that is no UTF-8.
    log.write_bytes(b"\0" * 50 + b"a\n\nb\r\n\xa3\nc")
    reader = LogFile(log, None)
    assert [line.text for line in reader.read()] == ["a", "", "b", "\\xa3"]
    assert reader.read() == []
    log.write_bytes(log.read_bytes() + b"d\n")
    assert [line.text for line in reader.read()] == ["cd"]
    reader.close()


def test_a_very_long_line_comes_in_pieces(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text("x" * (2 * CHUNK_BYTES) + "yz\n", encoding="utf-8")
    reader = LogFile(log, None)
    pieces = [line.text for _ in range(3) for line in reader.read()]
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES, 2]
    reader.close()
