"""Records of lanes as they lie in the store: neighbours share a row, so that a thousand messages are one write.

    key     table | lane u32 | last u64 | first u64 | order u64 | bytes u32 | plain u8
    value   the record, if it is one; else its length u32 for each, and the records joined
    holes   table | lane u32 | last u64 -> which of a run are gone, as a bitmap; only while some are and some are not

A key begins with the run's last number, so that the first key from (lane, seq) on is the run that may hold seq. What a
run holds is never rewritten: a number that is removed becomes a hole, and the row goes with its last number. Removing
a whole run of plain messages reads no value.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from zmqrel.core import tables
from zmqrel.core.entries import FRAMING_BYTES, RESIDUE, Range
from zmqrel.core.frames import pack_sizes, unpack_sizes
from zmqrel.core.journal import Journal

MOST_BYTES = 64 * 1024
"""Of records in one row; a larger record has a row of its own."""
MOST_RECORDS = 1024

_KEY = Struct(">BIQQQIB")
_KEYS_AT_ONCE = 64


class Run(NamedTuple):
    """What a key says of its row."""

    key: bytes
    lane_no: int
    first: int
    last: int
    order_us: int
    size: int
    """Bytes of all its records."""
    plain: bool
    """No record has a meta or a deadline."""


class Piece(NamedTuple):
    """Neighbours of one run. `records` is empty if they were removed and nobody asked for them."""

    first: int
    last: int
    order_us: int
    size: int
    plain: bool
    records: list[bytes]

    @property
    def messages(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


class Entry(NamedTuple):
    """One record as it was read back."""

    seq: int
    order_us: int
    record: bytes


class Runs:
    """One table of runs and its holes."""

    def __init__(self, journal: Journal, table: int, holes: int) -> None:
        self._journal = journal
        self._table = table
        self._holes = holes
        self._at_hand: tuple[bytes, list[bytes]] = b"", []
        """Key and records of the run read last, for what is read one by one. A key never gets another value."""

    # ------------------------------------------------------------------------------------------------------- writing

    def put(self, lane_no: int, first: int, records: list[bytes], order_us: int = 0, plain: bool = False) -> None:
        """Write neighbouring records, the first with the number `first`."""
        sizes = list(map(len, records))
        total = sum(sizes)
        if total <= MOST_BYTES and len(sizes) <= MOST_RECORDS:
            self._put_run(lane_no, first, records, total, order_us, plain)
            return
        ends = list(accumulate(sizes))
        start = before = 0
        while start < len(records):
            stop = bisect_right(ends, before + MOST_BYTES, start + 1, min(start + MOST_RECORDS, len(records)))
            self._put_run(lane_no, first + start, records[start:stop], ends[stop - 1] - before, order_us, plain)
            start, before = stop, ends[stop - 1]

    def _put_run(self, lane_no: int, first: int, records: list[bytes], size: int, order_us: int, plain: bool) -> None:
        count = len(records)
        key = _KEY.pack(self._table, lane_no, first + count - 1, first, order_us, size, plain)
        value = records[0] if count == 1 else b"".join((pack_sizes(records), *records))
        self._journal.put(key, value)

    # ------------------------------------------------------------------------------------------------------- reading

    def has(self, lane_no: int, seq: int) -> bool:
        """Whether there is a record with this number."""
        run = self._covering(lane_no, seq)
        return run is not None and not self._gone(run) >> (seq - run.first) & 1

    def get(self, lane_no: int, seq: int) -> Entry | None:
        """The record with this number."""
        run = self._covering(lane_no, seq)
        if run is None or self._gone(run) >> (seq - run.first) & 1:
            return None
        return Entry(seq, run.order_us, self._records(run)[seq - run.first])

    def read(
        self, lane_no: int, first: int, last: int, limit: int, most_bytes: int = 2**62
    ) -> tuple[list[Entry], bool]:
        """Records of the numbers first to last, ascending, and whether these are all.

        Reading stops with the run in which `limit` or `most_bytes` is reached.
        """
        pieces, all_of_them = self.read_pieces(lane_no, first, last, limit, most_bytes)
        entries = [
            Entry(seq, piece.order_us, record)
            for piece in pieces
            for seq, record in enumerate(piece.records, piece.first)
        ]
        return entries, all_of_them

    def read_pieces(self, lane_no: int, first: int, last: int, limit: int, most_bytes: int) -> tuple[list[Piece], bool]:
        """The same, neighbours together."""
        pieces: list[Piece] = []
        found = size = 0
        for run in self._runs(lane_no, first, last, min(limit, _KEYS_AT_ONCE)):
            if found >= limit or size >= most_bytes:
                return pieces, False
            for piece in self._pieces(run, first, last):
                pieces.append(piece)
                found += piece.messages
                size += piece.size
        return pieces, True

    def _pieces(self, run: Run, first: int, last: int) -> Iterator[Piece]:
        records = self._records(run)
        for start, stop in self._alive(run, first, last):
            some = records[start - run.first : stop - run.first + 1]
            yield Piece(start, stop, run.order_us, sum(map(len, some)), run.plain, some)

    def spans(self, lane_no: int, first: int = 0, last: int = 2**64 - 2) -> Iterator[Range]:
        """The numbers that there are, as ascending ranges that are apart, read step by step."""
        start = stop = 0
        for run in self._runs(lane_no, first, last):
            for low, high in self._alive(run, first, last):
                if low != stop + 1 and stop:
                    yield start, stop
                start, stop = start if low == stop + 1 and stop else low, high
        if stop:
            yield start, stop

    def every(self, key: bytes) -> tuple[Run, list[Entry]]:
        """The run of a key and what there is of it. Raises struct.error for a key that is none."""
        run = _run(key)
        records = self._records(run)
        parts = self._alive(run, run.first, run.last)
        seqs = (seq for start, stop in parts for seq in range(start, stop + 1))
        return run, [Entry(seq, run.order_us, records[seq - run.first]) for seq in seqs]

    def lowest(self, lane_no: int, first: int = 0, last: int = 2**64 - 2) -> int | None:
        """The lowest number from first to last that there is."""
        for run in self._runs(lane_no, first, last, 1):
            for start, _ in self._alive(run, first, last):
                return start
        return None

    # ------------------------------------------------------------------------------------------------------ removing

    def discard(self, lane_no: int, first: int, last: int) -> None:
        """Remove what there is of the numbers first to last, unread."""
        for run in self._runs(lane_no, first, last, 4):
            self._mark_gone(run, self._gone(run), first, last)

    def remove(self, lane_no: int, first: int, last: int, read_plain: bool = True) -> list[Piece]:
        """Remove what there is of the numbers first to last.

        Without `read_plain` the records of plain runs are left out of what is returned.
        """
        pieces: list[Piece] = []
        for run in self._runs(lane_no, first, last, 4):
            gone = self._gone(run)
            whole = first <= run.first and run.last <= last
            if whole and not gone:
                records = [] if run.plain and not read_plain else self._records(run)
                pieces.append(Piece(run.first, run.last, run.order_us, run.size, run.plain, records))
                self._journal.delete(run.key)
                continue
            pieces += self._pieces(run, first, last)
            self._mark_gone(run, gone, first, last)
        return pieces

    def _mark_gone(self, run: Run, gone: int, first: int, last: int) -> None:
        low, high = max(first, run.first) - run.first, min(last, run.last) - run.first
        gone_now = gone | ((1 << (high - low + 1)) - 1) << low
        count = run.last - run.first + 1
        if gone_now == (1 << count) - 1:
            self._journal.delete(run.key)
            if gone:
                self._journal.delete(self._holes_key(run))
        elif gone_now != gone:
            self._journal.put(self._holes_key(run), gone_now.to_bytes((count + 7) // 8, "little"))

    # --------------------------------------------------------------------------------------------------------- parts

    def _runs(self, lane_no: int, first: int, last: int, at_once: int = _KEYS_AT_ONCE) -> Iterator[Run]:
        """The runs that touch the numbers first to last."""
        start, end = tables.lane_bounds(self._table, lane_no, first)
        while True:
            keys = self._journal.keys(start, end, at_once)
            for key in keys:
                run = _run(key)
                if run.first > last:
                    return
                yield run
            if len(keys) < at_once:
                return
            start, at_once = keys[-1] + b"\x00", _KEYS_AT_ONCE

    def _covering(self, lane_no: int, seq: int) -> Run | None:
        return next(self._runs(lane_no, seq, seq, 1), None)

    def _holes_key(self, run: Run) -> bytes:
        return tables.lane_seq(self._holes, run.lane_no, run.last)

    def _gone(self, run: Run) -> int:
        """Bit n is set if the number first + n is gone."""
        if run.first == run.last:
            return 0
        return int.from_bytes(self._journal.get(self._holes_key(run)) or b"", "little")

    def _alive(self, run: Run, first: int, last: int) -> Iterator[Range]:
        """What there is of a run within first to last."""
        low, high = max(first, run.first), min(last, run.last)
        if low > high:
            return
        gone = self._gone(run)
        if not gone:
            yield low, high
            return
        start = low
        for seq in range(low, high + 1):
            if gone >> (seq - run.first) & 1:
                if start < seq:
                    yield start, seq - 1
                start = seq + 1
        if start <= high:
            yield start, high

    def _records(self, run: Run) -> list[bytes]:
        """All records of a run, also of numbers that are gone. Damaged ones fail when their checksum is looked at."""
        if run.key == self._at_hand[0]:
            return self._at_hand[1]
        value = self._journal.get(run.key) or b""
        count = run.last - run.first + 1
        if count == 1:
            return [value]
        at = 4 * count
        lengths = unpack_sizes(value[:at])
        if len(lengths) != count or sum(lengths) != len(value) - at:
            records = _found_by_checksum(value[at:], count)
        else:
            records = split_records(lengths, value, at)
        self._at_hand = run.key, records
        return records


def _found_by_checksum(data: bytes, count: int) -> list[bytes]:
    """The records of a run whose lengths are damaged: one ends where it makes the CRC that all good ones have.

    What lies behind a damaged record cannot be told from it; the last of these is all of that, the others are none.
    """
    records: list[bytes] = []
    start, check = 0, 0
    for at in range(len(data)):
        check = crc32(data[at : at + 1], check)
        # Not before a MESSAGE can end: four zeros are the checksum of nothing.
        if check == RESIDUE and at >= start + FRAMING_BYTES - 1 and len(records) < count - 1:
            records.append(data[start : at + 1])
            start, check = at + 1, 0
    records.append(data[start:])
    return records + [b""] * (count - len(records))


def split_records(lengths: array[int], data: bytes, at: int = 0) -> list[bytes]:
    """The records that lie joined in `data` from `at` on."""
    ends = list(accumulate(lengths, initial=at))[1:]
    return [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _run(key: bytes) -> Run:
    _, lane_no, last, first, order_us, size, plain = _KEY.unpack(key)
    return Run(key, lane_no, first, last, order_us, size, bool(plain))
