"""The keys that a topology file may have: what each takes, in words and as a check, and its default."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
PARAMETER = re.compile(r"[a-z][a-z0-9_]*")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Key:
    """What one key takes: `allowed` says it in words, `takes` decides."""

    allowed: str
    takes: Callable[[Any], bool]
    default: Any = None


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _command(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(_scalar(item) for item in value) and isinstance(value[0], str)
    )


def _arguments(value: Any) -> bool:
    return isinstance(value, list) and all(_scalar(item) for item in value)


def _variables(value: Any) -> bool:
    return isinstance(value, dict) and all(_scalar(item) for item in value.values())


def _parameters(value: Any) -> bool:
    return isinstance(value, dict) and all(PARAMETER.fullmatch(k) and _scalar(v) for k, v in value.items())


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


def _table(value: Any) -> bool:
    return isinstance(value, dict)


NODE_KEYS = {
    "name": Key("1 to 64 of a-z A-Z 0-9 . _ -", _matches(NAME)),
    "module": Key('the name of a Python module, as in "nodes.sink"', _matches(MODULE)),
    "program": Key('a list: a program and its arguments, as in ["./meter", "--fast"]', _command),
    "args": Key("a list of texts and numbers", _arguments, []),
    "peers": Key("a list of names of other nodes", _texts, []),
    "options": Key("a table of options of zmqrel.Peer", _variables, {}),
    "environment": Key("a table of texts and numbers", _variables, {}),
    "count": Key("a whole number from 1 to 100", _integer(1, 100), 1),
    "endpoint": Key('text, as in "tcp://127.0.0.1:7001" or "ipc:///run/shop.sock"', lambda v: isinstance(v, str), ""),
    "restart": Key('"on-failure" or "never"', _one_of("on-failure", "never"), "on-failure"),
    "tries": Key("a whole number from 1 to 1000", _integer(1, 1000), 5),
    "backoff": Key("seconds from 0 to 60", _number(0, 60), 0.2),
    "steady": Key("seconds from 0 to 3600", _number(0, 3600), 5.0),
}
RUN_KEYS = {
    "transport": Key('"tcp" or "ipc"', _one_of("tcp", "ipc"), "tcp"),
    "python_path": Key("a list of directories", _texts, []),
    "keys": Key(
        "true, false, or a directory",
        lambda value: isinstance(value, bool) or (isinstance(value, str) and value != ""),
        False,
    ),
    "stop_timeout": Key("seconds from 0 to 3600", _number(0, 3600), 10.0),
}
END_KEYS = {
    "when": Key("a list of names of nodes", lambda value: _texts(value) and bool(value)),
    "verify": Key('a list: a program and its arguments, as in ["{python}", "check.py", "{data}"]', _command, []),
}
TOP_KEYS = {
    "node": Key("tables [node.NAME] or [[node]]", lambda value: isinstance(value, (dict, list)) and bool(value)),
    "run": Key("a table", _table, {}),
    "parameters": Key("a table of texts and numbers; names of a-z 0-9 _", _parameters, {}),
    "end": Key("a table", _table, {}),
}
ALWAYS_KNOWN = ("data", "here", "index", "name", "python")
