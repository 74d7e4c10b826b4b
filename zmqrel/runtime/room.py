"""Sends that wait for room in the outbox while their callers go on: those of `send_nowait` with a `room_timeout`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic

from zmqrel.core.commands import Send
from zmqrel.errors import OutboxFull


class WaitingSends:
    """First come, first served. Used by the loop alone, but for `expect`."""

    def __init__(self, most_messages: int, most_bytes: int, clock_s: Callable[[], float] = monotonic) -> None:
        """The limits of the outbox, and the clock that time-outs run on."""
        self._clock_s = clock_s
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._give_up_at: dict[int, float] = {}
        """By identity of the send, monotonic seconds: from when it is queued until it is answered."""
        self._waiting: OrderedDict[int, tuple[Send, OutboxFull]] = OrderedDict()
        """By identity too, in order."""
        self._by_time: list[tuple[float, int, Send]] = []
        """A heap, so that no turn looks at all who wait; those that do not any more are left in it until their time."""

    def expect(self, send: Send, timeout_s: float) -> None:
        """This send, which is about to be queued, may wait so long."""
        self._give_up_at[id(send)] = self._clock_s() + timeout_s

    def keep(self, send: Send, refusal: OutboxFull) -> bool:
        """Let a refused send wait. False if it does not want to, or not any more."""
        give_up_at = self._give_up_at.get(id(send))
        if give_up_at is None or give_up_at <= self._clock_s():
            return False
        self._waiting[id(send)] = send, refusal
        heappush(self._by_time, (give_up_at, id(send), send))
        return True

    def queue_behind(self, send: Send) -> bool:
        """Let a new send wait behind others that do, so that it does not overtake them. False if none do."""
        return bool(self._waiting) and self.keep(send, next(reversed(self._waiting.values()))[1])

    def answered(self, send: Send) -> None:
        """It was accepted, or refused for good."""
        self._give_up_at.pop(id(send), None)

    def take(self, messages: int, size: int) -> list[Send]:
        """Those that now have room in an outbox of so many messages and bytes, in order."""
        taken = []
        while self._waiting:
            send = next(iter(self._waiting.values()))[0]
            messages += len(send.records)
            size += sum(map(len, send.records))
            if messages > self._most_messages or size > self._most_bytes:
                break
            del self._waiting[id(send)]
            taken.append(send)
        return taken

    def give_up(self) -> list[tuple[Send, OutboxFull]]:
        """Those that have waited long enough, and what refused them."""
        over: list[tuple[Send, OutboxFull]] = []
        if not self._by_time:
            return over
        now = self._clock_s()
        while self._by_time and self._by_time[0][0] <= now:
            _, identity, _ = heappop(self._by_time)
            item = self._waiting.pop(identity, None)
            if item is not None:
                over.append(item)
        return over

    def timeout_s(self) -> float | None:
        """Until the next one may give up; None if none waits."""
        if not self._waiting:
            self._by_time.clear()
            return None
        return max(0.0, self._by_time[0][0] - self._clock_s())
