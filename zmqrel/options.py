"""Options: all of a peer that has a default, in one frozen dataclass, checked whole when it is made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias, get_args

from zmqrel.checks import UnknownArgument, one_of, whole
from zmqrel.errors import ConfigError, duration_s
from zmqrel.permissions import Permissions
from zmqrel.retry import Retry

Durability: TypeAlias = Literal["fsync", "relaxed"]
OnStoreLoss: TypeAlias = Literal["resend", "uncertain"]
Accept: TypeAlias = Literal["listed", "any"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

_WORDS: Final = {
    "durability": get_args(Durability),
    "on_store_loss": get_args(OnStoreLoss),
    "accept": get_args(Accept),
}
_DURATIONS_ABOVE_0: Final = ("heartbeat_s", "liveness_s")
_DURATIONS: Final = ("outcome_retention_s", "dead_retention_s")
# Counts and sizes travel as 64-bit integers; a body is one frame, held in memory several times.
_MOST_COUNT: Final = 2**63 - 1
_WHOLE: Final = {
    "window_bytes": (1, GIB),
    "prefetch": (1, 1_000_000),
    "max_body_bytes": (1, GIB),
    "outbox_max_messages": (1, _MOST_COUNT),
    "outbox_max_bytes": (1, _MOST_COUNT),
    "inbox_max_messages": (1, _MOST_COUNT),
    "inbox_max_bytes": (1, _MOST_COUNT),
    "dead_max_bytes": (0, _MOST_COUNT),
    "map_size_bytes": (MIB, _MOST_COUNT),
}


def _default_resend() -> Retry:
    return Retry.exponential(0.2, max_interval=30, jitter="full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a peer can be told beyond its name, store, endpoints and peers.

    Durations are seconds (a timedelta is taken too and kept as float), sizes are bytes. Raises ConfigError
    naming the option and what it takes, also where two options contradict each other.
    """

    durability: Durability = "fsync"
    """"fsync": a commit is on the disk before `send` returns. "relaxed": it survives process death at once,
    power loss after at most 100 ms."""

    resend: Retry = field(default_factory=_default_resend)
    """Waits between resends of what was not acknowledged. It must never stop: see `give_up_after_s`."""

    give_up_after_s: float | None = None
    """Seconds after which a message that its peer has not received ends EXHAUSTED; None is never."""

    heartbeat_s: float = 1.0
    """Seconds between two signs of life on a link that has nothing else to say."""

    liveness_s: float = 4.0
    """Seconds of silence after which a link counts as down. More than `heartbeat_s`."""

    window_bytes: int = MIB
    """Bytes on the wire to one peer and not yet acknowledged. One message always goes, however large."""

    prefetch: int = 64
    """Messages claimed ahead of the workers, for each handler."""

    max_body_bytes: int = 16 * MIB
    """The largest encoded body that is sent or taken, in bytes; at most 1 GiB."""

    outbox_max_messages: int = 10_000_000
    """Unsettled messages in the outbox at which `send` raises OutboxFull."""

    outbox_max_bytes: int = 32 * GIB
    """Bytes of unsettled messages in the outbox at which `send` raises OutboxFull."""

    inbox_max_messages: int = 10_000_000
    """Messages that the inbox takes before its senders must wait."""

    inbox_max_bytes: int = 32 * GIB
    """Bytes that the inbox takes before its senders must wait."""

    outcome_retention_s: float = 86_400.0
    """Seconds for which the outcome and the id of an ended message are remembered."""

    dead_retention_s: float = 604_800.0
    """Seconds for which a dead letter is kept."""

    dead_max_bytes: int = GIB
    """Bytes of dead letters that are kept; the oldest go first."""

    on_store_loss: OnStoreLoss = "resend"
    """What becomes of messages received by a peer that then lost its store: "resend" sends them again, marked
    `redelivered`; "uncertain" ends them UNCERTAIN."""

    accept: Accept = "listed"
    """Whose connections are taken: "listed" those named in `peers`, "any" every peer's."""

    permissions: str | os.PathLike[str] | Mapping[str, Any] | Permissions | None = None
    """What other peers may do here: a TOML file, or what would stand in it as a dict, which is kept as Permissions.
    None: every peer that is taken may send to every queue and recall what it sent."""

    map_size_bytes: int = 128 * GIB
    """Bytes to which the store may grow, at least 1 MiB. The file is sparse: it takes what is used."""

    keys: str | os.PathLike[str] | None = None
    """A directory of keys, as `zmqrel keygen` makes it: everything is encrypted, and only peers whose key is in it
    get in and are connected to. None is no keys."""

    insecure: bool = False
    """Whether endpoints that other machines can reach may be used without keys."""

    wall_clock: Callable[[], float] = time.time
    """Called for the wall clock, in POSIX seconds. For tests."""

    seed: int | None = None
    """Seeds the jitter, for tests; None draws one from the system."""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Options:
        """Options from keyword arguments. An unknown name raises ConfigError with those that come close."""
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                close = get_close_matches(str(name), known)
                raise UnknownArgument(f"there is no option {name!r}; {_suggestion(close, known)}")
        return cls(**given)

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            one_of(name, getattr(self, name), words)
        for name, (least, most) in _WHOLE.items():
            whole(name, getattr(self, name), least, most)
        for name in _DURATIONS_ABOVE_0:
            self._keep(name, duration_s(name, getattr(self, name), zero=False))
        for name in _DURATIONS:
            self._keep(name, duration_s(name, getattr(self, name)))
        if self.give_up_after_s is not None:
            self._keep("give_up_after_s", duration_s("give_up_after_s", self.give_up_after_s, zero=False))
        self._check_kinds()
        self._check_permissions()
        self._check_together()

    def _keep(self, name: str, seconds: float) -> None:
        object.__setattr__(self, name, seconds)

    def _check_kinds(self) -> None:
        _check_resend(self.resend)
        keys: object = self.keys
        if keys is not None and (not isinstance(keys, str | os.PathLike) or not str(keys)):
            raise ConfigError.of("keys", "a directory that zmqrel keygen made, or None", self.keys)
        if not isinstance(self.insecure, bool):
            raise ConfigError.of("insecure", "True or False", self.insecure)
        if not callable(self.wall_clock):
            raise ConfigError.of("wall_clock", "a function that returns POSIX seconds", self.wall_clock)
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise ConfigError.of("seed", "a whole number or None", self.seed)

    def _check_permissions(self) -> None:
        given: object = self.permissions
        if isinstance(given, Mapping):
            object.__setattr__(self, "permissions", Permissions.parse(given))
        elif given == "" or not isinstance(given, str | os.PathLike | Permissions | None):
            takes = "the path of a TOML file, a dict of what would stand in it or None"
            raise ConfigError.of("permissions", takes, given)

    def _check_together(self) -> None:
        if self.liveness_s <= self.heartbeat_s:
            takes = f"more seconds than heartbeat_s ({self.heartbeat_s:g})"
            raise ConfigError.of("liveness_s", takes, self.liveness_s)


def _check_resend(resend: object) -> None:
    if not isinstance(resend, Retry):
        raise ConfigError.of("resend", "a zmqrel.Retry", resend)
    if resend.base <= 0:
        raise ConfigError.of("resend", "a Retry whose first wait is above 0", resend)
    limits = ("max_attempts", resend.max_attempts), ("max_elapsed", resend.max_elapsed)
    stops = [name for name, limit in limits if limit is not None]
    if resend.at_max_interval == "stop":
        stops.append("at_max_interval='stop'")
    if stops:
        raise ConfigError(
            f"resend takes a Retry that never stops, without {' and '.join(stops)}: to end messages "
            "that are not received, set give_up_after_s"
        )


def _suggestion(close: list[str], known: list[str]) -> str:
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(known)}"
