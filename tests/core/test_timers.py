"""Timers against the simplest thing that could be right: a dict of key to time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqrel.core.timers import Timers

KEYS = st.sampled_from(["a", ("b", 1), 3])
TIMES = st.integers(0, 50)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, TIMES),
        st.tuples(st.just("set_earlier"), KEYS, TIMES),
        st.tuples(st.just("cancel"), KEYS, TIMES),
        st.tuples(st.just("due"), st.just("a"), TIMES),
    ),
    max_size=60,
)


@given(STEPS)
def test_a_key_comes_up_once_at_its_time_and_earliest_first(steps: list[tuple[str, object, int]]) -> None:
    timers, model = Timers(), dict[object, int]()
    for step, key, at_us in steps:
        if step == "set":
            timers.set(key, at_us)
            model[key] = at_us
        elif step == "set_earlier":
            timers.set_earlier(key, at_us)
            model[key] = min(at_us, model.get(key, at_us))
        elif step == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            due = timers.due(at_us)
            expected = {key: at for key, at in model.items() if at <= at_us}
            assert set(due) == set(expected)
            assert len(due) == len(expected)
            times = [expected[key] for key in due]
            assert times == sorted(times)
            model = {key: at for key, at in model.items() if at > at_us}
        assert all(timers.is_set(key) == (key in model) for key in ["a", ("b", 1), 3])
        assert timers.next_us == min(model.values(), default=None)


def test_a_timer_moved_for_ever_leaves_nothing_behind() -> None:
    timers = Timers()
    for now_us in range(0, 10_000, 10):
        timers.set("resend", now_us + 100)
        timers.set("resend", now_us + 5)
        timers.set("resend", now_us + 100)
        timers.due(now_us)
    timers.due(20_000)
    assert timers.next_us is None
    assert timers.due(10**9) == []


def test_asking_for_the_next_time_changes_nothing() -> None:
    timers = Timers()
    timers.set("a", 5)
    assert [timers.next_us for _ in range(3)] == [5, 5, 5]
    assert timers.due(4) == []
    assert timers.due(5) == ["a"]
