"""A peer's whole memory as bytes to go back to, and as a digest that says which memories are the same state.

Both walk every object that hangs on the peer, so nothing that the core adds can be forgotten. What is left out of the
digest is named here, with the reason.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from contextlib import nullcontext
from enum import Enum
from hashlib import blake2b
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NoReturn

from zmqrel.core.timers import Timers
from zmqrel.options import Options
from zmqrel.retry import Retry
from zmqrel.testing.disk import SimulatedDisk

_LEFT_OUT = {
    ("Engine", "_obeys"): "a table that is made with the engine and never changed",
    ("Engine", "_counted"): "the counters, see there",
    ("Shared", "counters"): "figures for stats(): the core writes them and decides nothing by them",
    ("SimulatedDisk", "commits"): "likewise, of the simulated disk",
    ("SimulatedDisk", "_commits_left"): "made anew by `die_at`, and means nothing without it",
    ("SimulatedDisk", "_values"): "walked by itself: in the order of keys, not of writing",
    ("SimulatedDisk", "_keys"): "the keys of `_values`",
}
"""Class and field -> why two states that differ in nothing else are one state."""


class SteadyJitter(Random):
    """Jitter that is always half of what it may be, so that it does not tell states apart."""

    def random(self) -> float:
        """Return 0.5."""
        return 0.5


_CONSTANT: tuple[type, ...] = (Options, Retry, SteadyJitter, nullcontext)
"""The same objects in every state of a search: shared, not copied."""

_constants: dict[int, Any] = {}


def take(root: Any) -> bytes:
    """Return the bytes of everything that hangs on `root`."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(root)
    # A search keeps as many as it meets states of processes: hundreds of thousands.
    return zlib.compress(buffer.getvalue(), 1)


def restore(snapshot: bytes) -> Any:
    """Return a copy of what was taken, in this process."""
    return pickle.loads(zlib.decompress(snapshot))


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind in _CONSTANT:
            _constants[id(value)] = value
            return _constant, (id(value),)
        # A lambda of an instance would stay bound to the instance that was copied. The few in the core belong to
        # commands that a search does not give; should it, it fails instead of changing another state.
        if kind is FunctionType and value.__name__ == "<lambda>":
            return _LostLambda, (value.__qualname__,)
        return NotImplemented


def _constant(number: int) -> Any:
    return _constants[number]


class _LostLambda:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_arguments: Any) -> NoReturn:
        raise RuntimeError(f"{self.name} is not to be had in a search: it belongs to another copy of the peer")


def digest(root: Any) -> bytes:
    """Return 16 bytes that are equal for equal states.

    Order of dicts counts, for the core uses them as queues; identity of mutable objects counts, of immutable ones not.
    """
    walk = _Walk()
    walk.add(root)
    return blake2b("\x1f".join(walk.out).encode("utf-8", "surrogateescape"), digest_size=16).digest()


