"""The file that says what other peers may do: read at the start, and looked at now and then while the peer runs."""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path
from time import monotonic
from typing import Any, Final

from zmqrel.errors import ConfigError
from zmqrel.permissions import Permissions

LOOK_S: Final = 1.0
"""How often a running peer looks whether the file is another."""
_MOST_BYTES: Final = 4 << 20

_log = logging.getLogger("zmqrel")


def read_permissions(file: Path) -> Permissions:
    """What a file says. Raises ConfigError naming the file, the place in it and what is allowed there."""
    return Permissions.parse(_table(file), str(file))


class PermissionFile:
    """A file and what it last said. One thread uses it."""

    def __init__(self, peer: str, file: Path) -> None:
        """Read it. Raises ConfigError."""
        self._peer = peer
        self._file = file
        self._seen = _state(file)
        self._look_at_s = monotonic() + LOOK_S
        self.permissions = read_permissions(file)

    def timeout_s(self) -> float:
        """Seconds until it is to be looked at again."""
        return max(0.0, self._look_at_s - monotonic())

    def look(self) -> bool:
        """Whether it says something else than before, if it is time to look.

        What cannot be read, or makes no sense, changes nothing, and is logged once.
        """
        if monotonic() < self._look_at_s:
            return False
        self._look_at_s = monotonic() + LOOK_S
        state = _state(self._file)
        if state == self._seen:
            return False
        self._seen = state
        before = self.permissions
        try:
            self.permissions = read_permissions(self._file)
        except ConfigError as error:
            _log.error("peer %s: the permissions stay as they were: %s", self._peer, error)
            return False
        return self.permissions != before


def _state(file: Path) -> tuple[int, ...] | None:
    """What differs when a file was changed or replaced; None if there is none to be looked at."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _table(file: Path) -> dict[str, Any]:
    toml = _toml()
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            data = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"permissions: {file} cannot be read: {error.strerror}") from error
    if mode & stat.S_IWOTH:
        raise ConfigError(f"permissions: {file} can be written by everybody; chmod o-w it")
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"permissions: {file} has more than {_MOST_BYTES} bytes")
    try:
        table: dict[str, Any] = toml.loads(data.decode())
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigError(f"{file}: this is no TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: this is nested too deep") from error
    return table


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli
    except ImportError as error:
        raise ConfigError(
            "permissions: Python 3.10 reads TOML with the extra `cli` (pip install 'zmqrel[cli]'); without it, give "
            "them as a dict"
        ) from error
    return tomli
