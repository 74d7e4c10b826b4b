"""Whether a store is whole: the checksum of every record, and that its tables agree with each other.

A page at a time, so that a running peer can be asked between two turns. A page stands for itself: what it reads of
other tables it reads then and there. Only the totals need all pages to be of one commit; `compare` judges those.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error as WrongLength
from typing import NamedTuple, ParamSpec, TypeVar

import msgpack

from zmqrel.core import tables
from zmqrel.core.dead import decode_dead
from zmqrel.core.entries import BadRecord, Meta, decode_control, decode_head, verify
from zmqrel.core.journal import Journal
from zmqrel.core.lane import CONTROL, InLane, OutLane, decode_lane
from zmqrel.core.rows import RowState, decode_state
from zmqrel.core.runs import Entry, Runs
from zmqrel.core.shared import Ledger
from zmqrel.outcome import Cause, Outcome

MOST_ROWS = 1000
MOST_BYTES = 1 << 17
"""Of one page; a larger row is a page of its own."""
_DEADLINE_BYTES = len(tables.out_deadline_key(tables.OUT_DEADLINE, 0, 0, 0))
_BEHIND_ALL = b"\xff" * 2
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, WrongLength)
"""What decoding a row raises that was not written like that."""


P = ParamSpec("P")
LaneT = TypeVar("LaneT", InLane, OutLane)


class Fault(NamedTuple):
    """Something that is wrong: in which table, at which row, and what."""

    table: str
    where: str
    what: str


class Totals(NamedTuple):
    """Messages and bytes by table: as they were counted, or as the ledger has them."""

    outbox_messages: int = 0
    outbox_bytes: int = 0
    inbox_messages: int = 0
    inbox_bytes: int = 0
    dead_messages: int = 0
    dead_bytes: int = 0

    @classmethod
    def of(cls, ledger: Ledger) -> Totals:
        """As the ledger has them."""
        return cls(*(getattr(ledger, name) for name in cls._fields))

    def plus(self, other: Totals) -> Totals:
        """Both together."""
        return Totals(*(one + more for one, more in zip(self, other, strict=True)))


class Examined(NamedTuple):
    """One page."""

    rows: int
    quarantined: int
    """Damaged rows that were found and set aside before: their senders were told UNCERTAIN."""
    faults: list[Fault]
    totals: Totals
    last: bytes | None
    """The key to go on behind; None if this was the end."""
    commits: int
    ledger: Totals


def examine(store: Journal, behind: bytes = b"\x01") -> Examined:
    """Check the rows behind a key, as many as a page holds."""
    page = RowChecks(store)
    keys = store.keys(behind + b"\0", _BEHIND_ALL, MOST_ROWS)
    size = rows = 0
    last = behind
    for key in keys:
        value = store.get(key) or b""
        page.row(key, value)
        rows, last = rows + 1, key
        size += len(value)
        if size >= MOST_BYTES:
            break
    through = rows == len(keys) < MOST_ROWS
    ledger = page.ledger()
    return Examined(
        rows,
        page.quarantined,
        page.faults,
        Totals(*page.totals),
        None if through else last,
        0 if ledger is None else ledger.commit_count,
        Totals() if ledger is None else Totals.of(ledger),
    )


def compare(counted: Totals, ledger: Totals) -> list[Fault]:
    """What the ledger says and what was counted in the same commit, where they differ."""
    return [
        Fault("META", name, f"the ledger says {said}, the tables hold {found}")
        for name, found, said in zip(Totals._fields, counted, ledger, strict=True)
        if found != said
    ]


class RowChecks:
    """The checks of any number of rows, of which it keeps what is wrong and how much there is.

    Each `_check_` method returns what is wrong with a row, None if nothing is.
    """

    def __init__(self, store: Journal) -> None:
        self._store = store
        self._sent = Runs(store, tables.OUTBOX, tables.OUTBOX_HOLES)
        self._received = Runs(store, tables.INBOX, tables.INBOX_HOLES)
        self.begin()

    def begin(self) -> None:
        """Nothing was checked yet, and nothing is known of the store."""
        self._lanes: dict[int, OutLane | InLane | None] = {}
        self.faults: list[Fault] = []
        self.totals = [0] * len(Totals._fields)
        self.quarantined = 0

    def row(self, key: bytes, value: bytes) -> None:
        """Check one row of the store."""
        name, check = _CHECKS.get(key[0], (f"table 0x{key[0]:02x}", RowChecks._check_unknown))
        if key == tables.META:
            name, check = "META", RowChecks._check_ledger
        what = _told(check, self, key, value)
        if what is not None:
            self.faults.append(Fault(name, self._where(key), what))

    def _run(self, runs: Runs, key: bytes, check: Callable[[LaneT, Entry], str | None], lane: LaneT) -> str | None:
        """Check each record of a run; those that are wrong are named by their own numbers."""
        run, entries = runs.every(key)
        for entry in entries:
            what = _told(check, lane, entry)
            if what is not None:
                where = self._where(tables.lane_seq(key[0], run.lane_no, entry.seq))
                self.faults.append(Fault(_CHECKS[key[0]][0], where, what))
        if len(entries) == run.last - run.first + 1 and run.size != sum(len(entry.record) for entry in entries):
            return "its records are not as long as its key says"
        return None

    def ledger(self) -> Ledger | None:
        """The ledger, None if it cannot be read: then the row of it is a fault."""
        try:
            return Ledger.decode(self._store.get(tables.META) or b"")
        except UNREADABLE:
            return None

    def _where(self, key: bytes) -> str:
        """A row, in words; one with a lane names its peer and queue."""
        if key[0] in _NAMED:
            return key[1:].decode(errors="replace")
        if key[0] == tables.LANE:
            return f"lane {int.from_bytes(key[1:], 'big')}"
        if key[0] in _FROM_THE_START + _FROM_THE_END and len(key) >= 13:
            at = 1 if key[0] in _FROM_THE_START else len(key) - 12
            no, seq = int.from_bytes(key[at : at + 4], "big"), int.from_bytes(key[at + 4 : at + 12], "big")
            lane = self._lane(no)
            if lane is None:
                return f"lane {no} number {seq}"
            way = "to" if isinstance(lane, OutLane) else "from"
            return f"lane {lane.id:016x} {way} {lane.peer}, queue {lane.queue or '-'}, number {seq}"
        return key[1:].hex()

    def _lane(self, no: int) -> OutLane | InLane | None:
        if no not in self._lanes:
            data = self._store.get(tables.numbered_u32(tables.LANE, no))
            try:
                self._lanes[no] = None if data is None else decode_lane(no, data)
            except UNREADABLE:
                self._lanes[no] = None
        return self._lanes[no]

    def _out_lane(self, no: int) -> OutLane:
        lane = self._lane(no)
        if not isinstance(lane, OutLane):
            raise BadRecord(f"there is no lane {no} to a peer")
        return lane

    def _in_lane(self, no: int) -> InLane:
        lane = self._lane(no)
        if not isinstance(lane, InLane):
            raise BadRecord(f"there is no lane {no} from a peer")
        return lane

    def _is_received(self, no: int, seq: int) -> bool:
        return self._received.has(no, seq)

    def _count(self, first: int, size: int) -> None:
        self.totals[first] += 1
        self.totals[first + 1] += size

    # ------------------------------------------------------------------------------------------ by table

    def _check_unknown(self, _key: bytes, _value: bytes) -> str | None:
        return "no such table is known"

    def _check_ledger(self, _key: bytes, value: bytes) -> str | None:
        Ledger.decode(value)
        return None

    def _check_number(self, _key: bytes, value: bytes) -> str | None:
        return None if len(value) in (4, 8) else "it holds no number"

    def _check_peer(self, _key: bytes, value: bytes) -> str | None:
        return None if isinstance(msgpack.unpackb(value)[0], int) else "it has no number"

    def _check_lane(self, key: bytes, value: bytes) -> str | None:
        lane = decode_lane(int.from_bytes(key[1:], "big"), value)
        if isinstance(lane, OutLane):
            if self._store.get(tables.named(tables.PEER, lane.peer)) is None:
                return f"its peer {lane.peer} is not known"
            return None if lane.sent_upto < lane.next_seq else "more was sent than there is"
        return None if lane.count >= 0 and lane.size >= 0 else "it holds less than nothing"

    def _check_outbox(self, key: bytes, _value: bytes) -> str | None:
        lane = self._out_lane(int.from_bytes(key[1:5], "big"))
        return self._run(self._sent, key, self._check_sent, lane)

    def _check_sent(self, lane: OutLane, entry: Entry) -> str | None:
        if lane.kind == CONTROL:
            decode_control(entry.record)
        else:
            self._count(0, len(entry.record))
            if not verify(entry.record):
                return "its checksum does not match"
            decode_head(entry.record)
        return None if entry.seq < lane.next_seq else "its number was not given out yet"

    def _check_holes(self, runs: Runs, key: bytes) -> str | None:
        no, seq = tables.split_lane_seq(key)
        return None if runs.lowest(no, 0, seq) is not None else "its run is gone"

    def _check_outbox_holes(self, key: bytes, _value: bytes) -> str | None:
        return self._check_holes(self._sent, key)

    def _check_inbox_holes(self, key: bytes, _value: bytes) -> str | None:
        return self._check_holes(self._received, key)

    def _check_withdrawn(self, key: bytes, value: bytes) -> str | None:
        Cause(value[0])
        no, seq = tables.split_lane_seq(key)
        return None if self._sent.has(no, seq) else "it withdraws a message that has ended"

    def _check_out_deadline(self, key: bytes, _value: bytes) -> str | None:
        # Its message may have ended, its lane may be gone: that is seen at the deadline.
        return None if len(key) == _DEADLINE_BYTES else "it is no deadline"

    def _check_id(self, _key: bytes, value: bytes) -> str | None:
        no, _seq, _digest = msgpack.unpackb(value)
        self._out_lane(no)
        return None

    def _check_outcome(self, key: bytes, value: bytes) -> str | None:
        no, first, last, outcome = msgpack.unpackb(value)[:4]
        Outcome(outcome)
        number = self._store.get(tables.lane_seq(tables.OUTCOME_OF, no, last))
        if first > last:
            return "its range is empty"
        return None if number == key[1:] else "its messages do not lead to it"

    def _check_outcome_of(self, _key: bytes, value: bytes) -> str | None:
        there = self._store.get(tables.numbered(tables.OUTCOME, int.from_bytes(value, "big"))) is not None
        return None if there else "it leads to no outcome"

    def _check_inbox(self, key: bytes, _value: bytes) -> str | None:
        lane = self._in_lane(int.from_bytes(key[1:5], "big"))
        return self._run(self._received, key, self._check_received, lane)

    def _check_received(self, lane: InLane, entry: Entry) -> str | None:
        self._count(2, len(entry.record))
        if not verify(entry.record):
            return "its checksum does not match"
        head = decode_head(entry.record)
        if entry.seq > lane.floor:
            return "it lies above what was received"
        data = self._store.get(tables.lane_seq(tables.ROW_STATE, lane.no, entry.seq))
        state = RowState() if data is None else decode_state(data)
        return self._unindexed(lane, entry.seq, entry.order_us, head.meta, head.deadline_us, state)

    def _unindexed(
        self, lane: InLane, seq: int, order_us: int, meta: Meta, deadline_us: int, state: RowState
    ) -> str | None:
        """What a message of the inbox lacks in the tables beside it."""
        if meta.key is not None:
            queue = self._store.get(tables.named(tables.QUEUE, state.queue or lane.queue))
            at_us = state.keyed_us or order_us
            key_hash = tables.key_hash(meta.key)
            no = int.from_bytes(queue or b"", "big")
            keyed = tables.keyed_key(tables.KEYED, no, key_hash, at_us, lane.no, seq)
            if queue is None or self._store.get(keyed) is None:
                return "it does not stand among those of its key"
        peer = self._store.get(tables.named(tables.PEER, lane.peer))
        if deadline_us and peer is not None and not state.withdrawn:
            peer_no = msgpack.unpackb(peer)[0]
            judged = tables.in_deadline_key(tables.IN_DEADLINE, peer_no, deadline_us, lane.no, seq)
            if self._store.get(judged) is None:
                return "its deadline is not noted"
        return None

    def _check_of_inbox(self, key: bytes, _value: bytes) -> str | None:
        return None if self._is_received(*tables.split_lane_seq(key)) else "its message is not in the inbox"

    def _check_row_state(self, key: bytes, value: bytes) -> str | None:
        decode_state(value)
        return self._check_of_inbox(key, value)

    def _check_in_deadline(self, key: bytes, value: bytes) -> str | None:
        no, seq = tables.split_lane_seq(key)
        quarantined = self._store.get(tables.lane_seq(tables.QUARANTINE, no, seq)) is not None
        return None if quarantined else self._check_of_inbox(key, value)

    def _check_tombstone(self, key: bytes, value: bytes) -> str | None:
        Cause(value[0])
        no, seq = tables.split_lane_seq(key)
        return None if seq > self._in_lane(no).floor else "its message was received"

    def _check_dead(self, _key: bytes, value: bytes) -> str | None:
        self._count(4, len(value))
        record = decode_dead(value).record
        if not verify(record):
            return "its checksum does not match"
        decode_head(record)
        return None

    def _check_quarantine(self, _key: bytes, _value: bytes) -> str | None:
        self.quarantined += 1
        return None


def _told(check: Callable[P, str | None], *row: P.args, **named: P.kwargs) -> str | None:
    """What a check says, also of what cannot be decoded."""
    try:
        return check(*row, **named)
    except BadRecord as error:
        return str(error)
    except UNREADABLE as error:
        return f"cannot be read ({type(error).__name__})"


_Checker = Callable[[RowChecks, bytes, bytes], str | None]

_CHECKS: dict[int, tuple[str, _Checker]] = {
    tables.INSTANCE: ("INSTANCE", RowChecks._check_number),
    tables.PEER: ("PEER", RowChecks._check_peer),
    tables.LANE: ("LANE", RowChecks._check_lane),
    tables.QUEUE: ("QUEUE", RowChecks._check_number),
    tables.OUTBOX: ("OUTBOX", RowChecks._check_outbox),
    tables.OUTBOX_HOLES: ("OUTBOX_HOLES", RowChecks._check_outbox_holes),
    tables.INBOX_HOLES: ("INBOX_HOLES", RowChecks._check_inbox_holes),
    tables.WITHDRAWN: ("WITHDRAWN", RowChecks._check_withdrawn),
    tables.OUT_DEADLINE: ("OUT_DEADLINE", RowChecks._check_out_deadline),
    tables.ID: ("ID", RowChecks._check_id),
    tables.OUTCOME: ("OUTCOME", RowChecks._check_outcome),
    tables.OUTCOME_OF: ("OUTCOME_OF", RowChecks._check_outcome_of),
    tables.INBOX: ("INBOX", RowChecks._check_inbox),
    tables.ROW_STATE: ("ROW_STATE", RowChecks._check_row_state),
    tables.WAITING: ("WAITING", RowChecks._check_of_inbox),
    tables.KEYED: ("KEYED", RowChecks._check_of_inbox),
    tables.IN_DEADLINE: ("IN_DEADLINE", RowChecks._check_in_deadline),
    tables.TOMBSTONE: ("TOMBSTONE", RowChecks._check_tombstone),
    tables.SUSPECT: ("SUSPECT", RowChecks._check_of_inbox),
    tables.DEAD: ("DEAD", RowChecks._check_dead),
    tables.QUARANTINE: ("QUARANTINE", RowChecks._check_quarantine),
}

_NAMED = (tables.PEER, tables.QUEUE, tables.ID)
"""Tables whose keys are a name; then those whose keys begin, and those whose keys end, with lane and number."""
_FROM_THE_START = (
    tables.OUTBOX,
    tables.OUTBOX_HOLES,
    tables.INBOX_HOLES,
    tables.WITHDRAWN,
    tables.OUTCOME_OF,
    tables.INBOX,
    tables.ROW_STATE,
    tables.TOMBSTONE,
    tables.SUSPECT,
    tables.QUARANTINE,
)
_FROM_THE_END = (tables.OUT_DEADLINE, tables.WAITING, tables.KEYED, tables.IN_DEADLINE)
