"""What one peer may cost another, so that nobody who is in can hurt the rest.

Most of it is one thing: an *allowance* of bytes for whatever brings nothing forward. A frame that was malformed, stale,
a duplicate, a handshake, a question or a settlement of nothing is charged to who sent it, with what it made necessary,
as if so many bytes had come for nothing. Who has used up the allowance is not read until there is some again: to an
honest peer that is a loss like any other, which the protocol makes good; it never comes near it. The rest are numbers
that a peer cannot exceed, each with the reason why an honest one never wants to.

Buckets are data: the clock is given. Nothing here is durable.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

WINDOW_BYTES: Final = 1 << 20
"""The default of `Options.window_bytes`. The next numbers are those for such a window, and more in proportion where the
own one is wider."""
ALLOWANCE_BYTES: Final = 8 << 20
ALLOWANCE_BYTES_PER_S: Final = 1 << 20
"""Of each peer: eight windows that are resent for nothing, and one in each second."""
MOST_CHARGED: Final = 256 << 10
"""For one frame, and for one request to send again. An honest peer has one body of any size on the wire for each queue,
however wide its window is, and each may come again, or for a session that is over."""
PATIENCE_BYTES: Final = 4 << 20
PATIENCE_BYTES_PER_S: Final = 1 << 20
"""What may come from a peer, unread, once its allowance is used up; who goes on is shut out for `SHUT_OUT_S`."""
SHUT_OUT_S: Final = 10.0
STRANGER_BYTES: Final = 2 << 20
STRANGER_BYTES_PER_S: Final = 32 << 10
"""Of each connection before it has said who it is, and STRANGERS times as much for all of these together. What was on
its way to a life before this one comes over a new connection, before any HELLO: hundreds of frames."""
STRANGERS: Final = 64

FRAME_COST: Final = 4096
"""Of a frame that brought nothing, beside its length."""
PING_COST: Final = 4096
GRANT_COST: Final = 256
"""Of an ACK that acknowledges nothing new."""
LANE_COST: Final = 2048
"""Of a lane that was not known."""
VOID_COST: Final = 1024
"""Of a frame of voids alone."""
HELLO_COST: Final = 64 << 10
"""It draws a WELCOME, which tells of every lane."""
SESSION_COST: Final = 256 << 10
"""Every lane begins anew."""
ENTRY_COST: Final = 64
"""Of a withdrawal of what did not come yet, and of each range of a settlement that ends nothing."""
STATE_COST: Final = 32
"""Of each thing that a STATE says."""

MOST_PEERS: Final = 10_000
"""That a peer which accepts any peer gets to know by being told their names; those named in `peers` count too."""
MOST_SESSIONS: Final = 32
"""Of one peer at a time. There is one for each side that dials, and for a while those of connections made anew."""
MOST_LANES: Final = 4096
"""Of one store of a peer: two for each queue, one of them for delayed messages."""
MOST_GONE_STORES: Final = 4
"""Stores of a peer that are gone and of which lanes that hold nothing are remembered, to know one that comes back."""
MOST_TOMBSTONES: Final = 1_000_000
"""Of one peer. An honest one withdraws what is on its way, which is what it was granted."""
MOST_UNHEARD: Final = 65_536
"""Control entries that a peer has not acknowledged and is still taken messages from: each may settle some of them."""
STORES_PER_HOUR: Final = 60
"""How often a peer may come with another store, or an old copy. Each costs a look at all that is between the two."""

REPORTS: Final = 20
REPORTS_PER_S: Final = 1
"""Lines in the log about malformed frames, refusals and limits of one peer, each; all of them are counted."""

_MOST_DEBT_US: Final = 2_000_000


class Bucket:
    """Tokens that come back with time: `burst` of them at first, and again `per_s` in a second, up to `burst`.

    Kept as one number, the time at which it is full again (the virtual scheduling of ITU-T I.371).
    """

    __slots__ = ("_burst_us", "_us_each", "full_at_us")

    def __init__(self, per_s: float, burst: float) -> None:
        self._us_each = 1e6 / per_s
        self._burst_us = burst * self._us_each
        self.full_at_us = -(2.0**62)

    def is_empty(self, now_us: int) -> bool:
        """Whether not one token is left."""
        return self.full_at_us - now_us > self._burst_us - self._us_each

    def left(self, now_us: int) -> float:
        """How many tokens there are; negative if more were taken than there were."""
        return (self._burst_us - max(0.0, self.full_at_us - now_us)) / self._us_each

    def take(self, now_us: int, tokens: float = 1) -> None:
        """Take so many, if need be more than there are: then there are none for a while, at most two seconds longer."""
        full_at_us = max(self.full_at_us, now_us) + tokens * self._us_each
        self.full_at_us = min(full_at_us, now_us + self._burst_us + max(_MOST_DEBT_US, self._us_each))

    def take_one(self, now_us: int) -> bool:
        """Take one if there is one; whether there was."""
        if self.is_empty(now_us):
            return False
        self.take(now_us)
        return True


def windows(window_bytes: int) -> float:
    """How many times wider than the default a window is, at least 1."""
    return max(1.0, window_bytes / WINDOW_BYTES)


def new_allowance(window_bytes: int) -> Bucket:
    """That of a peer, in bytes."""
    scale = windows(window_bytes)
    return Bucket(ALLOWANCE_BYTES_PER_S * scale, ALLOWANCE_BYTES * scale)


def new_patience(window_bytes: int) -> Buckets:
    """That with those who go on though their allowance is used up, in bytes."""
    scale = windows(window_bytes)
    return Buckets(PATIENCE_BYTES_PER_S * scale, PATIENCE_BYTES * scale)


class Buckets:
    """A bucket for each of many, known by anything; of those who come and go only so many are remembered."""

    _MOST_KNOWN = 4096

    def __init__(self, per_s: float, burst: float) -> None:
        self._size = per_s, burst
        self._buckets: dict[Hashable, Bucket] = {}

    def known(self, key: Hashable) -> Bucket | None:
        """That of a key which has taken something."""
        return self._buckets.get(key)

    def of(self, key: Hashable) -> Bucket:
        """That of a key; the one known longest makes room."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._MOST_KNOWN:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = Bucket(*self._size)
        return bucket

    def take_one(self, key: Hashable, now_us: int) -> bool:
        """Take one token of a key if there is one; whether there was."""
        return self.of(key).take_one(now_us)

    def use_up(self, key: Hashable, now_us: int, tokens: float) -> bool:
        """Take so many of a key's; True if it has none left. Then it begins anew."""
        bucket = self.of(key)
        bucket.take(now_us, tokens)
        if not bucket.is_empty(now_us):
            return False
        self.forget(key)
        return True

    def forget(self, key: Hashable) -> None:
        """It is gone."""
        self._buckets.pop(key, None)


class Strangers:
    """Allowances of those who have not said who they are: each has its own, and there is one for all together.

    They are known by their links, or by whose keys they have, however many links those make.
    """

    def __init__(self) -> None:
        self._all = Bucket(STRANGER_BYTES_PER_S * STRANGERS, STRANGER_BYTES * STRANGERS)
        self._each = Buckets(STRANGER_BYTES_PER_S, STRANGER_BYTES)

    def must_wait(self, who: Hashable, now_us: int) -> bool:
        """Whether they are not to be heard now."""
        own = self._each.known(who)
        return self._all.is_empty(now_us) or (own is not None and own.is_empty(now_us))

    def charge(self, who: Hashable, now_us: int, size: int) -> None:
        """They sent a frame with a header of so many bytes; nobody looked at what else was in it."""
        for bucket in (self._all, self._each.of(who)):
            bucket.take(now_us, size + FRAME_COST)

    def forget(self, who: Hashable) -> None:
        """They have said who they are."""
        self._each.forget(who)
