"""Making, checking and opening the LMDB file, with all that can be wrong with it as this package's errors.

Nothing here keeps state; the file is opened without LMDB's own lock, so the caller holds the directory's.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

import lmdb
from lmdb import verify as offline

from zmqrel.errors import ConfigError, Error, StoreDamaged, StoreFull, StoreTooNew
from zmqrel.store.directory import DATA, sync_directory
from zmqrel.store.limits import remedy
from zmqrel.store.space import FULL, MIB

SCHEMA: Final = 1
"""The version of the layout of keys and values. A store of a higher one is refused."""

_SCHEMA_KEY: Final = b"\x00schema"
_ENGINE_KEY: Final = b"\x00engine"
# lmdb 3 has two engines whose files cannot be read by each other.
_ENGINE: Final = 0


def create(data: Path) -> None:
    """Make an empty store of this schema. Raises StoreFull or ConfigError.

    It gets its name when it is whole, so that what has the name has a past, and is damaged if it cannot be
    read.
    """
    new = data.with_name("data.new")
    try:
        new.unlink(missing_ok=True)
        environment = _open(new, MIB)
        try:
            with environment.begin(write=True) as txn:
                txn.put(_SCHEMA_KEY, SCHEMA.to_bytes(4, "big"))
                txn.put(_ENGINE_KEY, b"LMDB %d.%d.%d" % environment.lib_version())
        finally:
            environment.close()
        new.rename(data)
        sync_directory(data.parent)
    except (lmdb.Error, OSError) as error:
        raise failed(data, error) from error


def open_checked(data: Path, map_size: int) -> lmdb.Environment:
    """Open the store with a map of at least `map_size` bytes.

    Raises StoreDamaged, StoreTooNew, or ConfigError if it cannot be mapped or read at all. It is not changed.
    """
    try:
        environment = _open(data, map_size)
    except (lmdb.Error, OverflowError) as error:
        raise _not_opened(data, map_size, error) from error
    try:
        _check(data, environment)
    except lmdb.Error as error:
        environment.close()
        raise damaged(data, str(error)) from error
    except Error:
        environment.close()
        raise
    return environment


def verify(data: Path) -> None:
    """Read every page of the file and check it, about 100 MB/s; raise StoreDamaged on the first fault.

    Not by reading all through LMDB, which would be five times faster: it trusts its pages, and ends the
    process by a failed assertion where they are wrong.
    """
    try:
        faults: list[str] = offline.verify(str(data))  # type: ignore[no-untyped-call]
    except offline.VerifyError as error:
        raise damaged(data, str(error)) from error
    except OSError as error:
        raise failed(data, error) from error
    if faults:
        raise damaged(data, f"{faults[0]} ({len(faults)} faults)")


def end_of_pages(environment: lmdb.Environment) -> int:
    """Return how many bytes of the file the last commit has used at some time."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def damaged(data: Path, what: str) -> StoreDamaged:
    """Return the error for a store that cannot be read."""
    return StoreDamaged(
        f"the store {data.parent} is damaged: {what}. To go on, put a copy of it back, or move the directory "
        "away and start anew without what was in it"
    )


def error_number(error: Exception) -> int:
    """Return the errno of an error of LMDB or of the system; 0 if it has none, as some of LMDB's."""
    number = getattr(error, "errno", None) or getattr(error, "code", None)
    return number if isinstance(number, int) else 0


def failed(data: Path, error: lmdb.Error | OSError) -> Error:
    """Return what to raise for an error of LMDB or of the system; the caller has looked for a full map."""
    code = error_number(error)
    if (helps := remedy(code)) is not None:
        return ConfigError(f"store: {data.parent} cannot be used: {error}; {helps}")
    if code in FULL:
        return StoreFull(f"the store {data.parent} cannot be written: {error}; make room on the disk")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ConfigError(f"store: {data.parent} cannot be written: {error}")
    if code == errno.EIO or isinstance(error, OSError):
        return StoreDamaged(f"the store {data.parent} cannot be read or written: {error}; look at the disk")
    return damaged(data, str(error))


def _open(path: Path, map_size: int) -> lmdb.Environment:
    return lmdb.open(
        str(path),
        map_size=map_size,
        subdir=False,
        # A backlog is read in the order of its keys, which is nearly that of its pages.
        readahead=True,
        # Turns a full disk into SIGBUS.
        writemap=False,
        lock=False,
        mode=0o600,
        lib_version=_ENGINE,
    )


def _check(data: Path, environment: lmdb.Environment) -> None:
    # Behind the end of a file that was cut short, reading the map is not an error but SIGBUS.
    size, needed = data.stat().st_size, end_of_pages(environment)
    if size < needed:
        raise damaged(data, f"{DATA} has {size} bytes and should have {needed}")
    with environment.begin() as txn:
        schema = txn.get(_SCHEMA_KEY)
    if schema is None:
        raise damaged(data, f"{DATA} is not a zmqrel store, it names no schema")
    if (found := int.from_bytes(schema, "big")) > SCHEMA:
        raise StoreTooNew(f"the store {data.parent} has schema {found}, this zmqrel reads up to {SCHEMA}")


def _not_opened(data: Path, map_size: int, error: Exception) -> Error:
    code = error_number(error)
    if isinstance(error, OverflowError) or code in (errno.ENOMEM, errno.EINVAL):
        return ConfigError(
            f"map_size_bytes={map_size} cannot be mapped for {data}: {error}; lower it, or raise the limit "
            "of the address space (ulimit -v)"
        )
    if (helps := remedy(code)) is not None:
        return ConfigError(f"store: {data} cannot be opened: {error}; {helps}")
    if code == errno.EACCES:
        return ConfigError(f"store: {data} cannot be read and written: {error}")
    return damaged(data, str(error))
