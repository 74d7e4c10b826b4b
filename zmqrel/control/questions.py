"""What can be asked of a store, running or not, and how each question is answered.

Every answer is bounded: what is long is asked for in pages, and who asks says where to go on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zmqrel.checks import check_id, check_queue
from zmqrel.control import shapes
from zmqrel.control.asked import Asked
from zmqrel.control.place import VERSION
from zmqrel.control.shapes import Shape
from zmqrel.core import commands as c
from zmqrel.core.verification import Totals, compare
from zmqrel.errors import ConfigError, Error, UnknownMessage

_log = logging.getLogger("zmqrel")

Arguments = Mapping[str, Any]


def answer(asked: Asked, question: Arguments) -> Shape:
    """The answer to a question {"version", "ask": its name, and its arguments}: {"answer": ...} or {"error": ...}.

    Raises nothing: an error is {"error": its class, "message": what it says}.
    """
    try:
        if question.get("version") != VERSION:
            raise ConfigError(f"this peer answers questions of version {VERSION}, not {question.get('version')!r}")
        name = question.get("ask")
        function = QUESTIONS.get(name) if isinstance(name, str) else None
        if function is None:
            raise ConfigError.of("ask", " or ".join(QUESTIONS), name)
        return {"answer": function(asked, question)}
    except Error as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        _log.exception("a question to the control socket failed")
        return {"error": type(error).__name__, "message": str(error)}


def status(asked: Asked, _: Arguments) -> Shape:
    """How the peer stands."""
    overview = asked.look(lambda engine: engine.overview())
    return {
        "peer": asked.name,
        "store": str(asked.directory),
        "running": asked.running,
        "pid": os.getpid() if asked.running else None,
        "last_life": getattr(asked, "previous", None),
        "disk_bytes": _disk_bytes(asked.directory),
        "store_id": f"{overview.store_id:016x}",
        "peers": [shapes.peer(each) for each in overview.peers],
        "queues": [shapes.queue(each) for each in overview.queues],
        "stats": asked.stats(),
        "control": asked.control(),
    }


def outbox(asked: Asked, arguments: Arguments) -> Shape:
    """A page of the messages sent from here that have no outcome."""
    page: c.Page[c.Outgoing] = asked.ask(c.ListOutbox(_left(arguments)))
    wanted = [item for item in page.items if _is_wanted(item.found.id, arguments)]
    items = [shapes.outgoing(item.found, item.record, asked.to_datetime) for item in wanted]
    return {"items": items, "left": [list(part) for part in page.left]}


def inbox(asked: Asked, arguments: Arguments) -> Shape:
    """A page of the messages received and not settled, of one queue or of all."""
    queue = arguments.get("queue")
    only = None if queue is None else check_queue(queue)
    page: c.Page[c.Incoming] = asked.ask(c.ListInbox(only, _left(arguments)))
    wanted = [item for item in page.items if _is_wanted(item.id, arguments, item.record)]
    items = [shapes.incoming(item, asked.to_datetime, _full(arguments)) for item in wanted]
    return {"items": items, "left": [list(part) for part in page.left]}


def dead(asked: Asked, arguments: Arguments) -> Shape:
    """A page of the dead letters behind a number, up to the one that was the last when the first page was asked."""
    after = _number(arguments, "after", 0)
    upto = _number(arguments, "upto", 0) or asked.ask(c.LastDead())
    letters, more = asked.ask(c.ListDead(after, upto))
    wanted = [(number, letter) for number, letter in letters if _is_wanted(letter.id, arguments, letter.record)]
    items = [shapes.dead_letter(number, letter, asked.to_datetime, _full(arguments)) for number, letter in wanted]
    return {"items": items, "after": letters[-1][0] if letters and more else None, "upto": upto}


def find(asked: Asked, arguments: Arguments) -> Shape:
    """What is known of an id without searching: what was sent under it, and what was received if zmqrel made it.

    `passed` names the sender of one that was received here and has left the inbox.
    """
    message_id = check_id(arguments.get("id"))
    found: c.Found | None = asked.ask(c.Find(message_id))
    sent = None
    if found is not None:
        page: c.Page[c.Outgoing] = asked.ask(c.ListOutbox([c.LanePart(found.lane.no, found.seq, found.seq)]))
        record = page.items[0].record if page.items else None
        sent = shapes.outgoing_full(found, record, asked.ticket(found), asked.to_datetime)
    received = asked.ask(c.FindReceived(message_id))
    return {
        "sent": sent,
        "received": [shapes.incoming(item, asked.to_datetime, True) for item in received],
        "passed": asked.look(lambda engine: engine.passed(message_id)),
    }


def recall(asked: Asked, arguments: Arguments) -> Shape:
    """Recall a message that was sent from here. It is committed, and asked again it says what has come of it."""
    message_id = check_id(arguments.get("id"))
    found: c.Found | None = asked.ask(c.Find(message_id))
    if found is None:
        raise UnknownMessage(f"no message {message_id!r} was sent from {asked.name!r}, or its outcome is forgotten")
    if found.ended is None:
        found = asked.ask(c.Recall([(found.lane.no, found.seq)], [message_id]))[0] or found
    return shapes.recall(found, asked.ticket(found), asked.to_datetime)


def retry_dead(asked: Asked, arguments: Arguments) -> Shape:
    """Turn one dead letter into a new message in the inbox; its id, None if it was gone."""
    queue = arguments.get("queue")
    command = c.RetryDead(_number(arguments, "number"), None if queue is None else check_queue(queue))
    return {"new_id": asked.ask(command)}


def purge_dead(asked: Asked, arguments: Arguments) -> Shape:
    """Delete dead letters by their numbers, those that died before a time: a part, and whether to ask again."""
    before = arguments.get("before")
    if before is not None and (isinstance(before, bool) or not isinstance(before, int | float)):
        raise ConfigError.of("before", "POSIX seconds", before)
    before_us = None if before is None else asked.from_posix(before)
    purged, more = asked.ask(c.PurgeDead(_number(arguments, "first"), _number(arguments, "last"), before_us))
    return {"purged": purged, "more": more}


def examine(asked: Asked, arguments: Arguments) -> Shape:
    """Check a page of the store's rows, those behind the key `behind`."""
    behind = arguments.get("behind", b"\x01")
    if not isinstance(behind, bytes) or len(behind) > 511:
        raise ConfigError.of("behind", "a key: at most 511 bytes", behind)
    page = asked.examine(behind)
    return page._asdict() | {
        "faults": [fault._asdict() for fault in page.faults],
        "totals": list(page.totals),
        "ledger": list(page.ledger),
    }


