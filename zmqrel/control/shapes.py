"""What is shown of messages and peers, as values that JSON can hold. docs/cli.schema.json describes them all."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from zmqrel.body import BadBody, decode_body
from zmqrel.core import commands as c
from zmqrel.core.dead import DeadLetter
from zmqrel.core.entries import CHECK_BYTES, BadRecord, MessageHead, decode_head
from zmqrel.core.history import Happened
from zmqrel.core.overview import PeerOverview, QueueOverview
from zmqrel.outcome import Cause, State
from zmqrel.receipts import Ticket

MOST_BODY_BYTES = 1 << 20
"""A larger body is not shown."""

Shape = dict[str, Any]
ToDatetime = Callable[[int], datetime]


def plain(value: Any) -> Any:
    """A body or header as JSON can say it: bytes become {"base64": ...}, numbers that are none become text."""
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _key(key: str | bytes) -> str:
    return key if isinstance(key, str) else "base64:" + b64encode(key).decode()


def instant(at_us: int, to_datetime: ToDatetime) -> str | None:
    """A time by the store clock as text; None for none."""
    return to_datetime(at_us).isoformat(timespec="microseconds") if at_us else None


def happenings(history: Iterable[Happened], to_datetime: ToDatetime) -> list[Shape]:
    """What happened, oldest first."""
    return [{"at": instant(at_us, to_datetime), "what": what, "detail": detail} for at_us, what, detail in history]


def outgoing(found: c.Found, record: bytes | None, to_datetime: ToDatetime) -> Shape:
    """A message sent from here; `record` while it has no outcome."""
    head, ended = _head(record), found.ended
    return {
        "id": found.id,
        "to": found.lane.peer,
        "queue": found.lane.queue,
        "key": found.key,
        "state": state_of(found).name,
        "outcome": None if ended is None else ended.outcome.name,
        "reason": None if ended is None else ended.reason,
        "sent_at": instant(found.sent_at_us, to_datetime),
        "deadline": None if head is None else instant(head.deadline_us, to_datetime),
        "bytes": None if record is None else len(record),
    }


def outgoing_full(found: c.Found, record: bytes | None, ticket: Ticket, to_datetime: ToDatetime) -> Shape:
    """The same with all that is known of it; `ticket` is what its receipt knows."""
    more = {
        "attempts": ticket.attempts(0),
        "handed_over_at": _handed(ticket, to_datetime),
        "headers": plain(found.headers),
        "body": _body(record, _head(record)),
        "lane": f"{found.lane.id:016x}",
        "number": found.seq,
        "history": happenings(ticket.history(0), to_datetime),
    }
    return outgoing(found, record, to_datetime) | {"state": ticket.state(0).name} | more


def incoming(item: c.Incoming, to_datetime: ToDatetime, full: bool) -> Shape:
    """A message of the inbox."""
    head = _head(item.record)
    shape = {
        "id": item.id,
        "sender": item.sender,
        "queue": item.queue,
        "key": None if head is None else head.meta.key,
        "attempts": item.attempts,
        "in_hand": item.in_hand,
        "redelivered": item.redelivered,
        "sent_at": instant(item.sent_us, to_datetime),
        "due_at": instant(item.ready_us, to_datetime),
        "deadline": instant(item.deadline_us, to_datetime),
        "bytes": len(item.record),
    }
    return shape | _rest(item.record, head, item.history, to_datetime) if full else shape


def dead_letter(number: int, letter: DeadLetter, to_datetime: ToDatetime, full: bool) -> Shape:
    """A dead letter; `number` is what it is retried and purged by."""
    head = _head(letter.record)
    shape = {
        "number": number,
        "id": letter.id,
        "sender": letter.sender,
        "to": letter.to,
        "queue": letter.queue,
        "key": None if head is None else head.meta.key,
        "cause": letter.cause,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "died_at": instant(letter.at_us, to_datetime),
        "sent_at": instant(letter.sent_us, to_datetime),
        "bytes": len(letter.record),
    }
    return shape | _rest(letter.record, head, letter.history, to_datetime) if full else shape


def recall(found: c.Found, ticket: Ticket, to_datetime: ToDatetime) -> Shape:
    """What a recall has come to."""
    ended = found.ended
    return {
        "id": found.id,
        "to": found.lane.peer,
        "queue": found.lane.queue,
        "verdict": ticket.verdict(0).name,
        "outcome": None if ended is None else ended.outcome.name,
        "reason": None if ended is None else ended.reason,
        "handed_over_at": _handed(ticket, to_datetime),
    }


def peer(of: PeerOverview) -> Shape:
    """One remote peer."""
    return {
        "name": of.name,
        "endpoint": of.endpoint,
        "listed": of.listed,
        "connected": of.connected,
        "store_id": f"{of.store_id:016x}" if of.store_id else None,
        "unsent": of.unsent,
        "unacknowledged": of.unacknowledged,
        "inbox_messages": of.inbox_messages,
        "clock_offset_s": None if of.clock_offset_us is None else of.clock_offset_us / 1e6,
    }


def queue(of: QueueOverview) -> Shape:
    """One queue of the inbox."""
    return {"name": of.name, "messages": of.messages, "bytes": of.size, "served": of.served}


def state_of(found: c.Found) -> State:
    """Where a message is on its way, as its sender's store knows it."""
    if found.ended is not None:
        return State.SETTLED
    if found.withdrawn is not None:
        return State.RECALLING if found.withdrawn is Cause.RECALL else State.EXPIRING
    if found.seq <= found.lane.acked:
        return State.RECEIVED
    return State.SENT if found.seq <= found.lane.sent_upto else State.STORED


def _handed(ticket: Ticket, to_datetime: ToDatetime) -> str | None:
    # 1 stands for a time that is not known.
    at_us = ticket.handed_at_us(0)
    return instant(at_us if at_us > 1 else 0, to_datetime)


def _rest(record: bytes, head: MessageHead | None, history: Iterable[Happened], to_datetime: ToDatetime) -> Shape:
    return {
        "headers": plain((head.meta.headers if head else None) or {}),
        "origin_id": head.meta.origin_id if head else None,
        "origin_cause": head.meta.cause if head else None,
        "body": _body(record, head),
        "history": happenings(history, to_datetime),
    }


def origin_id(record: bytes) -> str | None:
    """The id of the message that one was made of."""
    head = _head(record)
    return None if head is None else head.meta.origin_id


def _head(record: bytes | None) -> MessageHead | None:
    try:
        return None if record is None else decode_head(record)
    except BadRecord:
        return None


def _body(record: bytes | None, head: MessageHead | None) -> Shape | None:
    """{"value": the body}, or {"left_out": why}; None if there is none any more."""
    if record is None:
        return None
    if head is None:
        return {"left_out": "the record is damaged"}
    data = memoryview(record)[head.body_at : -CHECK_BYTES]
    if len(data) > MOST_BODY_BYTES:
        return {"left_out": f"{len(data)} bytes are too many to be shown"}
    try:
        return {"value": plain(decode_body(data))}
    except BadBody as error:
        return {"left_out": f"it cannot be decoded: {error}"}
