"""The arguments of a send call: checked, and turned into records in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, Protocol, cast

import msgpack

from zmqrel.body import encode_bodies, encode_body
from zmqrel.checks import (
    Duration,
    Instant,
    UnknownArgument,
    check_headers,
    check_id,
    check_key,
    check_name,
    check_queue,
    duration_s,
    instant_posix,
    whole,
)
from zmqrel.core.commands import Found
from zmqrel.core.entries import MAX_META_BYTES, Meta, encode_messages, encode_meta
from zmqrel.errors import ConfigError, DeadlinePassed, MessageTooLarge


class StoreClock(Protocol):
    """What turning arguments into a record needs of the clock."""

    def store_us(self) -> int: ...

    def from_posix(self, posix_s: float) -> int: ...


class SendCall:
    """One call of `send` and its kin. Making one raises ConfigError for what is wrong with an argument."""

    def __init__(
        self,
        to: str,
        queue: str = "default",
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        id: str | None = None,
        ttl: Duration | None = None,
        deadline: Instant | None = None,
        delay: Duration | None = None,
        not_before: Instant | None = None,
        on_expiry: str = "dead",
        max_attempts: int | None = None,
    ) -> None:
        self.to = check_name(to, "to")
        self.queue = queue if queue == "default" else check_queue(queue)
        self.key = check_key(key)
        self.headers = check_headers(headers)
        self.id = None if id is None else check_id(id)
        self.ttl_s = None if ttl is None else duration_s("ttl", ttl)
        self.deadline_s = None if deadline is None else instant_posix("deadline", deadline)
        if delay is not None and not_before is not None:
            raise ConfigError("delay and not_before: give one of them, not both")
        self.delay_s = None if delay is None else duration_s("delay", delay)
        self.not_before_s = None if not_before is None else instant_posix("not_before", not_before)
        self.on_expiry = _check_on_expiry(on_expiry)
        self.max_attempts = None if max_attempts is None else whole("max_attempts", max_attempts, 1, 2**31 - 1)
        self.delayed = delay is not None or not_before is not None

    def encode(self, clock: StoreClock, bodies: list[Any], max_body_bytes: int) -> tuple[list[bytes], int, int]:
        """Records, deadline (0: none) and sending time, both by the store clock in microseconds.

        Raises NotSerializable, MessageTooLarge and DeadlinePassed.
        """
        encoded = encode_bodies(bodies)
        largest = max(map(len, encoded))
        if largest > max_body_bytes:
            raise MessageTooLarge(f"body: {largest} bytes when encoded; max_body_bytes={max_body_bytes} are allowed")
        now_us = clock.store_us()
        not_before_us = self._not_before_us(clock, now_us)
        deadline_us = self._deadline_us(clock, now_us, not_before_us)
        meta = encode_meta(
            Meta(
                key=self.key,
                id=self.id,
                headers=self.headers or None,
                not_before_us=not_before_us,
                on_expiry=self.on_expiry,
                max_attempts=self.max_attempts,
            )
        )
        if len(meta) > MAX_META_BYTES:
            raise MessageTooLarge(f"headers: {len(meta)} bytes when encoded; {MAX_META_BYTES} are allowed")
        return encode_messages(encoded, now_us, deadline_us, meta), deadline_us, now_us

    def _not_before_us(self, clock: StoreClock, now_us: int) -> int:
        if self.delay_s is not None:
            return now_us + round(self.delay_s * 1e6)
        return 0 if self.not_before_s is None else max(0, clock.from_posix(self.not_before_s))

    def _deadline_us(self, clock: StoreClock, now_us: int, not_before_us: int) -> int:
        """The earlier of ttl and deadline; 0 without either."""
        deadlines = []
        if self.ttl_s is not None:
            deadlines.append(now_us + round(self.ttl_s * 1e6))
        if self.deadline_s is not None:
            deadlines.append(clock.from_posix(self.deadline_s))
        if not deadlines:
            return 0
        deadline_us = min(deadlines)
        if deadline_us < now_us:
            raise DeadlinePassed(f"deadline: it passed {(now_us - deadline_us) / 1e6:g} s ago")
        if deadline_us < not_before_us:
            early_s = (not_before_us - deadline_us) / 1e6
            raise DeadlinePassed(f"deadline: it is {early_s:g} s before the message may be handed over")
        return deadline_us

    def digest(self, body: Any) -> bytes:
        """What tells two send calls with one id apart: 16 bytes of all arguments."""
        times = [self.ttl_s, self.deadline_s, self.delay_s, self.not_before_s]
        fields = [self.to, self.queue, self.key, sorted(self.headers.items()), times]
        packed = cast(bytes, msgpack.packb([*fields, self.on_expiry, self.max_attempts, encode_body(body)]))
        return blake2b(packed, digest_size=16).digest()


_ARGUMENTS: Final = frozenset(SendCall.__init__.__annotations__) - {"to", "return"}


def send_call(to: str, arguments: Mapping[str, Any]) -> SendCall:
    """A SendCall of keyword arguments. Raises UnknownArgument for one that does not exist."""
    for name in arguments:
        if name not in _ARGUMENTS:
            known = ", ".join(sorted({*_ARGUMENTS, "room_timeout"}))
            raise UnknownArgument(f"there is no keyword argument {name!r}; known are {known}")
    return SendCall(to, **arguments)


def _check_on_expiry(value: object) -> str:
    if isinstance(value, str) and value in ("dead", "drop"):
        return value
    if isinstance(value, str) and value.startswith("queue:"):
        with suppress(ConfigError):
            check_queue(value[6:])
            return value
    raise ConfigError.of("on_expiry", '"drop", "dead" or "queue:NAME"', value)


def message_filter(
    clock: StoreClock, headers: Mapping[str, Any] | None, sent_after: Instant | None, sent_before: Instant | None
) -> Callable[[Found], bool] | None:
    """The filters of `recall_where` that look into a message, as one function; None if there are none."""
    wanted = check_headers(headers)
    after_us = None if sent_after is None else clock.from_posix(instant_posix("sent_after", sent_after))
    before_us = None if sent_before is None else clock.from_posix(instant_posix("sent_before", sent_before))
    if not wanted and after_us is None and before_us is None:
        return None

    def matches(found: Found) -> bool:
        if after_us is not None and found.sent_at_us <= after_us:
            return False
        if before_us is not None and found.sent_at_us >= before_us:
            return False
        return wanted.items() <= found.headers.items()

    return matches