class _Walk:
    """One pass over everything that hangs on an object."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []
        """What was seen, lest an id is used again meanwhile."""

    def add(self, value: Any) -> None:
        """Add a value of any kind."""
        kind = type(value)
        if kind in _PLAIN:
            self.out.append(repr(value))
            return
        adds = _ADDS.get(kind) or _adds(kind)
        if kind not in _BY_IDENTITY:
            adds(self, value)
            return
        number = self._seen.setdefault(id(value), len(self._seen))
        if number < len(self._kept):
            self.out.append(f"&{number}")
            return
        self._kept.append(value)
        adds(self, value)

    def sequence(self, values: Any) -> None:
        """Add values in their order."""
        self.out.append("[")
        for value in values:
            self.add(value)
        self.out.append("]")

    def items(self, items: Any) -> None:
        """Add keys and values."""
        self.out.append("<")
        for key, value in items:
            self.add(key)
            self.add(value)
        self.out.append(">")

    def mapping(self, mapping: dict[Any, Any]) -> None:
        """Add a dict in its order."""
        self.items(mapping.items())

    def set(self, values: Any) -> None:
        """Add a set, which has no order."""
        self.sequence(sorted(values))

    def name(self, value: Any) -> None:
        """Add what is the same in every state by what it is called."""
        self.out.append(getattr(value, "__qualname__", "") or str(value))

    def kind(self, value: Any) -> None:
        """Add what is the same in every state by its kind."""
        self.out.append(type(value).__name__)

    def method(self, value: MethodType) -> None:
        """Add a method and what it is bound to."""
        self.out.append(value.__func__.__qualname__)
        self.add(value.__self__)

    def timers(self, timers: Timers) -> None:
        """Add timers: serial numbers only break ties, and a heap may lie in many ways."""
        heap = sorted((at_us, serial, repr(key)) for at_us, serial, key in timers._heap)
        self.sequence([(at_us, key) for at_us, _, key in heap])
        self.items(sorted((repr(key), at_us) for key, at_us in timers._at.items()))
        self.items(sorted((repr(key), at_us) for key, at_us in timers._stands.items()))

    def object(self, value: Any) -> None:
        """Add an object's fields."""
        kind = type(value)
        self.out.append(kind.__name__)
        for name in _slots(kind):
            if hasattr(value, name):
                self.out.append(name)
                self.add(getattr(value, name))
        for name, attribute in sorted(getattr(value, "__dict__", {}).items()):
            if (kind.__name__, name) not in _LEFT_OUT:
                self.out.append(name)
                self.add(attribute)
        self.out.append("/")

    def iterator(self, value: Any) -> None:
        """Add an iterator over plain values by what it will give and where it stands."""
        self.out.append(repr(value.__reduce__()))

    def disk(self, disk: SimulatedDisk) -> None:
        """Add a store."""
        self.items(sorted(disk._values.items()))
        self.object(disk)


_PLAIN = frozenset({int, str, bytes, bool, float, type(None)})
_ADDS: dict[type, Callable[[_Walk, Any], None]] = {
    tuple: _Walk.sequence,
    list: _Walk.sequence,
    deque: _Walk.sequence,
    set: _Walk.set,
    frozenset: _Walk.set,
    dict: _Walk.mapping,
    Counter: _Walk.mapping,
    defaultdict: _Walk.mapping,
    Timers: _Walk.timers,
    MethodType: _Walk.method,
    FunctionType: _Walk.name,
    BuiltinFunctionType: _Walk.name,
    bytearray: _Walk.name,
    type(iter(())): _Walk.iterator,
    type(iter(range(0))): _Walk.iterator,
    SimulatedDisk: _Walk.disk,
    _LostLambda: _Walk.kind,
    **dict.fromkeys(_CONSTANT, _Walk.kind),
}
_BY_IDENTITY: set[type] = {list, deque, set, dict, Counter, defaultdict, Timers, SimulatedDisk}


def _adds(kind: type) -> Callable[[_Walk, Any], None]:
    """How values of a kind that was not met before are added."""
    if issubclass(kind, tuple):
        adds: Callable[[_Walk, Any], None] = _Walk.sequence
    elif issubclass(kind, Enum):
        adds = _Walk.name
    elif kind.__module__.partition(".")[0] != "zmqrel":
        # What it holds may lie where nobody looks: it would make different states one.
        raise TypeError(f"it is not known how to tell states of {kind.__module__}.{kind.__qualname__} apart")
    else:
        adds = _Walk.object
        _BY_IDENTITY.add(kind)
    _ADDS[kind] = adds
    return adds


_slots_of: dict[type, list[str]] = {}


def _slots(kind: type) -> list[str]:
    """The slots of a class that count."""
    slots = _slots_of.get(kind)
    if slots is None:
        every = [slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())]
        slots = sorted(slot for slot in every if (kind.__name__, slot) not in _LEFT_OUT and slot != "__dict__")
        _slots_of[kind] = slots
    return slots
