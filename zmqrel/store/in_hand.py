"""The in-hand table: which rows were handed over and are not settled by a commit, kept in shared pages.

What is written to a mapped file is the system's as soon as it is written, so it outlives the process without
a system call; the machine it does not outlive, and it is never synced. A slot is written before its state,
and a state is one byte, so that whatever instant the process dies at, a slot is taken whole or not at all.

    header | page | page | ...      a page of 1 KiB is either 32 slots, each with its state at its end,
                                    or a block: a slot that names the first of up to 992 neighbouring rows,
                                    and the states of all of them
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

from zmqrel.core.storage import MOST_IN_BLOCK, InHand
from zmqrel.errors import ConfigError, Error, StoreDamaged, StoreFull
from zmqrel.store.boot import boot_id
from zmqrel.store.limits import remedy
from zmqrel.store.space import DISK_IS_FULL, FULL, WAS_CUT, WAS_REMOVED, fill

_MAGIC: Final = b"zmqrel in hand\n\x03"  # the last byte is the version of the layout
_HEADER = Struct("<16s36sQI")  # magic, boot id, size of the file, CRC of all three
_SLOT = Struct("<QIII")  # seq, lane, attempt (in a block how many rows), CRC of these
_ROW = Struct("<QII")
_PAGE_BYTES: Final = 1024
_SLOT_BYTES: Final = 32
_STATE: Final = _SLOT.size  # where the state stands in a slot
_FIRST_BYTES: Final = 64 * 1024

# Apart in four bits and more, so that flipped ones are seen.
_FREE: Final = 0x00
_RUNNING: Final = 0x5A
_DONE: Final = 0xA7
_BLOCK: Final = 0x3C


class InHandFile:
    """The table in a file; see `zmqrel.core.storage.InHandTable` for what its methods mean.

    A slot's number is the offset of its state in the file.
    """

    damaged: bool
    """Whether `open` found something that it could not read, and left it out."""
    boot_matches: bool
    """Whether `open` found a table, and it was begun on this boot of the machine."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take note of the path; nothing is opened before `open`."""
        self.path = Path(path)
        self.damaged = False
        self.boot_matches = False
        # Each queue has a lock of its own, so workers of two may need a larger table at once.
        self._growing = threading.Lock()
        self._fd: int | None = None
        self._map: mmap.mmap | bytearray = bytearray()
        self._size = 0
        self._free: deque[int] = deque()
        """Single slots."""
        self._pages: deque[int] = deque()
        """Where pages begin that serve nothing."""
        self._blocks: dict[int, int] = {}
        """Where a block begins -> how many of its rows are not given back."""

    def open(self) -> list[InHand]:
        """Open the file, or make it, and return what the life before left in it.

        Nothing that was found is changed before `clear`: those slots stay taken, the note of the boot stays as
        it is, and a table that cannot be read stays unreadable, so that a death in between loses no mark. What
        cannot be read is left out and sets `damaged`. Raises StoreFull if there is no room for a new file,
        StoreDamaged if it cannot be used.
        """
        self.damaged = self.boot_matches = False
        self._size = 0
        self._forget()
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            found = os.fstat(self._fd).st_size
            self._map_more(max(_FIRST_BYTES, found + -found % _PAGE_BYTES))
        except OSError as error:
            self.close()
            raise self._refused(error) from error
        if not found:
            self.clear()
            return []
        if not self._read_header(found):
            self.damaged = True
            return []
        return self._read_slots()

    def clear(self) -> None:
        """Free every slot and note the present boot."""
        with self._growing:
            self._map[:] = bytes(self._size)
            self._write_header()
            self._forget()
            self._pages.extend(_pages(_PAGE_BYTES, self._size))

    def _forget(self) -> None:
        self._free.clear()
        self._pages.clear()
        self._blocks.clear()

    def take(self, lane: int, seq: int, attempt: int) -> int:
        """Note that a handler is about to run; return the slot.

        Raises StoreFull if the table has to grow and cannot.
        """
        slot = self._free_slot()
        check = crc32(_ROW.pack(seq, lane, attempt))
        _SLOT.pack_into(self._map, slot - _STATE, seq, lane, attempt, check)
        self._map[slot] = _RUNNING
        return slot

    def reserve(self, lane: int, first: int, count: int) -> int:
        """Take a block for neighbouring rows, none of which is handed over; return the slot of the first.

        Raises StoreFull if the table has to grow and cannot.
        """
        page = self._free_page()
        _SLOT.pack_into(self._map, page, first, lane, count, crc32(_ROW.pack(first, lane, count)))
        self._map[page + _STATE] = _BLOCK
        self._blocks[page] = count
        return page + _SLOT_BYTES

    def running(self, slot: int) -> None:
        """Note that a handler is about to run on a row of a block."""
        self._map[slot] = _RUNNING

    def done(self, slot: int) -> None:
        """Note that the handler of this slot has returned."""
        self._map[slot] = _DONE

    def free(self, slot: int, count: int = 1) -> None:
        """Give slots back that follow each other: one by itself, or some of a block."""
        page = slot - slot % _PAGE_BYTES
        if page not in self._blocks:
            self._map[slot] = _FREE
            self._free.append(slot)
            return
        self._map[slot : slot + count] = bytes(count)
        with self._growing:
            self._blocks[page] -= count
            if self._blocks[page]:
                return
            del self._blocks[page]
        self._map[page + _STATE] = _FREE
        self._pages.append(page)

    def check(self) -> None:
        """Raise StoreDamaged if somebody removed or cut the file, and close it: writing behind its end is SIGBUS."""
        if self._fd is None:
            return
        status = os.fstat(self._fd)
        if status.st_nlink and status.st_size >= self._size:
            return
        self.close()
        what = f"{WAS_CUT} to {status.st_size} bytes" if status.st_nlink else WAS_REMOVED
        raise StoreDamaged(f"the in-hand table {self.path} {what}; start the peer again")

    def close(self) -> None:
        """Close the file and keep what is in it; calling it again does nothing.

        A handler that returns after this does no harm: `done` and `free` then write to nothing that is
        shared.
        """
        with self._growing:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
                # Not closed, but let go: another thread may be about to write to it.
                self._map = bytearray(self._size)

    def _free_slot(self) -> int:
        while True:
            try:
                return self._free.pop()
            except IndexError:
                page = self._free_page()
                self._free.extend(_states(page, page + _PAGE_BYTES))

    def _free_page(self) -> int:
        while True:
            try:
                return self._pages.pop()
            except IndexError:
                self._grow()

    def _grow(self) -> None:
        """Double the table, unless another thread has done so."""
        with self._growing:
            if self._pages:
                return
            if self._fd is None:
                raise StoreDamaged(f"the in-hand table {self.path} is closed")
            size = self._size
            try:
                self._map_more(2 * size)
            except OSError as error:
                raise self._refused(error) from error
            self._write_header()
            self._pages.extend(_pages(size, self._size))

    def _map_more(self, size: int) -> None:
        assert self._fd is not None
        # Real blocks: writing to a hole of the map that the disk cannot fill is not an error but SIGBUS.
        fill(self._fd, 0, size, self._size)
        # A thread that still writes to the map before writes to the same pages.
        self._map = mmap.mmap(self._fd, size)
        self._size = size

    def _write_header(self) -> None:
        # Torn, it is taken for damage, which is safe. The size tells a table that was cut short.
        head = _HEADER.pack(_MAGIC, boot_id().encode(), self._size, 0)[:-4]
        self._map[: _HEADER.size] = head + crc32(head).to_bytes(4, "little")

    def _refused(self, error: OSError) -> Error:
        if error.errno in FULL:
            return StoreFull(f"the in-hand table {self.path} cannot grow: {DISK_IS_FULL}")
        if (helps := remedy(error.errno)) is not None:
            return ConfigError(f"store: the in-hand table {self.path} cannot be used: {error.strerror}; {helps}")
        return StoreDamaged(f"the in-hand table {self.path} cannot be used: {error}; look at the disk")

    def _read_header(self, found: int) -> bool:
        magic, boot, size, check = _HEADER.unpack_from(self._map)
        if magic != _MAGIC or check != crc32(self._map[: _HEADER.size - 4]):
            return False
        self.damaged = found < size
        self.boot_matches = bool(here := boot_id()) and boot.rstrip(b"\0") == here.encode()
        return True

    def _read_slots(self) -> list[InHand]:
        left: list[InHand] = []
        for page in _pages(_PAGE_BYTES, self._size):
            if self._map[page + _STATE] == _BLOCK:
                left += self._read_block(page)
            elif any(self._map[slot] for slot in _states(page, page + _PAGE_BYTES)):
                left += self._read_page(page)
            else:
                self._pages.append(page)
        return left

    def _read_page(self, page: int) -> Iterator[InHand]:
        for slot in _states(page, page + _PAGE_BYTES):
            state = self._map[slot]
            if state == _FREE:
                self._free.append(slot)
                continue
            seq, lane, attempt, check = _SLOT.unpack_from(self._map, slot - _STATE)
            if state in (_RUNNING, _DONE) and check == crc32(_ROW.pack(seq, lane, attempt)):
                yield InHand(lane, seq, attempt, state == _RUNNING)
            else:
                self.damaged = True

    def _read_block(self, page: int) -> Iterator[InHand]:
        first, lane, count, check = _SLOT.unpack_from(self._map, page)
        if count > MOST_IN_BLOCK or check != crc32(_ROW.pack(first, lane, count)):
            self.damaged = True
            return
        start = page + _SLOT_BYTES
        for seq, state in enumerate(bytes(self._map[start : start + count]), first):
            if state in (_RUNNING, _DONE):
                yield InHand(lane, seq, 1, state == _RUNNING)
            elif state != _FREE:
                self.damaged = True


