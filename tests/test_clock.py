"""The clocks: what a store clock reading is after a restart, a step of the wall clock and a suspend."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from zmqrel.runtime.clock import Clock

NOON = datetime(2024, 5, 17, 12, 0, 0, tzinfo=timezone.utc)
NOON_S = NOON.timestamp()
NOON_US = int(NOON_S) * 1_000_000


class Sources:
    """A wall clock and the two sources, moved by hand. `boot` and `mono` are seconds."""

    def __init__(self, wall: float = NOON_S) -> None:
        self.wall = wall
        self.mono = 50.0
        self.boot = 70.0

    def clock(self, persisted_us: int = 0, persisted_wall_us: int = 0, boot_ahead_us: int | None = None) -> Clock:
        return Clock(
            lambda: self.wall,
            persisted_us,
            persisted_wall_us,
            boot_ahead_us=boot_ahead_us,
            mono_ns=lambda: int(self.mono * 1e9),
            boot_ns=lambda: int(self.boot * 1e9),
        )

    def run(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds
        self.boot += seconds


def test_a_new_store_starts_at_the_wall_clock() -> None:
    sources = Sources()
    assert sources.clock().now() == (50_000_000, NOON_US)


def test_readings_are_named_and_in_microseconds() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.run(1.5)
    now = clock.now()
    assert (now.mono_us, now.store_us) == (51_500_000, NOON_US + 1_500_000)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_step_of_the_wall_clock_changes_nothing_that_runs(step_s: float) -> None:
    sources = Sources()
    clock = sources.clock()
    before = clock.now()
    sources.wall += step_s
    assert clock.now() == before


def test_a_suspend_counts_on_the_store_clock_only() -> None:
    sources = Sources()
    clock = sources.clock()
    sources.boot += 600.0
    assert clock.now() == (50_000_000, NOON_US + 600_000_000)


def test_a_restart_adds_what_the_wall_clock_says_has_passed() -> None:
    sources = Sources(wall=NOON_S + 90)
    assert sources.clock(1_000_000, NOON_US).now().store_us == 91_000_000


def test_a_wall_clock_set_back_while_closed_adds_nothing() -> None:
    sources = Sources(wall=NOON_S - 90)
    assert sources.clock(1_000_000, NOON_US).now().store_us == 1_000_000


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_within_one_boot_a_restart_does_not_ask_the_wall_clock(jump_s: int) -> None:
    sources = Sources()
    before = sources.clock()
    sources.run(90)
    sources.wall += jump_s
    after = sources.clock(NOON_US + 5, NOON_US + 5, before.boot_ahead_us)
    assert after.now() == before.now()
    assert after.boot_ahead_us == before.boot_ahead_us


def test_the_store_clock_does_not_go_back_whatever_was_noted() -> None:
    sources = Sources()
    assert sources.clock(1_000_000, NOON_US, -(10**15)).now().store_us == 1_000_000


def test_a_store_first_opened_at_wall_zero_goes_on_from_there() -> None:
    sources = Sources(wall=8.0)
    assert sources.clock(5_000_000, 0).now().store_us == 13_000_000


def test_the_wall_clock_in_microseconds() -> None:
    assert Sources(wall=NOON_S + 0.25).clock().wall_us() == NOON_US + 250_000


def test_store_readings_are_shown_by_the_present_wall_clock() -> None:
    sources = Sources()
    clock = sources.clock(1_000_000, NOON_US)
    at = clock.to_wall_datetime(31_000_000)
    assert at == NOON + timedelta(seconds=30)
    assert at.utcoffset() == timedelta(0)
    sources.wall += 3600
    assert clock.to_wall_datetime(31_000_000) == NOON + timedelta(seconds=3630)


@pytest.mark.parametrize("far_us", [10**18, -(10**18)])
def test_readings_beyond_what_datetime_holds_are_cut(far_us: int) -> None:
    shown = Sources().clock().to_wall_datetime(far_us)
    assert shown.replace(tzinfo=None) in (datetime.min, datetime.max)
    assert shown.tzinfo is timezone.utc


def test_posix_seconds_become_store_readings_and_back() -> None:
    sources = Sources()
    clock = sources.clock(1_000_000, NOON_US)
    assert clock.from_posix(NOON_S + 2.5) == 3_500_000
    assert clock.to_wall_datetime(clock.from_posix(NOON_S + 2.5)) == NOON + timedelta(seconds=2.5)


def test_a_reading_is_shown_as_the_same_time_whatever_the_moment_between_two_clocks() -> None:
    sources = Sources()
    clock = sources.clock()
    shown = clock.to_wall_datetime(NOON_US)
    sources.wall += 0.0009
    assert clock.to_wall_datetime(NOON_US) == shown
    assert clock.from_posix(shown.timestamp()) == NOON_US
    sources.wall += 0.0009
    assert clock.to_wall_datetime(NOON_US) == shown + timedelta(microseconds=1800)


def test_readings_of_the_real_sources_never_go_back() -> None:
    clock = Clock(time.time)
    readings = [clock.now() for _ in range(10_000)]
    assert readings == sorted(readings)
    assert [now.store_us for now in readings] == sorted(now.store_us for now in readings)
    assert abs(clock.now().store_us - clock.wall_us()) < 60_000_000


@pytest.mark.parametrize("missing", [("CLOCK_BOOTTIME",), ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC")])
def test_systems_without_a_boot_time_clock(missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in missing:
        monkeypatch.delattr(time, name, raising=False)
    clock = Clock(time.time)
    assert clock.now() <= clock.now()
