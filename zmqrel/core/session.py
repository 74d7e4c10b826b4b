"""Sessions of one channel: the handshake, liveness, and which link to speak on.

    connector                          binder
        HELLO  ------------------------->        who I am; repeated until there is a WELCOME
              <-------------------------  WELCOME   the same one for the same HELLO; nothing is adopted yet
        OPEN   ------------------------->        adopted and judged by both now; repeated until answered

A session belongs to one link and is named by 16 bytes, half from each side. Frames count only in the session that
they name; a late copy of a HELLO, OPEN or BYE of another session changes nothing (F6).

Heartbeats: whoever heard nothing for `heartbeat_s` sends a PING, which is answered; any other frame says as well that
the other side is alive. The side that dialled asks first, so that one of the two does, and the other one only if it
does not come to that. Now and then a PING is sent beside other frames, for the reading of a clock in its PONG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from zmqrel.core import frames
from zmqrel.core.frames import Frame, Identity, Info
from zmqrel.core.limits import FRAME_COST, MOST_SESSIONS, PING_COST
from zmqrel.core.offset import ClockOffset
from zmqrel.core.shared import Shared

FIRST_HELLO_US = 50_000
MOST_HELLO_US = 1_000_000
MOST_DEAF_US = 60_000_000
"""A DEALER whose HELLO finds no answer for `liveness_s` is made anew, the next one after twice as long, up to this: a
connection can be half-open before anybody spoke on it. A peer that is not there costs a socket a minute."""
BYE_TO_HELLO_US = 10_000
_PENDING_US = 10_000_000
"""How long a HELLO may stay without its OPEN before its link is forgotten."""
_LONG_AGO_US = -(2**62)
_TAKEN_BACK = (b"", 0)
"""Instead of a session that was offered and is not any more; its link is still to be forgotten."""
_READING_EVERY = 8
"""Heartbeats between two readings of the other's clock, where frames flow: two clocks part by less than 1 ms in 8 s."""
_HEARTBEATS_TOGETHER = 2
"""Times in a heartbeat at which PINGs leave, so that those of several sessions do in the same turn."""
_CHALLENGE_US = 300_000
"""How long a life has to show that it is not over when another life of the same store says HELLO. One process at a time
opens a store, so the earlier life is dead, or its frames are late ones."""


@dataclass(slots=True)
class Session:
    """One open session."""

    link: int
    id: bytes
    dialled: bool
    store_id: int
    instance: int
    largest_entry: int
    heard_us: int
    """When a frame of it came last, monotonic."""
    ping_timer: tuple[str, str, int]
    """The timer that ends its silence."""
    answered: bool = False
    """The other side has adopted it too."""
    welcomed: tuple[int, int] = (0, 0)
    """When WELCOME left there, by their clock, and came here, by ours: for OPEN, until it is answered."""