def left_in_hand(path: str | os.PathLike[str]) -> list[InHand]:
    """What is in the table at `path`, of a peer that does not run; nothing is changed. Raises OSError.

    Empty if there is no table, or none that can be read.
    """
    table = InHandFile(path)
    try:
        content = table.path.read_bytes()
    except FileNotFoundError:
        return []
    content += bytes(-len(content) % _PAGE_BYTES)  # of one that was cut
    table._map, table._size = bytearray(content), len(content)
    return table._read_slots() if len(content) >= _PAGE_BYTES and table._read_header(len(content)) else []


class MemoryInHand:
    """The table in memory. Kept beyond the simulated death of a process, it is found as it was by the next
    `open`.
    """

    damaged: bool
    """False, unless who simulates it says otherwise."""
    boot_matches: bool
    """True, unless who simulates it says otherwise; `clear` sets it again."""

    def __init__(self) -> None:
        """Make an empty table."""
        self.damaged = False
        self.boot_matches = True
        self._blocks: dict[int, _Block] = {}
        """By number; a slot is the number of its block and its place in that."""
        self._next = 0

    def open(self) -> list[InHand]:
        """Return what the life before left; its slots stay taken until `clear`."""
        return [
            InHand(block.lane, seq, block.attempt, state == _RUNNING)
            for block in self._blocks.values()
            for seq, state in enumerate(block.states, block.first)
            if state != _FREE
        ]

    def clear(self) -> None:
        """Free every slot and note the present boot."""
        self._blocks.clear()
        self.boot_matches = True

    def take(self, lane: int, seq: int, attempt: int) -> int:
        """Note that a handler is about to run; return the slot."""
        slot = self._reserve(_Block(lane, seq, attempt, bytearray(1)))
        self.running(slot)
        return slot

    def reserve(self, lane: int, first: int, count: int) -> int:
        """Take slots for neighbouring rows, none of which is handed over; return the first."""
        return self._reserve(_Block(lane, first, 1, bytearray(count)))

    def _reserve(self, block: _Block) -> int:
        self._next += 1
        self._blocks[self._next] = block
        return self._next * _PAGE_BYTES

    def running(self, slot: int) -> None:
        """Note that a handler is about to run on a row that was reserved."""
        self._note(slot, _RUNNING)

    def done(self, slot: int) -> None:
        """Note that the handler of this slot has returned."""
        self._note(slot, _DONE)

    def _note(self, slot: int, state: int) -> None:
        if block := self._blocks.get(slot // _PAGE_BYTES):
            block.states[slot % _PAGE_BYTES] = state

    def free(self, slot: int, count: int = 1) -> None:
        """Give slots back that follow each other."""
        number, start = divmod(slot, _PAGE_BYTES)
        block = self._blocks.get(number)
        if block is None:
            return
        block.states[start : start + count] = bytes(count)
        block.given_back += count
        if block.given_back == len(block.states):
            del self._blocks[number]

    def check(self) -> None:
        """Do nothing: there is no file."""

    def close(self) -> None:
        """Do nothing: what is in the table stays."""


@dataclass(slots=True)
class _Block:
    """Neighbouring rows of a MemoryInHand."""

    lane: int
    first: int
    attempt: int
    states: bytearray
    given_back: int = 0


def _pages(start: int, end: int) -> range:
    """Where the pages between two multiples of a page begin, the last first.

    They are used from the end of the list, so the first are used most, and few of the system's pages are touched.
    """
    return range(max(start, _PAGE_BYTES), end, _PAGE_BYTES)[::-1]


def _states(start: int, end: int) -> range:
    """Where the states of the slots of a page stand, the last first."""
    return range(start + _STATE, end, _SLOT_BYTES)[::-1]
