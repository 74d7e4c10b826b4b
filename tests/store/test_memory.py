"""What the store in memory does for the simulator, and the sorted keys that it is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqrel.errors import StoreFull
from zmqrel.store import MemoryStore, sorted_keys
from zmqrel.store.sorted_keys import SortedKeys


def a_store(durability: str = "fsync") -> MemoryStore:
    store = MemoryStore(durability=durability)
    store.put_many([(b"\x10a", b"1"), (b"\x10b", b"2")])
    store.commit()
    return store


def everything(store: MemoryStore) -> dict[bytes, bytes]:
    return dict(store.scan(b"\x01", b"\xff", 10**9))


def test_a_snapshot_holds_what_is_committed_and_stays_so() -> None:
    store = a_store()
    store.delete(b"\x10a")
    store.put(b"\x10b", b"other")
    store.put(b"\x10c", b"3")
    snapshot = store.snapshot()
    store.commit()
    assert everything(snapshot) == {b"\x10a": b"1", b"\x10b": b"2"}
    snapshot.put(b"\x10d", b"4")
    snapshot.commit()
    assert everything(store) == {b"\x10b": b"other", b"\x10c": b"3"}


def test_restore_brings_back_an_old_copy() -> None:
    store = a_store()
    snapshot = store.snapshot()
    store.pop(b"\x10", b"\x11", 10)
    store.put(b"\x10c", b"3")
    store.commit()
    store.put(b"\x10d", b"open")
    store.restore(snapshot)
    assert everything(store) == {b"\x10a": b"1", b"\x10b": b"2"}
    store.put(b"\x10e", b"5")
    store.abort()
    assert everything(store) == everything(snapshot)


def test_power_loss_goes_back_to_the_last_flush() -> None:
    store = a_store("relaxed")
    store.flush()
    store.put(b"\x10a", b"other")
    store.commit()
    store.delete(b"\x10a")
    store.put(b"\x10c", b"3")
    store.commit()
    store.put(b"\x10d", b"open")
    store.lose_unflushed()
    assert everything(store) == {b"\x10a": b"1", b"\x10b": b"2"}
    assert store.previous == "rebooted"


def test_power_loss_takes_no_commit_of_fsync() -> None:
    store = a_store("fsync")
    store.put(b"\x10c", b"open")
    store.lose_unflushed()
    assert everything(store) == {b"\x10a": b"1", b"\x10b": b"2"}


def test_damage_is_seen_and_stays() -> None:
    store = a_store()
    store.damage(b"\x10a")
    assert store.get(b"\x10a") == b"\xce"
    store.abort()
    assert store.get(b"\x10a") == b"\xce"
    with pytest.raises(KeyError):
        store.damage(b"\x10z")


def test_lives_end_as_they_are_told() -> None:
    store = a_store("relaxed")
    assert store.previous == "new"
    store.close()
    assert store.previous == "clean"
    store.put(b"\x10c", b"3")
    store.close(clean=False)
    assert store.previous == "crashed"
    assert everything(store) == {b"\x10a": b"1", b"\x10b": b"2"}
    store.previous = "rebooted"


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 60))),
    first=st.integers(0, 60),
    end=st.integers(0, 60),
    limit=st.integers(0, 70),
)
def test_sorted_keys_in_lists_of_four(steps: list[tuple[bool, int]], first: int, end: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as small:
        small.setattr(sorted_keys, "_MOST", 4)
        keys, model = SortedKeys(), set[bytes]()
        for adding, number in steps:
            key = bytes([number])
            if adding and key not in model:
                keys.add(key)
                model.add(key)
            elif not adding and key in model:
                keys.remove(key)
                model.remove(key)
        expected = sorted(key for key in model if bytes([first]) <= key < bytes([end]))
        assert list(keys) == sorted(model)
        assert list(SortedKeys(sorted(model))) == sorted(model)
        assert keys.take(bytes([first]), bytes([end]), limit) == expected[:limit]
        assert keys.take_back(bytes([first]), bytes([end]), limit) == expected[::-1][:limit]
        assert all(1 <= len(chunk) <= 4 for chunk in keys._chunks)


def test_a_hundred_thousand_keys_come_and_go_in_lists_of_bounded_length() -> None:
    keys = SortedKeys()
    numbers = [n.to_bytes(4, "big") for n in range(100_000)]
    for number in numbers:
        keys.add(number)
    assert len(keys._chunks) < 100
    for number in numbers:
        assert len(keys._chunks[0]) <= 2_048
        keys.remove(number)
    assert list(keys) == []


def test_a_store_that_was_full_keeps_its_headroom_again_in_its_next_life() -> None:
    store = MemoryStore(capacity=1000)
    store.set_growing(False)
    store.close(clean=False)
    store.put(b"\x10a", bytes(950))
    with pytest.raises(StoreFull, match="full"):
        store.commit()
