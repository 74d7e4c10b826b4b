"""The clocks: one reading of them for the core, and the way between the store clock and the wall clock.

The store clock advances with the boot-time clock. While the machine has not been started anew, that clock goes on
from one life of the store to the next, and the store clock with it. After a boot it starts where the last life left it,
plus what the wall clock says has passed since. Otherwise the wall clock is read when a time is shown to or taken from
a person; no step of it touches what is running, nor what is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Final

from zmqrel.core.times import Now

__all__ = ["Clock"]

_STEP_US: Final = 1000
"""What the wall clock may have moved against the store clock without being followed."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST_US: Final = (datetime.min.replace(tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND
_LAST_US: Final = (datetime.max.replace(tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND


def _boot_clock() -> Callable[[], int]:
    """The reader, in nanoseconds, of the clock that never steps and counts suspend, or of the nearest to it."""
    clock_id: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if clock_id is None:
        # Where there is no boot-time clock, CLOCK_MONOTONIC is the nearest: on macOS it counts suspend, which
        # time.monotonic() does not.
        clock_id = getattr(time, "CLOCK_MONOTONIC", None)
    if clock_id is None:
        return time.monotonic_ns
    return partial(time.clock_gettime_ns, clock_id)


class Clock:
    """The clocks of one opened store, for any thread."""

    __slots__ = ("_ahead_us", "_boot_ns", "_mono_ns", "_offset_us", "_wall")

    def __init__(
        self,
        wall: Callable[[], float],
        persisted_us: int = 0,
        persisted_wall_us: int = 0,
        *,
        boot_ahead_us: int | None = None,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        boot_ns: Callable[[], int] | None = None,
    ) -> None:
        """Start the store clock from what the store remembers.

        `wall` reads the wall clock in POSIX seconds. `persisted_us` and `persisted_wall_us` are the last
        store clock reading that was committed and the wall clock at that instant, in microseconds; both 0 for
        a new store, whose clock starts at the wall clock so that its readings mean something to a person. A
        wall clock that was set back while the store was closed adds nothing. `boot_ahead_us` is what the life before
        had as `boot_ahead_us`, if this is the boot of the machine in which that was: then the wall clock is not asked.
        `mono_ns` and `boot_ns` read the
        sources that never step, in nanoseconds; other ones are for tests.
        """
        self._wall = wall
        self._mono_ns = mono_ns
        self._boot_ns = _boot_clock() if boot_ns is None else boot_ns
        start_us = self.wall_us()
        if boot_ahead_us is not None:
            start_us = max(persisted_us, self._boot_ns() // 1000 + boot_ahead_us)
        elif persisted_us or persisted_wall_us:
            start_us = persisted_us + max(0, start_us - persisted_wall_us)
        # Readings are a constant plus a source that never goes back: no lock, no memory of the last one.
        self._offset_us = start_us - self._boot_ns() // 1000
        self._ahead_us = self.wall_us() - self.store_us()

    @property
    def boot_ahead_us(self) -> int:
        """How far the store clock is ahead of the boot-time clock, in microseconds; it stays so."""
        return self._offset_us

    def now(self) -> Now:
        """Both clocks, in microseconds."""
        return Now(self._mono_ns() // 1000, self._boot_ns() // 1000 + self._offset_us)

    def wall_us(self) -> int:
        """The wall clock, in microseconds since 1970; it may have been stepped since the last reading."""
        return round(self._wall() * 1_000_000)

    def to_wall_datetime(self, store_us: int) -> datetime:
        """The instant `store_us` of the store clock as an aware UTC datetime, by what the wall clock says
        now.

        A reading beyond what datetime holds gives the first or last instant that it holds.
        """
        posix_us = store_us + self._wall_ahead_us()
        return _EPOCH + _MICROSECOND * min(max(posix_us, _FIRST_US), _LAST_US)

    def from_posix(self, posix_s: float) -> int:
        """The store clock reading, in microseconds, at the wall clock's `posix_s` seconds since 1970, as it
        is now."""
        return round(posix_s * 1_000_000) - self._wall_ahead_us()

    def _wall_ahead_us(self) -> int:
        """How far the wall clock is ahead of the store clock now.

        The two cannot be read at one instant. So that the same reading is shown as the same time whenever it is asked
        for, and comes back as itself, a difference that a step or a drift does not explain is not followed.
        """
        ahead_us = self.wall_us() - self.store_us()
        if abs(ahead_us - self._ahead_us) >= _STEP_US:
            self._ahead_us = ahead_us
        return self._ahead_us

    def store_us(self) -> int:
        """The store clock alone, in microseconds."""
        return self._boot_ns() // 1000 + self._offset_us
