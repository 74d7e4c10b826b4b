"""The in-hand table: what it holds outlives the process, and what is wrong in it is left out."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from threading import Barrier, Thread

import pytest

from tests.store.processes import Child
from zmqrel.core.storage import MOST_IN_BLOCK, InHand, InHandTable
from zmqrel.store import InHandFile, MemoryInHand, in_hand

Open = Callable[[], InHandTable]

WORK_FOR_EVER = """
import sys
from zmqrel.store import InHandFile
table = InHandFile(sys.argv[1])
table.open()
table.take(7, 2**64 - 1, 2**32 - 1)
table.done(table.take(2**32 - 1, 8, 1))
table.free(table.take(1, 1, 1))
print("busy", flush=True)
while True:
    slot = table.take(9, 9, 9)
    table.done(slot)
    table.free(slot)
"""


@pytest.fixture(params=["file", "memory"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> InHandTable:
    return InHandFile(tmp_path / "in_hand") if request.param == "file" else MemoryInHand()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in_hand"


def left_in(path: Path) -> set[InHand]:
    table = InHandFile(path)
    left = set(table.open())
    assert not table.damaged
    table.close()
    return left


def test_a_new_table_is_empty(table: InHandTable) -> None:
    assert table.open() == []
    assert not table.damaged


def test_a_table_that_is_not_there_is_not_one_of_this_boot(path: Path) -> None:
    # A store whose process crashed has one: without it nobody knows what was in hand.
    table = InHandFile(path)
    table.open()
    assert not table.boot_matches
    table.close()
    table.open()
    assert table.boot_matches
    table.close()


def test_the_next_life_finds_what_was_not_freed(table: InHandTable) -> None:
    table.open()
    table.take(1, 10, 1)
    table.done(table.take(2, 20, 3))
    table.free(table.take(3, 30, 1))
    table.close()
    assert sorted(table.open()) == [InHand(1, 10, 1, True), InHand(2, 20, 3, False)]
    table.take(4, 40, 1)
    table.close()
    assert len(table.open()) == 3
    table.clear()
    table.close()
    assert table.open() == []
    table.close()


def test_slots_are_used_again(table: InHandTable) -> None:
    table.open()
    slots = [table.take(1, seq, 1) for seq in range(10)]
    assert len(set(slots)) == 10
    for slot in slots:
        table.free(slot)
    again = [table.take(1, seq, 2) for seq in range(5)]
    table.close()
    assert len(again) == len(set(again)) == len(table.open())


def test_the_table_grows_and_keeps_what_it_holds(path: Path) -> None:
    table = InHandFile(path)
    table.open()
    slots = [table.take(5, seq, 1) for seq in range(10_000)]
    assert len(set(slots)) == 10_000
    for slot in slots[::2]:
        table.done(slot)
    for slot in slots[::10]:
        table.free(slot)
    expected = {InHand(5, seq, 1, seq % 2 == 1) for seq in range(10_000) if seq % 10}
    table.close()
    assert left_in(path) == expected


def test_of_neighbours_only_those_count_whose_handler_began(table: InHandTable) -> None:
    table.open()
    slot = table.reserve(7, 100, 5)
    for at in range(3):
        table.running(slot + at)
    table.done(slot)
    table.done(slot + 1)
    table.free(slot + 1)
    table.take(7, 300, 4)
    table.close()
    expected = {InHand(7, 100, 1, False), InHand(7, 102, 1, True), InHand(7, 300, 4, True)}
    assert set(table.open()) == expected
    table.clear()
    table.close()
    assert table.open() == []


def test_room_for_neighbours_is_used_again_once_all_are_given_back(table: InHandTable) -> None:
    table.open()
    blocks = [table.reserve(1, 1000 * number, MOST_IN_BLOCK) for number in range(3)]
    for slot in blocks:
        table.running(slot + 10)
        table.free(slot, 10)
        table.free(slot + 10, MOST_IN_BLOCK - 10)
    table.running(table.reserve(2, 5, 2))
    table.take(3, 6, 1)
    table.close()
    assert set(table.open()) == {InHand(2, 5, 1, True), InHand(3, 6, 1, True)}


def test_a_block_that_was_given_back_serves_single_rows_and_is_read_as_such(path: Path) -> None:
    table = InHandFile(path)
    table.open()
    for _ in range(200):  # more than the table begins with
        slot = table.reserve(1, 1, MOST_IN_BLOCK)
        table.running(slot + 500)
        table.done(slot + 500)
        table.free(slot, MOST_IN_BLOCK)
    size = path.stat().st_size
    for seq in range(500):
        table.take(2, seq, 1)
    table.close()
    assert path.stat().st_size == size, "the same pages served all of them"
    assert left_in(path) == {InHand(2, seq, 1, True) for seq in range(500)}


@pytest.mark.parametrize(("offset", "left"), [(0, []), (12, []), (16, []), (33, [InHand(1, 10, 1, True)])])
def test_a_damaged_block_is_left_out_and_told(path: Path, offset: int, left: list[InHand]) -> None:
    table = InHandFile(path)
    table.open()
    slot = table.reserve(1, 10, 3)
    table.running(slot)
    table.running(slot + 1)
    table.close()
    content = bytearray(path.read_bytes())
    content[slot - 32 + offset] ^= 0xFF
    path.write_bytes(content)
    assert table.open() == left
    assert table.damaged


def test_done_from_other_threads_while_it_grows(path: Path) -> None:
    table = InHandFile(path)
    table.open()
    first = [table.take(1, seq, 1) for seq in range(2_000)]
    workers = [Thread(target=lambda part: [table.done(s) for s in part], args=(first[n::4],)) for n in range(4)]
    for worker in workers:
        worker.start()
    for seq in range(2_000, 50_000):
        table.take(1, seq, 1)
    for worker in workers:
        worker.join()
    table.close()
    assert left_in(path) == {InHand(1, seq, 1, seq >= 2_000) for seq in range(50_000)}


def test_a_killed_process_leaves_its_rows(path: Path) -> None:
    with Child(WORK_FOR_EVER, str(path)) as child:
        assert child.line() == "busy"
    table = InHandFile(path)
    left = table.open()
    assert (table.damaged, table.boot_matches) == (False, True)
    # The kill may have come while the third row was in hand.
    assert {row for row in left if row.lane != 9} == {
        InHand(7, 2**64 - 1, 2**32 - 1, True),
        InHand(2**32 - 1, 8, 1, False),
    }
    assert {(row.seq, row.attempt) for row in left if row.lane == 9} <= {(9, 9)}
    table.close()


def test_another_boot_is_told_until_the_table_is_cleared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = InHandFile(path)
    table.open()
    table.take(1, 1, 1)
    table.close()
    monkeypatch.setattr(in_hand, "boot_id", lambda: "another")
    for _ in range(2):
        table = InHandFile(path)
        assert len(table.open()) == 1
        assert not table.boot_matches
        table.close()
    table.open()
    table.clear()
    table.close()
    table = InHandFile(path)
    assert table.open() == []
    assert table.boot_matches


def test_without_a_boot_id_no_old_table_matches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_hand, "boot_id", lambda: "")
    table = InHandFile(path)
    table.open()
    table.close()
    table = InHandFile(path)
    table.open()
    assert not table.boot_matches


def with_two_rows(path: Path) -> list[int]:
    table = InHandFile(path)
    table.open()
    slots = [table.take(1, 1, 1), table.take(2, 2, 2)]
    table.close()
    return slots


@pytest.mark.parametrize("offset", [-20, -12, -8, -4, 0])
def test_a_damaged_slot_is_left_out(path: Path, offset: int) -> None:
    slots = with_two_rows(path)
    with path.open("r+b") as file:
        file.seek(slots[0] + offset)
        file.write(b"\x77")
    table = InHandFile(path)
    assert table.open() == [InHand(2, 2, 2, True)]
    assert table.damaged
    table.close()


def overwrite(path: Path) -> None:
    path.write_bytes(b"something else " * 10_000)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def harm_header(path: Path) -> None:
    path.write_bytes(b"Z" + path.read_bytes()[1:])


def make_newer(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:15] + b"\x04" + content[16:])


@pytest.mark.parametrize("harm", [overwrite, shorten, harm_header, make_newer])
def test_a_damaged_table_is_begun_anew_once_that_is_noted(path: Path, harm: Callable[[Path], None]) -> None:
    with_two_rows(path)
    harm(path)
    for _ in range(2):  # the first of these lives dies before it has noted anything
        table = InHandFile(path)
        assert table.open() == []
        assert table.damaged
        table.close()
    table.open()
    table.clear()
    table.take(3, 3, 3)
    table.close()
    assert left_in(path) == {InHand(3, 3, 3, True)}


def test_a_table_cut_short_keeps_the_slots_that_it_has_and_says_so(path: Path) -> None:
    with_two_rows(path)
    path.write_bytes(path.read_bytes()[: 1024 + 69])
    table = InHandFile(path)
    assert set(table.open()) == {InHand(1, 1, 1, True), InHand(2, 2, 2, True)}
    assert table.damaged
    table.close()


def test_a_table_that_has_grown_and_was_cut_to_half_says_so(path: Path) -> None:
    table = InHandFile(path)
    table.open()
    for seq in range(5_000):
        table.take(1, seq, 1)
    table.close()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    table.open()
    assert table.damaged
    table.close()


def test_threads_that_need_a_larger_table_at_once_never_get_the_same_slot(path: Path) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(10):
            take_in_threads(path.with_name(f"table-{number}"), threads=8, rows=300)
    finally:
        sys.setswitchinterval(interval)


def take_in_threads(path: Path, threads: int, rows: int) -> None:
    table = InHandFile(path)
    table.open()
    slots: list[list[int]] = [[] for _ in range(threads)]
    begin = Barrier(threads)

    def take(lane: int) -> None:
        begin.wait()
        slots[lane].extend(table.take(lane, seq, 1) for seq in range(rows))

    workers = [Thread(target=take, args=(lane,)) for lane in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    table.close()
    assert len(set(chain(*slots))) == rows * threads
    assert left_in(path) == {InHand(lane, seq, 1, True) for lane in range(threads) for seq in range(rows)}


def test_after_close_a_late_handler_does_no_harm(path: Path) -> None:
    table = InHandFile(path)
    table.open()
    slot = table.take(1, 1, 1)
    table.close()
    table.close()
    table.done(slot)
    table.free(slot)
    assert left_in(path) == {InHand(1, 1, 1, True)}


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    InHandFile(path).open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
