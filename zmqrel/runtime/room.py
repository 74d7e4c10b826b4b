"""Sends that wait for room in the outbox while their callers go on: those of `send_nowait` with a `room_timeout`."""

from __future__ import annotations

from collections import deque
from time import monotonic

from zmqrel.core.commands import Send
from zmqrel.errors import OutboxFull


class WaitingSends:
    """First come, first served. Used by the loop alone, but for `expect`."""

    def __init__(self, most_messages: int, most_bytes: int) -> None:
        """The limits of the outbox."""
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._give_up_at: dict[int, float] = {}
        """By identity of the send, monotonic seconds: from when it is queued until it is answered."""
        self._waiting: deque[tuple[Send, OutboxFull]] = deque()

    def expect(self, send: Send, timeout_s: float) -> None:
        """This send, which is about to be queued, may wait so long."""
        self._give_up_at[id(send)] = monotonic() + timeout_s

    def keep(self, send: Send, refusal: OutboxFull) -> bool:
        """Let a refused send wait. False if it does not want to, or not any more."""
        give_up_at = self._give_up_at.get(id(send))
        if give_up_at is None or give_up_at <= monotonic():
            return False
        self._waiting.append((send, refusal))
        return True

    def queue_behind(self, send: Send) -> bool:
        """Let a new send wait behind others that do, so that it does not overtake them. False if none do."""
        return bool(self._waiting) and self.keep(send, self._waiting[-1][1])

    def answered(self, send: Send) -> None:
        """It was accepted, or refused for good."""
        self._give_up_at.pop(id(send), None)

    def take(self, messages: int, size: int) -> list[Send]:
        """Those that now have room in an outbox of so many messages and bytes, in order."""
        taken = []
        while self._waiting:
            send = self._waiting[0][0]
            messages += len(send.records)
            size += sum(map(len, send.records))
            if messages > self._most_messages or size > self._most_bytes:
                break
            taken.append(self._waiting.popleft()[0])
        return taken

    def give_up(self) -> list[tuple[Send, OutboxFull]]:
        """Those that have waited long enough, and what refused them."""
        now = monotonic()
        over = [item for item in self._waiting if self._give_up_at[id(item[0])] <= now]
        if over:
            self._waiting = deque(item for item in self._waiting if self._give_up_at[id(item[0])] > now)
        return over

    def timeout_s(self) -> float | None:
        """Until the next one gives up; None if none waits."""
        if not self._waiting:
            return None
        return max(0.0, min(self._give_up_at[id(send)] for send, _ in self._waiting) - monotonic())
