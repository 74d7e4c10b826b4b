"""What other peers may do here: which queues each of them may send to, and whether it may recall.

A value, without files: `Permissions.parse` takes what a TOML file, or a program, says, and finds every mistake in it.
The core asks the value where a message is received and where a withdrawal is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from zmqrel.checks import check_name
from zmqrel.errors import ConfigError, shown

REFUSAL: Final = "not permitted: "
"""How the reason of a message begins that its receiver did not permit, and of a recall."""

_PATTERN: Final = re.compile(r"[A-Za-z0-9._*-]{1,64}")
_OF_FILE: Final = ("peers", "default")
_OF_PEER: Final = ("queues", "recall")
_QUEUES_TAKE: Final = "a list of names of queues, 1 to 64 of a-z A-Z 0-9 . _ - and * for any characters"


@dataclass(frozen=True, slots=True)
class Permission:
    """What one peer may do."""

    queues: tuple[str, ...] = ()
    """Names of the queues that it may send to; a * in one stands for any characters."""
    recall: bool = False
    """It may take messages back that were received here."""
    _matches: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        patterns = ("[A-Za-z0-9._-]*".join(map(re.escape, queue.split("*"))) for queue in self.queues)
        # Without a queue nothing matches, not even the empty text.
        object.__setattr__(self, "_matches", re.compile("|".join(patterns) or "(?!)"))

    def covers(self, queue: str) -> bool:
        """Whether it may send to that queue."""
        return self._matches.fullmatch(queue) is not None


NOTHING: Final = Permission()


@dataclass(frozen=True, slots=True)
class Permissions:
    """What each peer may do. Who is not named may do what `default` says: nothing, if that is not given."""

    peers: Mapping[str, Permission] = field(default_factory=dict)
    default: Permission = NOTHING

    @classmethod
    def parse(cls, given: object, source: str = "permissions") -> Permissions:
        """What a mapping says: {"peers": {NAME: {"queues": [...], "recall": True}}, "default": {...}}.

        Raises ConfigError naming `source`, the key and what it takes.
        """
        table = _table(given, source, _OF_FILE)
        peers = _mapping(table.get("peers", {}), f"{source}: peers", "a table for each peer")
        return cls(
            {_peer(name, source): _permission(each, f"{source}: peers.{name}") for name, each in peers.items()},
            _permission(table["default"], f"{source}: default") if "default" in table else NOTHING,
        )

    def of(self, peer: str) -> Permission:
        """What that peer may do."""
        return self.peers.get(peer, self.default)


def _permission(given: object, where: str) -> Permission:
    table = _table(given, where, _OF_PEER)
    if "queues" not in table:
        raise ConfigError(f"{where}: queues is missing; it takes {_QUEUES_TAKE}, or [] for none")
    recall = table.get("recall", False)
    if not isinstance(recall, bool):
        raise ConfigError.of(f"{where}.recall", "true or false", recall)
    return Permission(_queues(table["queues"], f"{where}.queues"), recall)


def _queues(given: object, where: str) -> tuple[str, ...]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigError.of(where, _QUEUES_TAKE, given)
    queues: list[str] = []
    for at, queue in enumerate(given):
        if not isinstance(queue, str) or not _PATTERN.fullmatch(queue):
            raise ConfigError.of(f"{where}[{at}]", _QUEUES_TAKE.removeprefix("a list of "), queue)
        if queue in queues:
            raise ConfigError(f"{where}[{at}]: {queue!r} is named twice")
        queues.append(queue)
    return tuple(queues)


def _peer(name: object, source: str) -> str:
    return check_name(name, f"{source}: a name in peers")


def _mapping(given: object, where: str, takes: str) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError.of(where, takes, given)
    return given


def _table(given: object, where: str, known: tuple[str, ...]) -> Mapping[Any, Any]:
    table = _mapping(given, where, f"a table with {' and '.join(known)}")
    for key in table:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            helps = f"did you mean {close[0]}?" if close else f"there are {' and '.join(known)}"
            nested = isinstance(table[key], Mapping) and known is _OF_PEER
            dotted = "; a peer whose name holds a dot is written in quotes" if nested else ""
            raise ConfigError(f"{where}: there is no key {shown(key)}; {helps}{dotted}")
    return table
