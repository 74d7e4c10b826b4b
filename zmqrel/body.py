"""Bodies of messages: what may be one, and its form on the wire and in the stores (MessagePack).

Encoding is on the path of every message, so what is valid is proved by the shortest walk there is; the one
that names the place of a fault runs only when there is one.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from zmqrel.checks import LEAST_INT, MOST_INT
from zmqrel.errors import Error, NotSerializable, shown

MOST_DEEP: Final = 64
"""Containers within each other: a list of numbers is 1 deep."""

_ALLOWED: Final = (
    "None, bool, int from -2^63 to 2^64-1, float, str, bytes, list, tuple, and dict with str or bytes keys, "
    f"at most {MOST_DEEP} deep"
)

# Exact types: a subclass would arrive as what it is not.
_SCALARS = frozenset((type(None), bool, int, float, str, bytes))
_CONTAINERS = frozenset((dict, list, tuple))
_KEYS = frozenset((str, bytes))
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_unpackb = msgpack.unpackb

# A packer keeps the largest buffer that it ever needed, so one that packed a large body is let go.
_KEPT_BUFFER_BYTES = 1024 * 1024


_BIN32 = struct.Struct(">BI")
_BIN32_FROM_BYTES = 1 << 16
"""Shorter bytes have a shorter head."""


class BadBody(Error, ValueError):
    """The peer is at fault, or the store: the bytes are not the encoding of a body. The message says why."""


class _Packers(threading.local):
    """One packer for each thread: making one costs more than packing with it."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.pack = msgpack.Packer().pack


_packers = _Packers()


def encode_body(body: object) -> bytes:
    """The encoding of a body. Raises NotSerializable, naming the path, for what cannot be one."""
    if type(body) not in _SCALARS and not _is_plain(body, MOST_DEEP):
        check_body(body)
    if type(body) is bytes and len(body) >= _BIN32_FROM_BYTES:
        return _bin32(body)
    try:
        data: bytes = _packers.pack(body)
    except (ValueError, OverflowError) as error:
        check_body(body)
        raise _refusal("$", str(error)) from error
    if len(data) > _KEPT_BUFFER_BYTES:
        _packers.renew()
    return data


def _bin32(body: bytes) -> bytes:
    """What a packer makes of it, without the copy that it makes in a buffer of its own."""
    if len(body) >= 1 << 32:
        raise _refusal("$", f"{len(body)} bytes, and bytes of MessagePack are fewer than 2^32")
    return _BIN32.pack(0xC6, len(body)) + body


def encode_bodies(bodies: list[Any]) -> list[bytes]:
    """The same of many."""
    if not _SCALARS.issuperset(map(type, bodies)):
        return [encode_body(body) for body in bodies]
    if bodies and type(bodies[0]) is bytes and len(bodies[0]) >= _BIN32_FROM_BYTES:
        return [encode_body(body) for body in bodies]
    pack = _packers.pack
    try:
        encoded: list[bytes] = [pack(body) for body in bodies]
    except (ValueError, OverflowError):
        return [encode_body(body) for body in bodies]  # to say what is wrong, and of which
    if max(map(len, encoded), default=0) > _KEPT_BUFFER_BYTES:
        _packers.renew()
    return encoded


def decode_body(data: bytes | memoryview) -> object:
    """The body that `encode_body` made `data` from, tuples as lists. Raises BadBody if there is none."""
    try:
        # No length may pass that of the data: unpackb sees to that by itself, and each keyword takes its time.
        body: object = _unpackb(data, ext_hook=_refuse_extension, max_ext_len=0)
    except Exception as error:  # what a hostile input raises is not documented
        raise BadBody(f"not the encoding of a body: {str(error) or type(error).__name__}") from error
    # Each container takes a byte at least, so a short one cannot be too deep.
    if type(body) in _CONTAINERS and len(data) > MOST_DEEP and not _is_plain(body, MOST_DEEP):
        raise BadBody(f"not the encoding of a body: more than {MOST_DEEP} deep")
    return body


def check_body(body: object) -> None:
    """Raises NotSerializable, naming the path to the first fault (`$.order.when`), if there is one."""
    for path, why in _faults(body, "$", MOST_DEEP):
        raise _refusal(path, why)


def _is_plain(container: Any, room: int) -> bool:
    # Ints out of range and lone surrogates are left to the packer, which finds them for nothing.
    kind = type(container)
    if room == 0 or kind not in _CONTAINERS:
        return False
    if kind is dict:
        for key, value in container.items():
            if type(key) not in _KEYS or (type(value) not in _SCALARS and not _is_plain(value, room - 1)):
                return False
        return True
    return all(type(value) in _SCALARS or _is_plain(value, room - 1) for value in container)


def _faults(value: Any, path: str, room: int) -> Iterator[tuple[str, str]]:
    kind = type(value)
    if kind in _CONTAINERS:
        yield from _faults_inside(value, path, room)
    elif kind not in _SCALARS:
        yield path, f"{kind.__module__}.{kind.__qualname__} is no type of a body".removeprefix("builtins.")
    elif kind is int and not LEAST_INT <= value <= MOST_INT:
        yield path, "the int is out of range"
    elif kind is str and not _has_utf8(value):
        yield path, "the str holds a lone surrogate, which UTF-8 cannot"


def _faults_inside(container: Any, path: str, room: int) -> Iterator[tuple[str, str]]:
    if room == 0:
        yield path, f"more than {MOST_DEEP} deep, or within itself"
    elif type(container) is dict:
        for key, value in container.items():
            if type(key) not in _KEYS:
                yield path, f"{shown(key)} is no key of a body"
            elif type(key) is str and not _has_utf8(key):
                yield path, f"the key {shown(key)} holds a lone surrogate, which UTF-8 cannot"
            yield from _faults(value, f"{path}{_step(key)}", room - 1)
    else:
        for index, value in enumerate(container):
            yield from _faults(value, f"{path}[{index}]", room - 1)


def _step(key: object) -> str:
    return f".{key}" if isinstance(key, str) and _IDENTIFIER.fullmatch(key) else f"[{shown(key)}]"


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(path: str, why: str) -> NotSerializable:
    return NotSerializable(f"{path}: {why}; a body is {_ALLOWED}")


def _refuse_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension type {code}")