def compared(counted: list[int], ledger: list[int]) -> list[Shape]:
    """The faults in what all pages of one commit have counted."""
    return [fault._asdict() for fault in compare(Totals(*counted), Totals(*ledger))]


QUESTIONS: dict[str, Callable[[Asked, Arguments], Shape]] = {
    "status": status,
    "outbox": outbox,
    "inbox": inbox,
    "dead": dead,
    "find": find,
    "recall": recall,
    "retry_dead": retry_dead,
    "purge_dead": purge_dead,
    "examine": examine,
}
CHANGING = frozenset(("recall", "retry_dead", "purge_dead"))
"""Questions that change the store."""


def _disk_bytes(directory: Path) -> int:
    """What the files of the store take on the disk; the data file is sparse."""
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False))


def _is_wanted(message_id: str, arguments: Arguments, record: bytes | None = None) -> bool:
    """Whether it has the id that is asked for, if one is; with `or_origin` also if it was made of that message."""
    wanted = arguments.get("id")
    if wanted in (None, message_id):
        return True
    return record is not None and arguments.get("or_origin") is True and wanted == shapes.origin_id(record)


def _full(arguments: Arguments) -> bool:
    return arguments.get("full") is True


def _number(arguments: Arguments, name: str, default: int | None = None) -> int:
    number = arguments.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise ConfigError.of(name, "a whole number from 0", number)
    return number


def _left(arguments: Arguments) -> list[c.LanePart] | None:
    """Where a listing goes on: a list of [lane, first, last], as the page before said."""
    left = arguments.get("left")
    if left is None:
        return None
    if not isinstance(left, list) or not all(_is_part(part) for part in left):
        raise ConfigError.of("left", "what the page before said", left)
    return [c.LanePart(*part) for part in left]


def _is_part(part: object) -> bool:
    if not isinstance(part, list) or len(part) != 3:
        return False
    limits = zip(part, (2**32, 2**63, 2**63), strict=True)
    return all(type(number) is int and 0 <= number < limit for number, limit in limits)
