"""Who may connect to a peer, and what they may: its keys and permissions, looked at while it runs.

What changes becomes commands for the core's next turn, and warnings for an operator.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Final

from zmqrel.core import commands as c
from zmqrel.core.engine import Engine
from zmqrel.escaping import escaped
from zmqrel.options import Options
from zmqrel.runtime.curve import Failure
from zmqrel.runtime.keys import KeyDirectory
from zmqrel.runtime.permission_file import PermissionFile

_FAILURES_EVERY_S: Final = 10.0

_log = logging.getLogger("zmqrel")


class Admission:
    """Of one peer. Its I/O thread uses it; without `options.keys` and a file of permissions it has nothing to do."""

    def __init__(self, name: str, options: Options) -> None:
        """Read the permissions. Raises ConfigError."""
        self.keys: KeyDirectory | None = None
        self._name = name
        self._directory = (
            None if options.keys is None else Path(options.keys).absolute()
        )  # the process may go elsewhere
        given = options.permissions
        self._permissions = (
            PermissionFile(name, Path(given).absolute()) if isinstance(given, str | os.PathLike) else None
        )
        self._changes: list[c.Command] = []
        """What became of keys, for the next turn."""
        self._told: dict[Failure, float] = {}
        """When each kind of failure was told last (monotonic)."""

    def open(self, peers: Mapping[str, str | None]) -> None:
        """Read the keys, of which each peer that is dialled has one. Raises ConfigError."""
        if self._directory is None:
            return
        keys = self.keys = KeyDirectory(self._directory)
        found = keys.look(now=True)
        broken = dict(found.broken) if found is not None else {}
        for name, why in broken.items():
            self._tell_of_broken_key(name, why)
        for name, endpoint in peers.items():
            if endpoint is not None:
                keys.require(name)
            elif keys.of(name) is None and name not in broken:
                _log.warning("peer %s: %s cannot connect: %s is not there", self._name, name, keys.file_of(name))

    def permit(self, engine: Engine) -> None:
        """Tell a core that was just made what others may."""
        if self._permissions is not None:
            engine.permit(self._permissions.permissions)

    def look_at_permissions(self, engine: Engine) -> None:
        """Tell the core if the file says something else than before."""
        if self._permissions is not None and self._permissions.look():
            engine.permit(self._permissions.permissions)
            _log.info("peer %s: the permissions were read anew", self._name)

    def look_at_keys(self, *, now: bool = False) -> bool:
        """Take note of keys that have come and gone, if it is time to look. True if some are gone."""
        changes = None if self.keys is None else self.keys.look(now=now)
        if changes is None:
            return False
        for name, why in changes.broken:
            self._tell_of_broken_key(name, why)
        self._changes += [c.Revoke(name) for name in changes.gone]
        self._changes += [c.Authorise(name) for name in changes.come]
        return bool(changes.gone)

    def take_changes(self) -> list[c.Command]:
        """What the core is to be told of keys; once."""
        changes, self._changes = self._changes, []
        return changes

    def may_dial(self, name: str) -> bool:
        """Whether there is a key of this peer, or none is needed."""
        return self.keys is None or self.keys.of(name) is not None

    def timeouts_s(self) -> Iterator[float]:
        """In how many seconds it is to be looked at the files again."""
        if self._permissions is not None:
            yield self._permissions.timeout_s()
        if self.keys is not None:
            yield self.keys.look_in_s()

    def tell_of_failures(self, failures: Mapping[Failure, int]) -> None:
        """Log handshakes that failed, each kind now and then, for who does not get in tries again and again."""
        now = monotonic()
        for failure, count in failures.items():
            if now < self._told.get(failure, -_FAILURES_EVERY_S) + _FAILURES_EVERY_S:
                continue
            self._told[failure] = now
            whose = "a connection to an endpoint of this peer" if failure.peer is None else f"dialling {failure.peer}"
            often = "once" if count == 1 else f"{count} times"
            _log.warning("peer %s: %s failed, %s just now: %s", self._name, whose, often, failure.reason)

    def _tell_of_broken_key(self, name: str, why: str) -> None:
        _log.error("peer %s: the key file of %s is not used: %s", self._name, escaped(name, 64), why)
