"""The directory of a store: who may use it, who is using it, how it was left, and what was set aside in it.

Nothing here knows what is in the data file.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from time import monotonic, sleep
from typing import Final, NamedTuple
from zlib import crc32

from zmqrel.core.storage import Previous
from zmqrel.errors import ConfigError, StoreFull, StoreLocked
from zmqrel.store.boot import boot_clock_offset_us, boot_id
from zmqrel.store.limits import remedy
from zmqrel.store.space import FULL, WAS_REMOVED

DATA: Final = "data.mdb"
LIFE: Final = "life"
LOCK: Final = "lock"
REDO: Final = "redo"
IN_HAND: Final = "in-hand"
SET_ASIDE: Final = "damaged-"
"""Directories of what was set aside: this and a number."""
_FILES: Final = frozenset((DATA, LIFE, LOCK, REDO, IN_HAND))
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OF_OTHERS: Final = 0o077
"""The bits that let a group, or everybody, in."""

_LIFE_BYTES: Final = 128
_HOLDER_BYTES: Final = 24
_LOOKING: Final = "look "
_LOOK_S: Final = 5.0
_NOTE_S: Final = 0.02
# Memory-mapped pages of these are not coherent between hosts, and their locks may lie.
_NETWORKED: Final = frozenset(
    [
        "afs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    ],
)


class StoreDirectory:
    """A store's directory, made if it was absent, and locked for this process until `unlock`."""

    def __init__(self, path: str | os.PathLike[str], *, only_look: bool = False) -> None:
        """Make, check and lock the directory.

        Who will `only_look` has it for a moment: others wait for that, up to five seconds. Raises ConfigError if it
        cannot be a store's directory, StoreLocked if another peer has it.
        """
        self.path = Path(path).absolute()
        _make(self.path)
        _check(self.path)
        self.clock_ahead_us: int | None = None
        """How far the store clock was ahead of the boot-time clock when last noted; None if not in this boot."""
        self._life_fd: int | None = None
        """Kept open, for a process without a descriptor left must be able to close its store."""
        self._lock_fd: int | None = _lock(self.path, _LOOKING if only_look else "")
        _locked_here.add(self)
        try:
            _close_to_others(self.path)
        except BaseException:
            self.unlock()
            raise

    def previous(self) -> Previous:
        """Tell how the life before this one ended; "rebooted", the worst, if that is not known."""
        life = _read_life(self.path / LIFE)
        if life is None:
            return "rebooted" if (self.path / DATA).exists() else "new"
        same_boot = bool(life.boot) and life.boot == boot_id()
        self.clock_ahead_us = None
        if same_boot and life.clock_ahead_us is not None:
            self.clock_ahead_us = life.clock_ahead_us - boot_clock_offset_us()
        if life.state == "closed":
            return "clean"
        return "crashed" if same_boot else "rebooted"

    def note_clock(self, ahead_us: int) -> None:
        """Note how far the store clock is ahead of the boot-time clock. Raises OSError."""
        self.clock_ahead_us = ahead_us
        self._write_life("open", durably=False)  # after a power cut nobody asks

    def begin_life(self) -> None:
        """Note, durably, that the store is in use. Raises OSError; for want of a descriptor before it has noted it."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._write_life("open")
            os.fsync(fd)
        finally:
            os.close(fd)

    def end_life(self) -> None:
        """Note, durably, that the store was closed with nothing left to do. Raises OSError."""
        self._write_life("closed")

    def _write_life(self, state: str, *, durably: bool = True) -> None:
        # In place, for it must also be possible on a full disk. A torn one is read as None, which is safe.
        # Of the machine's clock: the next life may be in another container of it, with a clock of its own.
        ahead = "" if self.clock_ahead_us is None else self.clock_ahead_us + boot_clock_offset_us()
        body = f"zmqrel store, format 1\n{state}\n{boot_id()}\n{ahead}\n"
        text = f"{body}{crc32(body.encode()):08x}\n".ljust(_LIFE_BYTES).encode()
        fd = self._open_life()
        os.pwrite(fd, text, 0)
        if durably:
            os.fsync(fd)

    def _open_life(self) -> int:
        if self._life_fd is not None and not os.fstat(self._life_fd).st_nlink:
            self._close_life()  # somebody removed it
        if self._life_fd is None:
            self._life_fd = os.open(self.path / LIFE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._life_fd

    def _close_life(self) -> None:
        if self._life_fd is not None:
            os.close(self._life_fd)
            self._life_fd = None

    def set_aside(self) -> Path:
        """Move the store's files into a new directory `damaged-N` beside them and return its path.

        The record of its life goes first, so that a death in between leaves a store of unknown past: it is
        verified, found damaged and set aside when next opened. Raises OSError.
        """
        number = 1
        while (aside := self.path / f"{SET_ASIDE}{number}").exists():
            number += 1
        aside.mkdir(mode=0o700)
        for name in (LIFE, REDO, DATA):
            with suppress(FileNotFoundError):
                (self.path / name).rename(aside / name)
        sync_directory(aside)
        sync_directory(self.path)
        return aside

    def fault(self) -> str | None:
        """Return what somebody did to the lock, None if nothing: without it another process can open the store."""
        if self._lock_fd is not None and not os.fstat(self._lock_fd).st_nlink:
            return WAS_REMOVED
        return None

    def unlock(self) -> None:
        """Let another process have the directory; calling it again does nothing."""
        _locked_here.discard(self)
        self._close_life()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


_locked_here: set[StoreDirectory] = set()


def _unlock_in_child() -> None:
    # A forked child shares the lock: if it outlived its parent, the store would stay locked by a process that
    # must not use it. Closing the child's copy releases nothing while the parent has its own.
    for directory in list(_locked_here):
        directory.unlock()


os.register_at_fork(after_in_child=_unlock_in_child)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make(path: Path) -> None:
    try:
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for made in reversed(missing):
            made.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            sync_directory(made.parent)
        path.mkdir(exist_ok=True)  # or a file that is there already would not be told apart
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"store takes a directory, and {_first_file(path)} is a file") from error
    except OSError as error:
        raise _refused(f"the directory {path} cannot be made", error) from error


def _refused(what: str, error: OSError) -> ConfigError | StoreFull:
    kind = StoreFull if error.errno in FULL else ConfigError
    helps = remedy(error.errno)
    return kind(f"store: {what}: {error.strerror}" + (f"; {helps}" if helps else ""))


def _first_file(path: Path) -> Path:
    return next((p for p in (*reversed(path.parents), path) if not p.is_dir()), path)


def _check(path: Path) -> None:
    status = path.stat()
    # Root, too, is refused: what it made here its owner could not open, and whoever owns a directory can put links into
    # it that lead root to write elsewhere.
    _refuse_others(f"the directory {path}", status.st_uid)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"store: the directory {path} cannot be read and written by user {os.geteuid()}")
    if kind := _network_file_system(status.st_dev):
        raise ConfigError(f"store: {path} is on a network file system ({kind}); a store needs a local one")


def _refuse_others(what: str, owner: int) -> None:
    if owner != os.geteuid():
        raise ConfigError(
            f"store: {what} belongs to user {owner}, this is user {os.geteuid()}; a store is only opened by its owner"
        )


def _close_to_others(path: Path) -> None:
    """Let nobody else into the store, whoever was let in before. Raises ConfigError for what is somebody else's.

    A directory in which other things lie is left as it is, and the store's files in it are not.
    """
    try:
        entries = list(path.iterdir())
    except OSError as error:
        raise _refused(f"the directory {path} cannot be listed", error) from error
    for entry in entries:
        if entry.name not in _FILES:
            continue
        status = entry.lstat()
        _refuse_others(str(entry), status.st_uid)
        if stat.S_ISREG(status.st_mode) and status.st_mode & _OF_OTHERS:
            entry.chmod(_FILE_MODE)
    alone = all(entry.name in _FILES or entry.name.startswith(SET_ASIDE) or entry.is_socket() for entry in entries)
    if alone and path.stat().st_mode & _OF_OTHERS:
        path.chmod(_DIRECTORY_MODE)


def _network_file_system(device: int) -> str | None:
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return None
    for mount in mounts.splitlines():
        before, _, after = mount.partition(" - ")
        if before.split()[2:3] == [number] and after.split()[0] in _NETWORKED:
            return after.split()[0]
    return None


def _lock(path: Path, note: str) -> int:
    # flock, not lockf: that one is lost when any other descriptor of the file is closed in this process.
    try:
        fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _refused(f"{path / LOCK} cannot be opened", error) from error
    try:
        _wait_for_lock(path, fd)
    except BaseException:
        os.close(fd)
        raise
    # Only for others to read; a full disk must not keep a store from opening.
    with suppress(OSError):
        os.pwrite(fd, f"{note}{os.getpid()}".ljust(_HOLDER_BYTES).encode(), 0)
    return fd


def _wait_for_lock(path: Path, fd: int) -> None:
    """Take the lock. Raises StoreLocked: at once, unless its holder only looks or has not said yet what it does."""
    begun_at = monotonic()
    while True:
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            return
        except OSError as error:
            holder = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
            patience_s = _LOOK_S if holder.startswith(_LOOKING) else _NOTE_S
            if monotonic() - begun_at >= patience_s:
                raise _locked(path, holder.removeprefix(_LOOKING)) from error
        sleep(_NOTE_S)


def _locked(path: Path, holder: str) -> StoreLocked:
    if holder == str(os.getpid()):
        return StoreLocked(f"the store {path} is already open in this process; a store has one peer")
    by = f"process {holder}" if holder.isdigit() else "another process"
    return StoreLocked(
        f"the store {path} is in use by {by}; a store has one peer, stop the other or use another directory"
    )


class _Life(NamedTuple):
    """What a life file tells."""

    state: str
    boot: str
    clock_ahead_us: int | None


def _read_life(path: Path) -> _Life | None:
    """What the life file tells, or None if there is none that can be trusted."""
    try:
        text = path.read_bytes().decode("ascii").rstrip()
    except (OSError, ValueError):
        return None
    body, _, check = text.rpartition("\n")
    body += "\n"
    lines = body.split("\n")
    # The line of the clock came later than the others; without it the state still counts.
    if check != f"{crc32(body.encode()):08x}" or len(lines) not in (4, 5) or lines[1] not in ("open", "closed"):
        return None
    ahead = lines[3] if len(lines) == 5 else ""
    return _Life(lines[1], lines[2], int(ahead) if ahead else None)
