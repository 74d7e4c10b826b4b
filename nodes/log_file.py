"""A log file that grows and is rotated, read line by line: no line twice, none left out.

Rotated files are looked for beside the log, not compressed: `app.log.1`, `app.log-20260131`, `app-20260131.log`,
`app.log.old`. Their order is that in which they were last written, with the log itself last. A file is done when
the next one holds something: its writer has moved on.

- Rename and create: the file is the same wherever it is renamed to, which its device and inode tell.
- Copy and truncate: the log is the same file, and what was read of it is not in it any more. That is known by its
  first and last bytes that were read. The rest of its lines is in the copy: the file that has these bytes.

Not known: lines written between the copy and the truncation, which are in neither; a log that was truncated and
written anew with the very same bytes; what a second writer goes on writing into a rotated file; what was rotated
out of sight, or compressed, before it was read.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

# By so many first and last bytes of what was read a file is known again.
MARK_BYTES = 256
# Read at once; a longer line is taken in pieces of this size.
CHUNK_BYTES = 256 * 1024


class Line(NamedTuple):
    """A line, and its name: which file, and where in it the line begins."""

    id: str
    text: str


@dataclass(frozen=True)
class Position:
    """Where reading stands: `offset` in a file. `name` is drawn for it, for inodes are given again."""

    name: str
    device: int
    inode: int
    offset: int
    head: bytes
    tail: bytes
    changed_ns: int


class Found(NamedTuple):
    """A file of the log as it lies in the directory."""

    path: Path
    device: int
    inode: int
    size: int
    changed_ns: int


class LogFile:
    """A log and what was rotated of it, read from `at` on; None is the very beginning.

    `read` moves `at` behind what it returns: whoever commits both in one transaction loses nothing.
    """

    def __init__(self, path: Path, at: Position | None) -> None:
        self._path = path
        stem, suffix, number = re.escape(path.stem), re.escape(path.suffix), r"[.\-_](\d[\d.\-_T]*|old)"
        self._rotated = re.compile(f"{stem}{suffix}{number}|{stem}{number}{suffix}")
        self.at = at
        # Kept open: a file that is deleted can be read to its end, and its inode is nobody else's meanwhile.
        self._descriptor: int | None = None

    def close(self) -> None:
        """Let go of the file."""
        self._hold(None)

    def begin(self) -> None:
        """Take what is rotated already as read: the log begins with what it holds now."""
        while rotated := [found for found in self._files() if found.path != self._path]:
            self._hold(_opened(rotated[-1]))
            if self._descriptor is not None:
                self.at = _position(self._descriptor, secrets.token_hex(4), rotated[-1].size)
                return

    def read(self) -> list[Line]:
        """The next whole lines, about CHUNK_BYTES of them at most; none if there are none now."""
        # Listed before reading: if another file follows then, what is read after that is the end of this one.
        following = files = self._files()
        if self.at is not None:
            data = self._rest()
            if data is None:
                files = self._files()
                if not self._find_again(self.at, files):
                    return []
                data = self._rest()
            following = self._following(self.at, files)
            if data is not None:
                lines = self._take(self.at, data, last=bool(following))
                if lines:
                    return lines
        return self._begin_next(following) if following else []

    def _files(self) -> list[Found]:
        """Every file of the log that holds something, in the order of their lines."""
        rotated = []
        with os.scandir(self._path.parent) as entries:
            names = [entry.name for entry in entries if self._rotated.fullmatch(entry.name)]
        for name in names:
            found = _found(self._path.with_name(name))
            if found is not None and found.size:
                rotated.append(found)
        rotated.sort(key=_age)
        log = _found(self._path)
        if log is None or not log.size:
            return rotated
        if rotated and _is_copied(rotated[-1], log):
            rotated.pop()
        return [*rotated, log]

    def _rest(self) -> bytes | None:
        """What comes in the open file after `at`; None if it is not the file that was read, or none is open."""
        at = self.at
        if self._descriptor is None or at is None:
            return None
        data = os.pread(self._descriptor, len(at.tail) + CHUNK_BYTES, at.offset - len(at.tail))
        # In this order: if the file is truncated and written anew in between, its head shows it.
        is_the_same = data.startswith(at.tail) and os.pread(self._descriptor, len(at.head), 0) == at.head
        return data[len(at.tail) :] if is_the_same else None

    def _find_again(self, at: Position, files: list[Found]) -> bool:
        """Open the file that was read: the same one, else a copy of it; none if neither is there.

        False if files were renamed meanwhile, so that one may have been missed: look again.
        """
        for found in files:
            if (found.device, found.inode) == (at.device, at.inode):
                self._hold(_opened(found))
                if self._rest() is not None:
                    return True
        copied = self._find_copy(at, [found for found in files if found.path != self._path])
        if [found[:3] for found in self._files()] != [found[:3] for found in files]:
            self._hold(None)
            return False
        self.at = copied or at
        return True

    def _find_copy(self, at: Position, rotated: list[Found]) -> Position | None:
        # It may have been made before the last lines were read: then there is nothing new in it.
        older = [found for found in reversed(rotated) if found.size < at.offset]
        for found in [*(found for found in rotated if found.size >= at.offset), *older]:
            self._hold(_opened(found))
            if self._descriptor is not None:
                copied = _position(self._descriptor, at.name, min(at.offset, found.size))
                if copied.head == at.head[: copied.offset] and (found in older or copied.tail == at.tail):
                    return copied
        self._hold(None)
        return None

    def _following(self, at: Position, files: list[Found]) -> list[Found]:
        """The files after the one that is open."""
        if self._descriptor is not None:
            status = os.fstat(self._descriptor)
            for place, found in enumerate(files):
                if (found.device, found.inode) == (status.st_dev, status.st_ino):
                    return files[place + 1 :]
        return [found for found in files if found.changed_ns > at.changed_ns or found.path == self._path]

    def _begin_next(self, following: list[Found]) -> list[Line]:
        """The first lines of the next file; it is the present one from then on. None while it has no whole line."""
        descriptor = _opened(following[0])
        if descriptor is None:
            return []
        begin = _position(descriptor, secrets.token_hex(4), 0)
        data = os.pread(descriptor, CHUNK_BYTES, 0)
        # If it was copied and truncated since it was listed, the copy comes first.
        files = self._files()
        now = files if self.at is None else self._following(self.at, files)
        is_next = bool(now) and now[0][1:3] == following[0][1:3]
        lines = self._take(begin, data, last=len(following) > 1) if is_next else []
        if lines:
            self._hold(descriptor)
        else:
            os.close(descriptor)
        return lines

    def _take(self, begin: Position, data: bytes, last: bool) -> list[Line]:
        """The whole lines of what was read at `begin`; if it is the last of its file, what has no end as well."""
        size = data.rfind(b"\n") + 1
        if not size and (last or len(data) >= CHUNK_BYTES):
            size = len(data)
        whole = data[:size]
        head, tail = (begin.head + whole)[:MARK_BYTES], (begin.tail + whole)[-MARK_BYTES:]
        lines = []
        offset = begin.offset
        for piece in whole.removesuffix(b"\n").split(b"\n") if whole else []:
            # A writer that does not append leaves a hole before what it writes after a truncation.
            line = piece.lstrip(b"\0")
            if line or not piece:
                text = line.removesuffix(b"\r").decode("utf-8", "backslashreplace")
                lines.append(Line(f"{begin.name}:{offset}", text))
            offset += len(piece) + 1
        if whole:
            self.at = replace(begin, offset=begin.offset + size, head=head, tail=tail)
        return lines

    def _hold(self, descriptor: int | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor


def _found(path: Path) -> Found | None:
    try:
        status = path.stat()
    except OSError:
        return None  # renamed or deleted just now
    return Found(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _is_copied(copy: Found, log: Found) -> bool:
    """Whether a copy of the log is being made, which is not truncated yet: its lines are still in the log."""
    if not MARK_BYTES <= copy.size <= log.size:
        # One smaller than the marks is made in no time, and may be another log that began with the same words.
        return False
    with contextlib.suppress(OSError), copy.path.open("rb") as one, log.path.open("rb") as other:
        marks = [_position(file.fileno(), "", copy.size) for file in (one, other)]
        return (marks[0].head, marks[0].tail) == (marks[1].head, marks[1].tail)
    return False


def _age(found: Found) -> tuple[int, int, str]:
    """Older ones first; of those written in the same instant, the higher number."""
    number = found.path.suffix[1:]
    return found.changed_ns, -int(number) if number.isascii() and number.isdigit() else 0, found.path.name


def _opened(found: Found) -> int | None:
    """The file that was found; None if it has another name by now, or none."""
    try:
        descriptor = os.open(found.path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) == (found.device, found.inode):
        return descriptor
    os.close(descriptor)
    return None


def _position(descriptor: int, name: str, offset: int) -> Position:
    """`offset` in a file, with its marks."""
    status = os.fstat(descriptor)
    tail = min(MARK_BYTES, offset)
    return Position(
        name=name,
        device=status.st_dev,
        inode=status.st_ino,
        offset=offset,
        head=os.pread(descriptor, tail, 0),
        tail=os.pread(descriptor, tail, offset - tail),
        changed_ns=status.st_mtime_ns,
    )
