"""What every store does: its rows, its ranges, its transactions, and what happens when it is full."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.store.conftest import MIB, MakeStore
from zmqrel.core.storage import Row, Store
from zmqrel.errors import StoreFull
from zmqrel.store import LmdbStore, MemoryStore

ALL = 10**9


def rows(*keys: bytes) -> list[Row]:
    return [(key, b"value of " + key) for key in keys]


def everything(store: Store) -> list[Row]:
    return store.scan(b"\x01", b"\xff" * 511, ALL)


def test_a_row_is_read_before_and_after_its_commit(store: Store) -> None:
    store.put(b"\x10a", b"1")
    assert store.get(b"\x10a") == b"1"
    assert store.commit()
    assert store.get(b"\x10a") == b"1"
    assert store.get(b"\x10b") is None


def test_a_put_overwrites(store: Store) -> None:
    store.put(b"\x10a", b"1")
    store.put(b"\x10a", b"")
    store.put_many([(b"\x10a", b"2"), (b"\x10b", b"3")])
    assert everything(store) == [(b"\x10a", b"2"), (b"\x10b", b"3")]


def test_a_delete_says_whether_there_was_anything(store: Store) -> None:
    store.put(b"\x10a", b"")
    assert store.delete(b"\x10a")
    assert not store.delete(b"\x10a")
    assert store.get(b"\x10a") is None


def test_values_of_no_bytes_and_of_many(store: Store) -> None:
    store.put(b"\x10empty", b"")
    store.put(b"\x10large", b"x" * 3 * MIB)
    store.commit()
    assert store.get(b"\x10empty") == b""
    assert store.get(b"\x10large") == b"x" * 3 * MIB


def test_ranges_hold_their_first_key_and_not_their_end(store: Store) -> None:
    store.put_many(rows(b"\x10a", b"\x10b", b"\x10c", b"\x10d"))
    assert store.scan(b"\x10b", b"\x10d", ALL) == rows(b"\x10b", b"\x10c")
    assert store.keys(b"\x10b", b"\x10d", ALL) == [b"\x10b", b"\x10c"]
    assert store.scan_back(b"\x10b", b"\x10d", ALL) == rows(b"\x10c", b"\x10b")
    assert store.pop(b"\x10b", b"\x10d", ALL) == rows(b"\x10b", b"\x10c")
    assert everything(store) == rows(b"\x10a", b"\x10d")


def test_ranges_whose_ends_are_no_keys(store: Store) -> None:
    store.put_many(rows(b"\x10b", b"\x10d"))
    assert store.scan(b"\x10a", b"\x10c", ALL) == rows(b"\x10b")
    assert store.scan_back(b"\x10c", b"\x10e", ALL) == rows(b"\x10d")
    assert store.scan_back(b"\x10", b"\x11", ALL) == rows(b"\x10d", b"\x10b")
    assert store.scan(b"\x10e", b"\x10f", ALL) == []
    assert store.scan_back(b"\x10e", b"\x10f", ALL) == []
    assert store.scan_back(b"\x02", b"\x03", ALL) == []
    assert store.pop(b"\x11", b"\x12", ALL) == []


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_no_more_rows_than_the_limit(store: Store, limit: int) -> None:
    all_rows = rows(b"\x10a", b"\x10b", b"\x10c")
    store.put_many(all_rows)
    assert store.scan(b"\x10", b"\x11", limit) == all_rows[:limit]
    assert store.keys(b"\x10", b"\x11", limit) == [key for key, _ in all_rows[:limit]]
    assert store.scan_back(b"\x10", b"\x11", limit) == all_rows[::-1][:limit]
    assert store.pop(b"\x10", b"\x11", limit) == all_rows[:limit]
    assert everything(store) == all_rows[limit:]


def test_an_empty_store(store: Store) -> None:
    assert everything(store) == []
    assert store.scan_back(b"\x01", b"\xff", ALL) == []
    assert store.previous == "new"
    assert store.set_aside is None


def test_rows_stay_as_they_were_read(store: Store) -> None:
    store.put(b"\x10a", b"1")
    read = store.scan(b"\x10", b"\x11", ALL)
    store.put(b"\x10a", b"2")
    store.commit()
    assert read == [(b"\x10a", b"1")]


def test_commit_tells_whether_anything_was_written(store: Store) -> None:
    assert not store.commit()
    store.get(b"\x10a")
    store.put_many([])
    store.delete(b"\x10a")
    store.pop(b"\x10", b"\x11", ALL)
    assert not store.commit()
    store.put(b"\x10a", b"")
    assert store.commit()
    store.pop(b"\x10", b"\x11", ALL)
    assert store.commit()
    assert not store.commit()


def test_abort_brings_back_the_last_commit(store: Store) -> None:
    store.put_many(rows(b"\x10a", b"\x10b", b"\x10c"))
    store.commit()
    store.put(b"\x10a", b"other")
    store.delete(b"\x10b")
    store.pop(b"\x10c", b"\x10d", ALL)
    store.put_many(rows(b"\x10e"))
    store.abort()
    assert everything(store) == rows(b"\x10a", b"\x10b", b"\x10c")
    assert not store.commit()


def test_flush_keeps_commits_and_forgets_what_is_open(store: Store) -> None:
    store.put(b"\x10a", b"1")
    store.commit()
    store.put(b"\x10b", b"2")
    store.flush()
    assert everything(store) == [(b"\x10a", b"1")]


@pytest.mark.parametrize("key", [b"", b"k" * 512])
@pytest.mark.parametrize("write", [lambda s, k: s.put(k, b""), lambda s, k: s.put_many([(b"\x20", b""), (k, b"")])])
def test_keys_of_wrong_length_are_refused(store: Store, key: bytes, write: Callable[[Store, bytes], None]) -> None:
    store.put(b"\x10", b"")
    with pytest.raises(ValueError, match="1 to 511 bytes"):
        write(store, key)
    assert everything(store) == []


def test_the_longest_and_the_shortest_key(store: Store) -> None:
    store.put_many([(b"\x01", b"short"), (b"\x10" * 511, b"long")])
    store.commit()
    assert store.get(b"\x10" * 511) == b"long"
    assert store.get(b"\x01") == b"short"


def fill(store: Store, numbers: count[int], value_bytes: int) -> int:
    """Commit turns of a few rows in two tables until one is refused; how many were taken."""
    taken = 0
    while True:
        try:
            for _ in range(4):
                number = next(numbers).to_bytes(8, "big")
                store.put(b"\x10" + number, bytes(value_bytes))
                store.put(b"\x12" + number[::-1], number)
            store.commit()
        except StoreFull:
            return taken
        taken += 1


def drain(store: Store) -> int:
    """Settle everything in small turns, each of which also writes; how many turns that took."""
    for turn in count():
        popped = store.pop(b"\x10", b"\x11", 4)
        if not popped:
            return turn
        for key, _ in popped:
            assert store.delete(b"\x12" + key[:0:-1])
        store.put(b"\x20outcomes", turn.to_bytes(8, "big"))
        store.commit()
    raise AssertionError


@pytest.mark.parametrize("value_bytes", [50, 3_000, 40_000])
def test_full_it_refuses_then_empties_then_takes_again(make_store: MakeStore, value_bytes: int) -> None:
    store = make_store(MIB)
    numbers = count()
    taken = []
    for _ in range(3):
        taken.append(fill(store, numbers, value_bytes))
        store.set_growing(False)
        assert drain(store) == taken[-1]
        assert store.room()
        store.set_growing(True)
    assert min(taken) > 0.6 * max(taken)


def test_a_full_store_keeps_what_it_took(make_store: MakeStore) -> None:
    store = make_store(MIB)
    taken = fill(store, count(), 3_000)
    assert not store.room()
    assert len(store.keys(b"\x10", b"\x11", ALL)) == taken * 4
    assert len(store.keys(b"\x12", b"\x13", ALL)) == taken * 4


def test_a_full_store_that_grows_takes_turns_that_do_not(make_store: MakeStore) -> None:
    store = make_store(MIB)
    fill(store, count(), 3_000)
    store.pop(b"\x10", b"\x11", 20)
    assert store.commit()


def test_it_says_when_half_of_the_headroom_is_gone(make_store: MakeStore) -> None:
    store = make_store(MIB)
    numbers = count()
    fill(store, numbers, 3_000)
    store.set_growing(False)
    assert not store.scarce()
    written = 0
    while not store.scarce():
        store.put(b"\x13" + next(numbers).to_bytes(8, "big"), bytes(1_000))
        store.commit()
        written += 1
    assert written >= 10
    for _ in range(written // 4):  # what makes room may need some first
        store.put(b"\x13" + next(numbers).to_bytes(8, "big"), bytes(1_000))
        store.commit()
    drain(store)
    assert not store.scarce()


def test_one_turn_beyond_all_room(make_store: MakeStore) -> None:
    store = make_store(MIB)
    store.put(b"\x10a", b"1")
    store.commit()
    with pytest.raises(StoreFull, match="full.*settle or recall messages"):
        store.put_many([(b"\x11" + n.to_bytes(8, "big"), bytes(10_000)) for n in range(200)])
    assert everything(store) == [(b"\x10a", b"1")]
    store.put(b"\x10b", b"2")
    assert store.commit()


KEYS = st.binary(min_size=1, max_size=3).map(lambda tail: b"\x10" + tail) | st.integers(0, 40).map(
    lambda n: b"\x10" + n.to_bytes(2, "big")
)
VALUES = st.binary(max_size=6) | st.integers(0, 9_000).map(bytes)
LIMITS = st.integers(0, 4) | st.just(ALL)


class AgainstADict(RuleBasedStateMachine):
    """A store and a dict do the same things; each commit is copied, for aborts and for deaths of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.dict: dict[bytes, bytes] = {}
        self.committed: dict[bytes, bytes] = {}
        self.store = self.open_store()

    def open_store(self) -> Store:
        raise NotImplementedError

    def reopen(self, clean: bool) -> None:
        raise NotImplementedError

    def range(self, first: bytes, end: bytes) -> list[Row]:
        return sorted((key, value) for key, value in self.dict.items() if first <= key < end)

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self.store.put(key, value)
        self.dict[key] = value

    @rule(some=st.dictionaries(KEYS, VALUES, max_size=30))
    def put_many(self, some: dict[bytes, bytes]) -> None:
        self.store.put_many(sorted(some.items()))
        self.dict.update(some)

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        assert self.store.delete(key) == (self.dict.pop(key, None) is not None)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.store.get(key) == self.dict.get(key)

    @rule(first=KEYS, end=KEYS, limit=LIMITS)
    def read(self, first: bytes, end: bytes, limit: int) -> None:
        expected = self.range(first, end)
        assert self.store.scan(first, end, limit) == expected[:limit]
        assert self.store.keys(first, end, limit) == [key for key, _ in expected[:limit]]
        assert self.store.scan_back(first, end, limit) == expected[::-1][:limit]

    @rule(first=KEYS, end=KEYS, limit=LIMITS)
    def pop(self, first: bytes, end: bytes, limit: int) -> None:
        expected = self.range(first, end)[:limit]
        assert self.store.pop(first, end, limit) == expected
        for key, _ in expected:
            del self.dict[key]

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.committed = dict(self.dict)

    @rule()
    def abort(self) -> None:
        self.store.abort()
        self.dict = dict(self.committed)

    @precondition(lambda self: self.dict == self.committed)
    @rule()
    def flush(self) -> None:
        self.store.flush()

    @rule(clean=st.booleans())
    def end_a_life(self, clean: bool) -> None:
        self.reopen(clean)
        self.dict = dict(self.committed)
        assert self.store.previous == ("clean" if clean else "crashed")

    @rule()
    def compare(self) -> None:
        assert everything(self.store) == sorted(self.dict.items())

    def teardown(self) -> None:
        self.compare()
        self.store.close()


class MemoryAgainstADict(AgainstADict):
    def open_store(self) -> Store:
        return MemoryStore(durability="relaxed")

    def reopen(self, clean: bool) -> None:
        self.store.close(clean)


class LmdbAgainstADict(AgainstADict):
    durability = "fsync"

    def open_store(self) -> Store:
        self.directory = tempfile.TemporaryDirectory()
        return LmdbStore(self.directory.name, durability=self.durability)

    def reopen(self, clean: bool) -> None:
        self.store.close(clean)
        self.store = LmdbStore(self.directory.name, durability=self.durability)

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


class RelaxedLmdbAgainstADict(LmdbAgainstADict):
    durability = "relaxed"


@pytest.mark.parametrize("machine", [MemoryAgainstADict, LmdbAgainstADict, RelaxedLmdbAgainstADict])
def test_against_a_dict(machine: type[AgainstADict]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=30, stateful_step_count=40, deadline=None, database=None),
    )
