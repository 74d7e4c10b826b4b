"""What the nodes of a run have counted, as they report it.

A node that wants to be seen in the table writes one JSON object into the file that ZMQREL_STATUS_FILE names,
as often as it likes, by writing a file beside it and renaming that over it: `pid`, `time` (so that no two
reports are equal) and numbers, among them those of `Peer.stats()`. A file rather than a pipe, because it
never fills up, is never half a line, needs no inherited descriptor, outlives a node that is killed, and any
program can write it. A node that reports nothing is asked through the control socket of its store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zmqrel.control.asking import glance

# What grows during the life of a process and starts again at 0 in the next: earlier lives are added up.
COUNTERS = ("sent", "received", "handled", "retried", "recalled", "expired", "dead")
_ASK_EVERY_S = 0.5
_PATIENCE_S = 0.2
BACKLOG = ("outbox_messages", "inbox_messages")


class Counts:
    """The counts of one node over all of its lives."""

    def __init__(self, file: Path, store: Path | None = None) -> None:
        """`file` is what the node reports to, `store` the directory in which its peer is looked for if it does not."""
        self._file = file
        self._store = store
        self._ask_at = 0.0
        self._lives: dict[int, dict[str, float]] = {}
        self._latest: dict[str, float] = {}
        self._raw = b""
        self._before: tuple[float, float] | None = None
        self.rate = 0.0

    def read(self, now: float) -> None:
        """Take what the file says at `now`, if it is there and whole."""
        said = self._reported() if self._raw or self._file.exists() else self._asked(now)
        if not isinstance(said, dict) or not isinstance(said.get("pid"), int):
            return
        self._latest = {key: value for key, value in said.items() if isinstance(value, (int, float))}
        self._lives[said["pid"]] = self._latest
        self._measure(now)

    def _reported(self) -> Any:
        """What the node has written since the last time; None if nothing, or nothing whole."""
        try:
            raw = self._file.read_bytes()
            if raw == self._raw:
                return None
            said = json.loads(raw)
        except (OSError, ValueError):
            return None
        self._raw = raw
        return said

    def _asked(self, now: float) -> Any:
        if self._store is None or now < self._ask_at:
            return None
        self._ask_at = now + _ASK_EVERY_S
        return glance(self._store, _PATIENCE_S)

    def _measure(self, now: float) -> None:
        total = self.total()
        done = float(max(total["sent"], total["handled"]))
        if self._before is not None and now > self._before[0]:
            self.rate = max(0.0, done - self._before[1]) / (now - self._before[0])
        self._before = (now, done)

    def total(self) -> dict[str, int]:
        """Every counter over all lives, and the backlog as it is now."""
        counted = {key: int(sum(life.get(key, 0) for life in self._lives.values())) for key in COUNTERS}
        return counted | {"backlog": int(sum(self._latest.get(key, 0) for key in BACKLOG))}

    def own(self) -> Mapping[str, float]:
        """The latest report as the node wrote it."""
        return self._latest
