"""Checks of arguments: each takes what a caller gave and returns it in the form that the package uses.

Every one raises ConfigError naming the parameter, what it takes and what it was given. Values are checked
here, at the public calls, and trusted further in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal, TypeAlias, TypeVar, cast

from zmqrel.errors import LONGEST_S, ConfigError, duration_s, shown

__all__ = [
    "LEAST_INT",
    "LONGEST_S",
    "MOST_INT",
    "Duration",
    "HeaderValue",
    "Instant",
    "UnknownArgument",
    "check_bind",
    "check_endpoint",
    "check_headers",
    "check_id",
    "check_key",
    "check_name",
    "check_queue",
    "duration_s",
    "instant_posix",
    "is_loopback",
    "is_name",
    "number",
    "one_of",
    "whole",
]


class UnknownArgument(ConfigError, TypeError):
    """An unknown keyword is a TypeError in every call of this package; where the package finds it, ConfigError too."""


Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""
Instant: TypeAlias = float | datetime
"""POSIX seconds, or an aware datetime."""
HeaderValue: TypeAlias = str | int | float | bool | bytes

LEAST_INT: Final = -(2**63)
MOST_INT: Final = 2**64 - 1

_Choice = TypeVar("_Choice", bound=str)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TCP = re.compile(r"tcp://(?P<host>\*|\[[^][]+\]|[A-Za-z0-9._-]+):(?P<port>\*|[0-9]{1,5})")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# A year less than datetime holds, at either end: a zone or a clock offset may be added without an overflow.
_FIRST_POSIX = (datetime(2, 1, 1, tzinfo=timezone.utc) - _EPOCH).total_seconds()
_LAST_POSIX = (datetime(9999, 1, 1, tzinfo=timezone.utc) - _EPOCH).total_seconds()
# The room in sockaddr_un on Linux, less the terminating zero.
_IPC_PATH_BYTES = 107
_LABEL_BYTES = 128
_HEADER_VALUES = "str, int (-2^63 to 2^64-1), float, bool or bytes"


def check_name(value: object, parameter: str = "name") -> str:
    """A peer's name: 1 to 64 of a-z A-Z 0-9 . _ -."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ConfigError.of(parameter, "a str of 1 to 64 of a-z A-Z 0-9 . _ -", value)


def is_name(value: str) -> bool:
    """Whether a text is one that `check_name` takes."""
    return _NAME.fullmatch(value) is not None


def check_queue(value: object, parameter: str = "queue") -> str:
    """A queue's name, by the same rule as a peer's."""
    return check_name(value, parameter)


def check_id(value: object, parameter: str = "id") -> str:
    """A message's id: a str of 1 to 128 bytes in UTF-8."""
    if isinstance(value, str) and 1 <= (_utf8_length(value) or 0) <= _LABEL_BYTES:
        return value
    raise ConfigError.of(parameter, f"a str of 1 to {_LABEL_BYTES} bytes in UTF-8", value)


def check_key(value: object, parameter: str = "key") -> str | None:
    """A message's key: None, or a str of 1 to 128 bytes in UTF-8."""
    return None if value is None else check_id(value, parameter)


def check_headers(value: object, parameter: str = "headers") -> dict[str, HeaderValue]:
    """Headers, copied: str to str, int (-2^63 to 2^64-1), float, bool or bytes. None is no headers."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError.of(parameter, f"a dict of str to {_HEADER_VALUES}", value)
    return {_header_name(name, parameter): _header_value(name, each, parameter) for name, each in value.items()}


def _header_name(name: object, parameter: str) -> str:
    if type(name) is str and _utf8_length(name) is not None:
        return name
    raise ConfigError.of(f"a name in {parameter}", "a str that UTF-8 can hold", name)


def _header_value(name: object, value: object, parameter: str) -> HeaderValue:
    kind = type(value)
    if kind is float or kind is bool or kind is bytes:
        return cast("HeaderValue", value)
    if type(value) is int and LEAST_INT <= value <= MOST_INT:
        return value
    if type(value) is str and _utf8_length(value) is not None:
        return value
    raise ConfigError.of(f"{parameter}[{shown(name)}]", _HEADER_VALUES, value)


def _utf8_length(text: str) -> int | None:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def whole(parameter: str, value: object, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`, if there is a most. A bool is not one."""
    highest = math.inf if most is None else most
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= highest:
        return int(value)
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigError.of(parameter, f"a whole number {limits}", value)


def number(parameter: str, value: object, least: float, most: float) -> float:
    """A number from `least` to `most`. A bool is not one; NaN is in no range."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most:
        return float(value)
    raise ConfigError.of(parameter, f"a number from {least:g} to {most:g}", value)


def one_of(parameter: str, value: object, allowed: Iterable[_Choice]) -> _Choice:
    """One of a few words."""
    words = tuple(allowed)
    for word in words:
        if isinstance(value, str) and value == word:
            return word
    raise ConfigError.of(parameter, " or ".join(map(repr, words)), value)


def instant_posix(parameter: str, value: object) -> float:
    """A point in time as POSIX seconds, from an aware datetime or POSIX seconds, of the years 2 to 9998."""
    seconds: float | None = None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ConfigError.of(parameter, "an aware datetime (one with a tzinfo) or POSIX seconds", value)
        seconds = (value - _EPOCH).total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    if seconds is not None and _FIRST_POSIX <= seconds <= _LAST_POSIX:
        return float(seconds)
    raise ConfigError.of(parameter, "an aware datetime or POSIX seconds, of the years 2 to 9998", value)


def check_endpoint(parameter: str, value: object, *, use: Literal["bind", "connect"]) -> str:
    """An endpoint: tcp://host:port or ipc://path. An IPv6 host stands in []; `*` is for binding only."""
    if isinstance(value, str) and (_is_tcp(value, wild=use == "bind") or _is_ipc(value)):
        return value
    port = "port is 1 to 65535 or *" if use == "bind" else "port is 1 to 65535"
    raise ConfigError.of(parameter, f"tcp://host:port ({port}) or ipc://path", value)


def check_bind(value: object, parameter: str = "bind") -> tuple[str, ...]:
    """The endpoints to bind: one, or several of them, or none."""
    if isinstance(value, str):
        return (check_endpoint(parameter, value, use="bind"),)
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise ConfigError.of(parameter, "an endpoint or a list of endpoints", value)
    return tuple(check_endpoint(parameter, each, use="bind") for each in value)


def is_loopback(endpoint: str) -> bool:
    """Whether a checked endpoint is out of other machines' reach: ipc, localhost, 127.0.0.0/8 or ::1."""
    match = _TCP.fullmatch(endpoint)
    if match is None:
        return endpoint.startswith("ipc://")
    host = match["host"]
    if host.lower() == "localhost":
        return True
    address = _address(host.strip("[]"))
    # Before Python 3.13 a mapped address is not its own judge.
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return bool(address and (inner or address).is_loopback)


def _is_tcp(endpoint: str, *, wild: bool) -> bool:
    match = _TCP.fullmatch(endpoint)
    if match is None:
        return False
    host, port = match["host"], match["port"]
    if host == "*" and not wild:
        return False
    if host.startswith("[") and not isinstance(_address(host[1:-1]), IPv6Address):
        return False
    return wild if port == "*" else 1 <= int(port) <= 65_535


def _is_ipc(endpoint: str) -> bool:
    path = endpoint.removeprefix("ipc://")
    fits = path != endpoint and 1 <= (_utf8_length(path) or 0) <= _IPC_PATH_BYTES
    return fits and path != "*" and "\0" not in path


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
