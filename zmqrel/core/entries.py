"""What a lane carries: MESSAGE records on data lanes, control entries on the control lane, and their bytes.

A record is encoded once, in the sending caller's thread. The same bytes lie in the outbox, travel on the wire
and lie in the inbox; a CRC-32 at the end tells a damaged one wherever it is read back.

    MESSAGE   meta length u32 | sent_at u64 | deadline u64 (0: none) | meta | body | crc u32, little-endian
    control   msgpack list: kind, store id of the lane spoken of, ... | crc u32, little-endian

The CRC of a whole record, its own CRC included, is the same number for every good record: so a thousand of them are
checked by one pass of `crc32` and nothing else.

Times are microseconds of the sender's store clock. Nothing here knows lanes, peers or the store.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple, cast
from zlib import crc32

import msgpack

from zmqrel.checks import is_name
from zmqrel.outcome import Cause, Outcome

pack: Callable[[object], bytes] = msgpack.packb
"""The bytes of one msgpack value."""

HEADER = Struct(">IQQ")
CHECK_BYTES = 4
FRAMING_BYTES = HEADER.size + CHECK_BYTES
"""What a MESSAGE record has beside meta and body."""
RESIDUE = 0x2144DF1C
"""The CRC-32 of anything followed by its own CRC-32."""
_CRC = Struct("<I")
_JOINED_FROM_BYTES = 513
"""A record of a body so long is made in one piece, which takes longer for a shorter one."""
_FEW = 8
_SMALL_BYTES = 1024
"""Larger ones gain nothing by being joined."""
MAX_META_BYTES = 65_536
"""Headers, key, id and the rest of a message beside its body, when it is sent."""
LARGEST_META_BYTES = MAX_META_BYTES + 1024
"""A message that moves to another lane or queue has its id, origin and cause written into it besides."""
MAX_U64 = 2**64 - 1
MOST_REASON = 2000
"""Characters in the reason of an outcome."""
_MAX_LABEL = 128
"""Characters of an id, a key and alike; as many bytes when they are sent."""
MAX_NAME = 64
"""Characters in the name of a peer or a queue."""
MAX_SEQ = 2**63
"""The highest sequence number, so that the sum of one and a grant still fits 64 bits."""
MAX_TIME_US = 253_370_764_800_000_000
"""The year 9999: a later time could not be told as a date, or be moved by a clock offset."""
_MAX_CONTROL_LIST = 4_000_000


class BadRecord(ValueError):
    """The bytes are no record: damaged on disk, or sent by something that is no peer."""


class Meta(NamedTuple):
    """What a message carries beside body, sending time and deadline. All absent in the common case."""

    key: str | None = None
    id: str | None = None
    headers: dict[str, Any] | None = None
    not_before_us: int = 0
    on_expiry: str = "dead"
    max_attempts: int | None = None
    origin_id: str | None = None
    cause: str | None = None


NO_META = Meta()


class MessageHead(NamedTuple):
    """The decoded head of a MESSAGE record; the body lies from `body_at` to the CRC."""

    sent_at_us: int
    deadline_us: int
    meta: Meta
    body_at: int


def encode_meta(meta: Meta) -> bytes:
    """The bytes of `meta`, empty if there is nothing to say."""
    return b"" if meta == NO_META else pack(tuple(meta))


def encode_messages(bodies: Sequence[bytes], sent_at_us: int, deadline_us: int, meta: bytes) -> list[bytes]:
    """MESSAGE records of `bodies`, one at least, which share everything but the body."""
    shared = HEADER.pack(len(meta), sent_at_us, deadline_us) + meta
    shared_crc = crc32(shared)
    crc_bytes = _CRC.pack
    if len(bodies[0]) >= _JOINED_FROM_BYTES:
        # Each copy of a long one is made in pages that the system gives anew, and clears first.
        return [b"".join((shared, body, crc_bytes(crc32(body, shared_crc)))) for body in bodies]
    return [shared + body + crc_bytes(crc32(body, shared_crc)) for body in bodies]


def verify(record: bytes) -> bool:
    """True if the record is as it was when it was made."""
    return crc32(record) == RESIDUE


def verify_all(records: list[bytes]) -> bool:
    """True if all of them are as they were made.

    From one good record to the next a checksum goes on in a way that only their lengths decide. So many small ones are
    looked at in one pass, which for each takes a quarter of the time, and compared with any good ones of these lengths.
    """
    lengths = array("I", map(len, records))
    if len(records) < _FEW or max(lengths) > _SMALL_BYTES:
        return not records or set(map(crc32, records)) == {RESIDUE}
    return crc32(b"".join(records)) == _checksum_of_good(lengths.tobytes())


@lru_cache(maxsize=64)
def _checksum_of_good(lengths: bytes) -> int | None:
    """The checksum of good records of these lengths, joined; None if there are none so short."""
    numbers = array("I", lengths)
    return crc32(b"".join(map(_any_good, numbers))) if min(numbers) >= CHECK_BYTES else None


@lru_cache(maxsize=_SMALL_BYTES)
def _any_good(length: int) -> bytes:
    """A record of this length with the checksum that it is to have."""
    content = bytes(length - CHECK_BYTES)
    return content + _CRC.pack(crc32(content))


def decode_head(record: bytes) -> MessageHead:
    """The head of a verified MESSAGE record.

    Raises BadRecord if it is shorter than it says or its meta is not what `encode_meta` makes.
    """
    if len(record) < FRAMING_BYTES:
        raise BadRecord(f"a MESSAGE record has at least {FRAMING_BYTES} bytes, got {len(record)}")
    meta_length, sent_at_us, deadline_us = HEADER.unpack_from(record)
    if sent_at_us > MAX_TIME_US or deadline_us > MAX_TIME_US:
        raise BadRecord("times are before the year 9999")
    if not meta_length:
        return MessageHead(sent_at_us, deadline_us, NO_META, HEADER.size)
    body_at = HEADER.size + meta_length
    if meta_length > LARGEST_META_BYTES or body_at + CHECK_BYTES > len(record):
        raise BadRecord(f"meta of {meta_length} bytes does not fit a record of {len(record)}")
    return MessageHead(sent_at_us, deadline_us, _decode_meta(record[HEADER.size : body_at]), body_at)


def _decode_meta(data: bytes) -> Meta:
    fields = unpack(data, LARGEST_META_BYTES)
    if not isinstance(fields, list) or len(fields) != len(Meta._fields):
        raise BadRecord(f"meta is a list of {len(Meta._fields)} fields")
    meta = Meta(*fields)
    texts = (meta.key, meta.id, meta.origin_id, meta.cause)
    if not all(text is None or isinstance(text, str) for text in texts):
        raise BadRecord("meta: key, id, origin and cause are text")
    if any(text is not None and len(text) > _MAX_LABEL for text in texts):
        raise BadRecord(f"meta: key, id, origin and cause have at most {_MAX_LABEL} characters")
    if not _is_expiry(meta.on_expiry):
        raise BadRecord("meta: on_expiry is drop, dead or queue:NAME")
    if not is_number(meta.not_before_us) or not (meta.max_attempts is None or is_number(meta.max_attempts)):
        raise BadRecord("meta: not_before and max_attempts are numbers from 0")
    if meta.not_before_us > MAX_TIME_US:
        raise BadRecord("meta: times are before the year 9999")
    if meta.headers is not None and not _are_headers(meta.headers):
        raise BadRecord("meta: headers are a map of text to text, numbers, truth values and bytes")
    return meta


def _is_expiry(value: object) -> bool:
    if not isinstance(value, str):
        return False
    return value in ("drop", "dead") or (value.startswith("queue:") and is_name(value[6:]))


def _are_headers(value: object) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and type(header) in (str, int, float, bool, bytes) for name, header in value.items()
    )


def is_number(value: object) -> bool:
    """True for an int from 0 to 2^64-1; bool is none."""
    return type(value) is int and 0 <= value <= MAX_U64


def unpack(data: bytes, max_bytes: int, max_list: int = _MAX_CONTROL_LIST, maps: bool = True) -> Any:
    """One msgpack value from another machine or from disk, with every limit set.

    A list takes memory for what it claims to hold before anything of it was read, and lists nest: hence
    `max_list`. Raises BadRecord for anything malformed, too large or of an extension type, and without `maps`
    for a map.
    """
    limit = len(data)
    if limit > max_bytes:
        raise BadRecord(f"{limit} bytes where at most {max_bytes} are allowed")
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=min(limit, max_list),
            max_map_len=limit // 2 if maps else 0,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises a dozen kinds, RecursionError and MemoryError among them
        raise BadRecord(f"not msgpack as zmqrel writes it: {type(error).__name__}") from None


# ---------------------------------------------------------------------------------------------- control entries

Range = tuple[int, int]
"""First and last sequence number, both included."""


class Withdraw(NamedTuple):
    """Sender to receiver: do not hand these over. Names the lane whole, for it may not have been heard of yet."""

    store_id: int
    lane_id: int
    kind: int
    queue: str
    ranges: list[Range]
    cause: Cause


class Settled(NamedTuple):
    """The outcome of a range of one lane. `handed_at_us` is 0 if it was never handed over."""

    first: int
    last: int
    outcome: Outcome
    reason: str | None
    attempts: int
    handed_at_us: int
    at_us: int
    applied: bool
    """True if the receiver judged an expiry itself and has applied `on_expiry` in its own store."""


class Settle(NamedTuple):
    """Receiver to sender: these ended."""

    store_id: int
    lane_id: int
    ranges: list[Settled]


class Notice(NamedTuple):
    """Receiver to sender: too late to withdraw, it was handed over at that time (0: not known)."""

    store_id: int
    lane_id: int
    seq: int
    handed_at_us: int


class Deny(NamedTuple):
    """Receiver to sender: these are not withdrawn, for their sender may not recall here. They go on as before."""

    store_id: int
    lane_id: int
    ranges: list[Range]
    reason: str


class InLaneState(NamedTuple):
    """What a receiver knows of the entries first to last of one lane of the other: which of them it holds.

    Tombstones (number and cause) are above its floor, so they may lie anywhere.
    """

    lane_id: int
    first: int
    last: int
    held: list[Range]
    tombstones: list[tuple[int, int]]


class OutLaneState(NamedTuple):
    """What a sender knows of the entries first to last of one lane of its own, `mark` being its `sent_upto`."""

    lane_id: int
    first: int
    last: int
    mark: int
    closed: bool
    unsettled: list[Range]


class State(NamedTuple):
    """A part of what two peers have to compare after one of them lost memory.

    Each part is true by itself and is applied when it comes, so that nobody has to gather them; `final` is the last.
    """

    store_id: int
    peer_store_id: int
    received: list[InLaneState]
    sent: list[OutLaneState]
    final: bool

    @property
    def things(self) -> int:
        """How many lanes, ranges and tombstones it names."""
        received = sum(1 + len(lane.held) + len(lane.tombstones) for lane in self.received)
        return received + sum(1 + len(lane.unsettled) for lane in self.sent)


ControlEntry = Withdraw | Settle | Notice | Deny | State

LARGEST_CONTROL = 3 << 20
"""Bytes that no control entry exceeds: every peer takes so much, however small the bodies are that it takes."""

_WITHDRAW, _SETTLE, _NOTICE, _STATE, _DENY = 1, 2, 3, 4, 5

MOST_IN_WITHDRAW = 20_000
"""Messages that one WITHDRAW names, so that it fits a frame whatever their numbers are."""
MOST_IN_SETTLE = 250
"""Ranges in one SETTLE, so that it stays below LARGEST_CONTROL whatever their reasons are."""
MOST_IN_STATE = 10_000
"""Lanes, ranges and tombstones that one part of a STATE names: it fits a frame whatever their numbers are, and takes
its reader no longer than other frames do."""


def encode_control(entry: ControlEntry) -> bytes:
    """The record of a control entry."""
    payload = pack(_control_fields(entry))
    return payload + _CRC.pack(crc32(payload))


def _control_fields(entry: ControlEntry) -> list[Any]:
    if isinstance(entry, Withdraw):
        return [_WITHDRAW, *entry[:5], entry.cause.value]
    if isinstance(entry, Settle):
        ranges = [(r.first, r.last, r.outcome.value, *r[3:]) for r in entry.ranges]
        return [_SETTLE, entry.store_id, entry.lane_id, ranges]
    if isinstance(entry, Notice):
        return [_NOTICE, *entry]
    if isinstance(entry, Deny):
        return [_DENY, *entry]
    return [_STATE, *entry]


def decode_control(record: bytes) -> ControlEntry:
    """The control entry of a record. Raises BadRecord if it is damaged or makes no sense."""
    if not verify(record):
        raise BadRecord("the checksum of a control entry does not match")
    fields = unpack(record[:-CHECK_BYTES], len(record))
    try:
        return _control_entry(fields)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise BadRecord(f"not a control entry: {error}") from None


def _control_entry(fields: Any) -> ControlEntry:
    if not isinstance(fields, list):
        raise BadRecord("a control entry is a list")
    kind = fields[0]
    _numbers(kind)
    if kind == _WITHDRAW:
        _, store_id, lane_id, lane_kind, queue, ranges, cause = fields
        _numbers(store_id, lane_id, lane_kind)
        return Withdraw(store_id, lane_id, lane_kind, _queue(queue), _ranges(ranges), _cause(cause))
    if kind == _SETTLE:
        _, store_id, lane_id, ranges = fields
        _numbers(store_id, lane_id)
        if len(ranges) > MOST_IN_SETTLE:
            raise ValueError(f"a SETTLE names at most {MOST_IN_SETTLE} ranges")
        return Settle(store_id, lane_id, [_settled(item) for item in ranges])
    if kind == _NOTICE:
        _, store_id, lane_id, seq, handed_at_us = fields
        _numbers(store_id, lane_id)
        _times(handed_at_us)
        return Notice(store_id, lane_id, _seq(seq), handed_at_us)
    if kind == _DENY:
        _, store_id, lane_id, ranges, reason = fields
        _numbers(store_id, lane_id)
        return Deny(store_id, lane_id, _ranges(ranges), _reason(reason))
    if kind == _STATE:
        return _state(*fields[1:])
    raise BadRecord(f"control entry of unknown kind {kind}")


def _settled(item: Any) -> Settled:
    first, last, outcome, reason, attempts, handed_at_us, at_us, applied = item
    _numbers(attempts, outcome)
    _times(handed_at_us, at_us)
    _range(first, last)
    if reason is not None:
        _reason(reason)
    return Settled(first, last, Outcome(outcome), reason, attempts, handed_at_us, at_us, bool(applied))


def _reason(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_REASON:
        raise ValueError(f"a reason is a text of at most {MOST_REASON} characters")
    return value


def _state(store_id: Any, peer_store_id: Any, received: Any, sent: Any, final: Any) -> State:
    _numbers(store_id, peer_store_id)
    state = State(store_id, peer_store_id, [_in_state(i) for i in received], [_out_state(i) for i in sent], bool(final))
    if state.things > MOST_IN_STATE:
        raise ValueError(f"a part of a STATE says at most {MOST_IN_STATE} things")
    return state


def _in_state(item: Any) -> InLaneState:
    lane_id, first, last, held, tombstones = item
    _numbers(lane_id)
    pairs = [(_seq(seq), _cause(cause).value) for seq, cause in tombstones]
    return InLaneState(lane_id, _seq(first), _seq(last), _ranges(held), pairs)


def _out_state(item: Any) -> OutLaneState:
    lane_id, first, last, mark, closed, unsettled = item
    _numbers(lane_id)
    return OutLaneState(lane_id, _seq(first), _seq(last), _seq(mark), bool(closed), _ranges(unsettled))


def _ranges(items: Any) -> list[Range]:
    return [_range(first, last) for first, last in items]


def _range(first: object, last: object) -> Range:
    if not 1 <= _seq(first) <= _seq(last):
        raise ValueError(f"{first} to {last} is no range")
    return cast(int, first), cast(int, last)


def _numbers(*values: object) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value <= MAX_U64:
            raise ValueError(f"{str(value)[:40]} is no number from 0 to 2^64-1")


def _seq(value: object) -> int:
    """A sequence number, or 0 for none."""
    if type(value) is not int or not 0 <= value <= MAX_SEQ:
        raise ValueError(f"{str(value)[:40]} is no sequence number")
    return value


def _times(*values: object) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value <= MAX_TIME_US:
            raise ValueError(f"{str(value)[:40]} is no time")


def _cause(value: object) -> Cause:
    _numbers(value)
    return Cause(value)


def _queue(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise ValueError("a queue is named by a text of at most 64 characters")
    return value


def to_ranges(seqs: Iterable[int]) -> list[Range]:
    """Ascending sequence numbers as ranges."""
    if isinstance(seqs, range):
        return [(seqs[0], seqs[-1])] if seqs else []
    ranges: list[Range] = []
    first = last = 0
    for seq in seqs:
        if seq == last + 1 and first:
            last = seq
            continue
        if first:
            ranges.append((first, last))
        first = last = seq
    if first:
        ranges.append((first, last))
    return ranges