class Sessions:
    """The sessions of a channel. Calls `begin(session, info, count)` for each new one and `ended()` after a loss."""

    def __init__(
        self,
        shared: Shared,
        name: str,
        clock: ClockOffset,
        info: Callable[[int], Info],
        begin: Callable[[Session, Info, int], bool],
        ended: Callable[[], None],
    ) -> None:
        self._shared = shared
        self._name = name
        self._clock = clock
        self._heartbeat_us = int(shared.options.heartbeat_s * 1e6)
        self._liveness_us = int(shared.options.liveness_s * 1e6)
        self._reading_due_us = 0
        """When the other's clock is to be read again, monotonic."""
        self._info = info
        self._begin = begin
        self._ended = ended
        self.open: dict[int, Session] = {}
        self._pending: dict[int, tuple[bytes, int]] = {}
        """Inbound link -> session id that its HELLO drew, and the life of the peer that it was offered to."""
        self.dialled_link: int | None = None
        self._half = b""
        self._half_for = 0
        """The only life that may answer the present HELLO, 0 if no other was met since it was first said: a late answer
        of an earlier life would be taken for that of the next one, with floors that fell."""
        self._instance = 0
        """The life of the peer that clock samples are of."""
        self._hello_wait_us = FIRST_HELLO_US
        self._deaf_wait_us = self._liveness_us
        self._deaf_at_us = 0
        """When the dialled link is given up if its HELLO has found no answer by then."""
        self._challenged_us = _LONG_AGO_US

    # ------------------------------------------------------------------------------------------ connector

    def dialled(self, link: int) -> None:
        """There is a socket to the peer: say HELLO until it answers."""
        self.dialled_link = link
        self._hello_wait_us = FIRST_HELLO_US
        self._new_half()
        self._hello()

    def _new_half(self) -> None:
        self._half_for = 0
        self._deaf_at_us = self._shared.now.mono_us + self._deaf_wait_us
        self._half = self._shared.random_id().to_bytes(8, "big")

    def _hello(self) -> None:
        link = self.dialled_link
        if link is None or link in self.open:
            return
        self._send(link, frames.HELLO, self._half, self._identity(), self._shared.now.store_us)
        self._shared.timers.set(("hello", self._name), self._shared.now.mono_us + self._hello_wait_us)
        self._hello_wait_us = min(MOST_HELLO_US, self._hello_wait_us * 3 // 2)

    def hello_due(self) -> None:
        """Repeat what was not answered: HELLO, or OPEN."""
        session = self.open.get(self.dialled_link or 0)
        if session is None:
            if self.dialled_link is not None and self._shared.now.mono_us >= self._deaf_at_us:
                self._deaf_wait_us = max(self._liveness_us, min(MOST_DEAF_US, 2 * self._deaf_wait_us))
                self._dial_anew(self.dialled_link)
            else:
                self._hello()
        elif not session.answered:
            self._send_open(session)
            self._shared.timers.set(("hello", self._name), self._shared.now.mono_us + self._hello_wait_us)

    def _send_open(self, session: Session) -> None:
        reading = [*session.welcomed, self._shared.now.store_us]
        info = partial(self._info, session.store_id)
        self._send(session.link, frames.OPEN, session.id, self._identity(), reading, info)

    def on_welcome(self, link: int, frame: Frame) -> None:
        """The binder answered our HELLO."""
        identity, clock, info = frame.fields
        if link != self.dialled_link or frame.session[:8] != self._half or link in self.open:
            self._count_stale()
            return
        if not self._is_expected(identity):
            self._shared.wasted += FRAME_COST
            return
        if self._half_for not in (0, frame.instance):
            self._count_stale()
            self._new_half()
            self._hello()
            return
        now = self._shared.now
        echoed_us, received_there_us, sent_there_us = clock
        if not self._admit(identity.store_id, frame.instance):
            self._shared.wasted += FRAME_COST
            return
        self._take_instance(frame.instance)
        self.read_clock(echoed_us, received_there_us, sent_there_us)
        self._deaf_wait_us = self._liveness_us
        session = self._session(link, frame, identity, info, dialled=True)
        # Judged before OPEN is written, for OPEN says what this side found out.
        if not self._adopt(session, info, frame.commits):
            return
        session.welcomed = sent_there_us, now.store_us
        self._send_open(session)
        self._shared.timers.set(("hello", self._name), now.mono_us + FIRST_HELLO_US * 4)

    def _count_stale(self) -> None:
        self._shared.counters["stale_frames"] += 1
        self._shared.wasted += FRAME_COST

    def _is_expected(self, identity: Identity) -> bool:
        if identity.protocol != frames.PROTOCOL:
            self._shared.event("refused", self._name, f"speaks protocol {identity.protocol}, not {frames.PROTOCOL}")
            return False
        if identity.name != self._name:
            self._shared.event("refused", self._name, f"the endpoint answers as {identity.name!r}")
            return False
        return True

    # --------------------------------------------------------------------------------------------- binder

    def on_hello(self, link: int, frame: Frame) -> None:
        """A connector introduces itself. Draws a WELCOME and changes nothing else."""
        identity, sent_us = frame.fields
        if not self._is_expected(identity):
            self.bye(link, frame.session, f"this side speaks protocol {frames.PROTOCOL}")
            return
        if not self._admit(identity.store_id, frame.instance):
            return
        session_id, _ = self._pending.get(link, _TAKEN_BACK)
        session = self.open.get(link)
        if session is not None and session.id[:8] == frame.session:
            session_id = session.id
        if session_id[:8] != frame.session:
            session_id = frame.session + self._shared.random_id().to_bytes(8, "big")
            self._make_room_to_offer(link)
            self._pending[link] = session_id, frame.instance
            self._shared.timers.set(("pending", self._name, link), self._shared.now.mono_us + _PENDING_US)
        now_us = self._shared.now.store_us
        info = partial(self._info, identity.store_id)
        self._send(link, frames.WELCOME, session_id, self._identity(), [sent_us, now_us, now_us], info)

    def on_open(self, link: int, frame: Frame) -> None:
        """The connector adopts the session: so do we, and judge what it says."""
        identity, clock, info = frame.fields
        session = self.open.get(link)
        if session is not None and session.id == frame.session:
            self._shared.wasted += PING_COST
            self._send(link, frames.PING, session.id, self._shared.now.store_us)
            return
        if self._pending.get(link) != (frame.session, frame.instance) or not self._is_expected(identity):
            self._count_stale()
            self.bye(link, frame.session, "not the session that was offered")
            return
        if not self._admit(identity.store_id, frame.instance):
            self._shared.wasted += FRAME_COST
            return
        del self._pending[link]
        self._take_instance(frame.instance)
        echoed_us, received_there_us, sent_there_us = clock
        self.read_clock(echoed_us, received_there_us, sent_there_us)
        session = self._session(link, frame, identity, info, dialled=False)
        session.answered = True
        if self._adopt(session, info, frame.commits):
            self._send(link, frames.PING, session.id, self._shared.now.store_us)

    # ----------------------------------------------------------------------------------------------- both

    def _admit(self, store_id: int, instance: int) -> bool:
        """A name is held by one store and one life of it as long as that answers PINGs.

        Another life of the same store takes over once the holder leaves a PING unanswered. Another store may be anyone
        with the same name: the holder keeps it for `liveness_s` without a sign of life, unless its link is closed.
        """
        others = [s for s in self.open.values() if (s.store_id, s.instance) != (store_id, instance)]
        if not others:
            return True
        now_us = self._shared.now.mono_us
        if now_us - self._challenged_us > 10 * _CHALLENGE_US:
            self._challenged_us = now_us
            for session in others:
                self._send(session.link, frames.PING, session.id, self._shared.now.store_us)
            return False
        if any(session.heard_us > self._challenged_us for session in others):
            self._shared.event("refused", self._name, "another process with this name is connected and answers")
            self._challenged_us = _LONG_AGO_US
            return False
        if now_us - self._challenged_us < _CHALLENGE_US:
            return False
        if any(s.store_id != store_id and now_us - s.heard_us < self._liveness_us for s in others):
            return False
        for session in others:
            self.end(session, "another life of this peer took over")
        self._shared.counters["newcomers_waited"] += 1
        return True

    def _take_instance(self, instance: int) -> None:
        """A new life of the peer: sessions of older ones end, and its clock may have been set anew."""
        if instance != self._instance:
            self._instance = instance
            self._clock.forget_samples()
            self._half_for = instance
            for link, (_, offered_to) in self._pending.items():
                if offered_to != instance:
                    self._pending[link] = _TAKEN_BACK
        for session in list(self.open.values()):
            if session.instance != instance:
                self.end(session, "the peer began a new life")

    def _session(self, link: int, frame: Frame, identity: Identity, info: Info, dialled: bool) -> Session:
        return Session(
            link, frame.session, dialled, identity.store_id, frame.instance, info.largest_entry,
            self._shared.now.mono_us, ("ping", self._name, link),
        )  # fmt: skip

    def _adopt(self, session: Session, info: Info, count: int) -> bool:
        previous = self.open.pop(session.link, None)
        if len(self.open) >= MOST_SESSIONS:
            self._end_most_silent()
        self.open[session.link] = session
        if not self._begin(session, info, count):
            return False
        if previous is None:
            self._shared.counters["sessions"] += 1
        self._expect_silence(session)
        return True

    def _end_most_silent(self) -> None:
        inbound = [session for link, session in self.open.items() if link != self.dialled_link]
        self._shared.event("limited", self._name, f"more than {MOST_SESSIONS} sessions")
        self.end(min(inbound, key=lambda session: session.heard_us), "too many sessions")

    def _make_room_to_offer(self, link: int) -> None:
        """A session can be offered on so many links: one that is not opened for long gives way."""
        others = [other for other in self._pending if other != link]
        if len(others) >= MOST_SESSIONS:
            self._shared.counters["limited"] += 1
            self._shared.timers.cancel(("pending", self._name, others[0]))
            self.pending_due(others[0])

    def current(self, link: int, session_id: bytes) -> Session | None:
        """The open session of that link, if it is the one that is named."""
        session = self.open.get(link)
        return session if session is not None and session.id == session_id else None

    def heard(self, session: Session) -> None:
        """A frame of the session came."""
        now_us = session.heard_us = self._shared.now.mono_us
        self._expect_silence(session)
        if now_us >= self._reading_due_us:
            self._ping(session)
        if not session.answered:
            session.answered = True
            self._hello_wait_us = FIRST_HELLO_US

    def _expect_silence(self, session: Session) -> None:
        """Ask for a sign of life if nothing is heard from now on."""
        wait_us = self._heartbeat_us
        if not session.dialled:
            wait_us = min(2 * wait_us, (wait_us + self._liveness_us) // 2)
        due_us = self._shared.now.mono_us + wait_us
        together_us = self._heartbeat_us // _HEARTBEATS_TOGETHER or 1
        self._shared.timers.set(session.ping_timer, due_us - due_us % together_us)

    def read_clock(self, echoed_us: int, received_there_us: int, sent_there_us: int) -> None:
        """The other side's readings when it was asked at `echoed_us`, by our clock."""
        self._clock.sample(echoed_us, received_there_us, sent_there_us, self._shared.now.store_us)
        self._reading_due_us = self._shared.now.mono_us + _READING_EVERY * self._heartbeat_us

    def preferred(self) -> Session | None:
        """The session to speak on: that of the own DEALER, or else the one heard last.

        There may be several inbound ones: a connection that was made anew has a new link, and the old one is still
        taken for alive.
        """
        own = self.open.get(self.dialled_link or 0)
        if own is not None or len(self.open) > 1:
            return own or max(self.open.values(), key=lambda session: session.heard_us)
        return next(iter(self.open.values()), None)

    def pending_due(self, link: int) -> None:
        """A connector that said HELLO had time enough to open its session."""
        if self._pending.pop(link, None) is not None and link not in self.open:
            self._shared.effects.hang_up.append(link)

    def is_pending(self, link: int, session_id: bytes) -> bool:
        """True if the session was offered and its OPEN has not come yet."""
        return self._pending.get(link, _TAKEN_BACK)[0] == session_id

    def ping_due(self, link: int) -> None:
        """Nothing of a session was heard for a while; for `liveness_s`: it is down."""
        session = self.open.get(link)
        if session is None:
            return
        now_us = self._shared.now.mono_us
        silent_us = now_us - session.heard_us
        if silent_us >= self._liveness_us and not self._is_receiving(link):
            self._shared.event("silent", self._name, f"nothing heard for {silent_us / 1e6:.1f} s")
            self.lost(session)
            return
        self._ping(session)
        down_us = session.heard_us + self._liveness_us
        next_us = now_us + self._heartbeat_us
        self._shared.timers.set(session.ping_timer, min(next_us, down_us) if down_us > now_us else next_us)

    def _is_receiving(self, link: int) -> bool:
        """Whether parts of a large frame come, which is heard of at its end, and whatever is said comes behind it."""
        transport = self._shared.transport
        quiet_us = None if transport is None else transport.quiet_us(link)
        return quiet_us is not None and quiet_us < self._liveness_us

    def _ping(self, session: Session) -> None:
        self._send(session.link, frames.PING, session.id, self._shared.now.store_us)
        self._reading_due_us = self._shared.now.mono_us + self._heartbeat_us  # its PONG may be lost

    def on_ping(self, session: Session, sent_us: int) -> None:
        """Answer with both readings."""
        now_us = self._shared.now.store_us
        self._send(session.link, frames.PONG, session.id, sent_us, now_us, now_us)

    def on_bye(self, link: int, frame: Frame) -> None:
        """The other side knows no such session; ours, if it is the current one of this link, is over."""
        session = self.current(link, frame.session)
        refused = link == self.dialled_link and frame.session == self._half
        if session is None and not refused:
            self._count_stale()
            return
        if session is not None:
            self.end(session, frame.fields[0])
        if link == self.dialled_link:
            self._deaf_wait_us = self._liveness_us
            self._new_half()
            delay_us = MOST_HELLO_US if refused else BYE_TO_HELLO_US
            self._shared.timers.set(("hello", self._name), self._shared.now.mono_us + delay_us)

    def lost(self, session: Session) -> None:
        """The link is down: a DEALER is made anew, for one with a half-open connection can stay deaf."""
        self.end(session, "silent")
        if session.link == self.dialled_link:
            self._dial_anew(session.link)

    def _dial_anew(self, link: int) -> None:
        self._shared.effects.hang_up.append(link)
        self.dialled_link = None
        self._shared.effects.dial.append(self._name)

    def link_down(self, link: int) -> None:
        """The transport says that an inbound link is gone."""
        self._pending.pop(link, None)
        session = self.open.get(link)
        if session is not None:
            self.end(session, "gone")

    def end(self, session: Session, reason: str) -> None:
        """Forget a session; say so to the other side, should it still listen."""
        if self.open.get(session.link) is session:
            del self.open[session.link]
            self.bye(session.link, session.id, reason)
            if session.link != self.dialled_link:
                self._shared.effects.hang_up.append(session.link)  # should it speak again, it is a new link
            self._ended()

    def end_all(self, reason: str, spared: Session | None = None) -> None:
        """End every session but the one spared, and take back what was offered; connectors begin anew."""
        self._pending = dict.fromkeys(self._pending, _TAKEN_BACK)
        for session in list(self.open.values()):
            if session is spared:
                continue
            self.end(session, reason)
            if session.link == self.dialled_link:
                self._new_half()
                self._shared.timers.set(("hello", self._name), self._shared.now.mono_us)

    def bye(self, link: int, session_id: bytes, reason: str) -> None:
        """Say that there is no such session (any more)."""
        self._send(link, frames.BYE, session_id, reason[:200])

    def _identity(self) -> list[Any]:
        return [frames.PROTOCOL, self._shared.name, self._shared.ledger.store_id]

    def _header(self, frame_type: int, session_id: bytes, *fields: Any) -> list[Any]:
        return frames.header(frame_type, session_id, self._shared.ledger.instance, *fields)

    def _send(self, link: int, frame_type: int, session_id: bytes, *fields: Any) -> None:
        self._shared.frames.append((link, self._header(frame_type, session_id, *fields), None))
