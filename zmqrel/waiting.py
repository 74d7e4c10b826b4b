"""Waiting for the outcomes of many messages, of one peer or of several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic

from zmqrel.checks import Duration
from zmqrel.errors import ConfigError, PeerClosed
from zmqrel.message import Receipt, ReceiptSequence, seconds_or_none
from zmqrel.outcome import Outcome
from zmqrel.receipts import Watcher


def wait_all(receipts: Iterable[Receipt], timeout: Duration | None = None) -> list[Outcome]:
    """Wait until all messages have their outcome; returns the outcomes in the order of `receipts`.

    Raises TimeoutError after `timeout` seconds, what refused a `send_nowait`, and PeerClosed.
    """
    if isinstance(receipts, ReceiptSequence):
        return _wait_together(receipts, seconds_or_none(timeout))
    waited, timeout_s = _checked(receipts), seconds_or_none(timeout)
    now_s = waited[0]._peer._monotonic_s if waited else monotonic
    give_up_at = None if timeout_s is None else now_s() + timeout_s
    outcomes = []
    for position, receipt in enumerate(waited):
        outcome = receipt.outcome
        if outcome is not None:
            outcomes.append(outcome)
            continue
        try:
            outcomes.append(receipt.wait(None if give_up_at is None else max(0.0, give_up_at - now_s())))
        except TimeoutError:
            left = sum(each.outcome is None for each in waited[position:])
            raise _too_late(left, len(waited), timeout_s) from None
    return outcomes


def _wait_together(receipts: ReceiptSequence, timeout_s: float | None) -> list[Outcome]:
    """The same for all messages of one call, without a look at each."""
    ticket = receipts._ticket
    if not (ticket.is_through or receipts._peer._wait(ticket, lambda: ticket.is_through, timeout_s)):
        raise _too_late(receipts.outcomes.count(None), len(receipts), timeout_s)
    return [outcome for outcome in receipts.outcomes if outcome is not None]


def _too_late(left: int, of: int, timeout_s: float | None) -> TimeoutError:
    return TimeoutError(f"{left} of {of} messages have no outcome after {timeout_s:g} s")


def as_completed(receipts: Iterable[Receipt], timeout: Duration | None = None) -> Iterator[Receipt]:
    """An iterator over the receipts in the order in which their messages get their outcome.

    Those that have one come first. A receipt whose `send_nowait` was refused comes too: its `wait` raises why. Raises
    TimeoutError if the last is not there `timeout` seconds after this call, and PeerClosed.
    """
    waited, timeout_s = _checked(receipts), seconds_or_none(timeout)
    if not waited:
        return iter(())
    return _completed(waited, timeout_s, None if timeout_s is None else waited[0]._peer._monotonic_s() + timeout_s)


def _completed(waited: list[Receipt], timeout_s: float | None, give_up_at: float | None) -> Iterator[Receipt]:
    done: SimpleQueue[tuple[Receipt, Exception | None]] = SimpleQueue()
    watchers: list[tuple[Receipt, Watcher]] = []
    peer = waited[0]._peer
    try:
        for receipt in waited:
            watcher: Watcher = partial(_put, done, receipt)
            watchers.append((receipt, watcher))
            receipt._peer._check_fork()
            receipt._ticket.watch(receipt._index, watcher)
        for position in range(len(waited)):
            try:
                left_s = None if give_up_at is None else give_up_at - peer._monotonic_s()
                receipt, error = peer._next_of(done, left_s)
            except Empty:
                raise _too_late(len(waited) - position, len(waited), timeout_s) from None
            if isinstance(error, PeerClosed):
                raise error
            yield receipt
    finally:
        for receipt, watcher in watchers:
            receipt._ticket.unwatch(receipt._index, watcher)


def _put(done: SimpleQueue[tuple[Receipt, Exception | None]], receipt: Receipt, error: Exception | None) -> None:
    done.put((receipt, error))


def _checked(receipts: object) -> list[Receipt]:
    waited = list(receipts) if isinstance(receipts, Iterable) else None
    if waited is None or not all(isinstance(receipt, Receipt) for receipt in waited):
        raise ConfigError.of("receipts", "Receipts", receipts)
    return waited
