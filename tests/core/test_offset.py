"""How far another clock is: the NTP rule, whatever the network does to the readings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqrel.core.offset import ClockOffset

DELAYS = st.integers(0, 10_000_000)
OFFSETS = st.integers(-(10**12), 10**12)
START_US = 1_700_000_000_000_000


def exchange(
    clock: ClockOffset, offset_us: int, there_us: int, held_us: int, back_us: int, at_us: int = START_US
) -> None:
    """One PING and PONG: `there_us` and `back_us` on the way, `held_us` at the other side."""
    received_there = at_us + there_us + offset_us
    clock.sample(at_us, received_there, received_there + held_us, at_us + there_us + held_us + back_us)


def test_nothing_is_known_before_the_first_exchange() -> None:
    clock = ClockOffset()
    assert clock.offset_us is None
    assert clock.to_local(START_US) is None


@given(OFFSETS, st.lists(st.tuples(DELAYS, DELAYS, DELAYS), min_size=1, max_size=20))
def test_the_error_is_at_most_half_of_the_best_round_trip(offset_us: int, delays: list[tuple[int, int, int]]) -> None:
    clock = ClockOffset()
    for there_us, held_us, back_us in delays:
        exchange(clock, offset_us, there_us, held_us, back_us)
    kept = delays[-8:]
    best_us = min(there + back for there, _, back in kept)
    assert clock.offset_us is not None
    # One microsecond for the halves that integers do not have, and the drift allowed for while samples were taken.
    allowed_us = best_us // 2 + 1 + 200 * 30 * 8
    assert abs(clock.offset_us - offset_us) <= allowed_us


@given(OFFSETS, DELAYS)
def test_one_exchange_alone_is_right_to_half_of_its_round_trip(offset_us: int, delay_us: int) -> None:
    one_way, other_way = ClockOffset(), ClockOffset()
    exchange(one_way, offset_us, delay_us, 5, 0)
    exchange(other_way, offset_us, 0, 5, delay_us)
    for clock in (one_way, other_way):
        assert clock.offset_us is not None
        assert abs(clock.offset_us - offset_us) <= delay_us // 2 + 1
        assert clock.error_us == delay_us // 2


def test_a_reading_that_waited_in_a_socket_does_not_spoil_a_good_one() -> None:
    clock = ClockOffset()
    exchange(clock, 1_000_000, 100, 0, 100)
    exchange(clock, 1_000_000, 100, 0, 3_600_000_000, START_US + 1_000_000)
    assert clock.offset_us == 1_000_000


def test_time_spent_at_the_other_side_costs_no_accuracy() -> None:
    clock = ClockOffset()
    exchange(clock, -7_000_000, 50, 60_000_000, 50)
    assert clock.offset_us == -7_000_000
    assert clock.error_us == 50


def test_an_old_sample_gives_way_once_drift_could_have_spoilt_it() -> None:
    clock = ClockOffset()
    exchange(clock, 0, 100, 0, 100)
    exchange(clock, 500, 300, 0, 300, START_US + 1_000_000)
    assert clock.offset_us == 0, "a second of drift is not worth a sample three times as bad"
    clock = ClockOffset()
    exchange(clock, 0, 100, 0, 100)
    exchange(clock, 500, 300, 0, 300, START_US + 600 * 1_000_000)
    assert clock.offset_us == 500


def test_readings_that_cannot_be_are_dropped() -> None:
    clock = ClockOffset(persisted_us=42)
    clock.sample(START_US, START_US, START_US, START_US - 1)  # received before it was sent
    clock.sample(START_US, START_US, START_US + 1000, START_US + 500)  # longer there than under way
    clock.sample(2**64 - 1, 0, 2**64 - 1, START_US)
    assert clock.offset_us == 42


def test_the_last_estimate_holds_until_a_new_life_of_the_peer_was_measured() -> None:
    clock = ClockOffset()
    exchange(clock, 1000, 1, 0, 1)
    clock.forget_samples()
    assert clock.offset_us == 1000
    exchange(clock, 9_000_000, 500, 0, 500)
    assert clock.offset_us == 9_000_000


def test_their_times_are_told_by_our_clock() -> None:
    clock = ClockOffset()
    exchange(clock, 3_600_000_000, 10, 0, 10)
    assert clock.to_local(START_US + 3_600_000_000) == START_US
