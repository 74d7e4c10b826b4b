"""The serving end of a control socket: a thread that reads questions and writes answers, for the owner only.

Not the I/O thread: that one answers what is asked of the store, bounded and between two turns, but never waits for
somebody who speaks slowly, or not at all. What is no question is counted and dropped.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import stat
import struct
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

from zmqrel.control.place import LENGTH, MOST_QUESTION_BYTES, SOCKET, address_of, framed, unix_socket
from zmqrel.core.entries import BadRecord, unpack
from zmqrel.runtime.doors import identity
from zmqrel.store.limits import remedy

_log = logging.getLogger("zmqrel")

_MOST_CONNECTIONS: Final = 32
_QUESTION_S: Final = 2.0
"""In which a question is to be whole."""
_ANSWER_S: Final = 5.0
"""In which an answer is to be taken."""
_CREDENTIALS: Final = struct.Struct("3i")

_ACCEPT_AGAIN_S: Final = 0.5
"""After which it is tried again to let in who could not be for want of a descriptor."""

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""Question to answer; raises nothing."""


class _Asking:
    """One connection, whose question is not whole yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = b""
        self.give_up_at = monotonic() + _QUESTION_S


class ControlListener:
    """Serves the control socket of a store that this process has locked."""

    def __init__(self, name: str, directory: Path, answer: Answer) -> None:
        """`answer` is called in the listener's thread, with one question at a time."""
        self._name = name
        self._directory = directory
        self._answer = answer
        self._asking: dict[int, _Asking] = {}
        self._closing = False
        self.answered = 0
        self.dropped = 0
        """Connections that were refused, brought no question in time, or something else."""
        self._listening: socket.socket | None = None
        self._accept_again_at: float | None = None
        self._identity: tuple[int, int] | None = None

    def start(self) -> None:
        """Begin to serve. Without a socket, where the file system has none, the peer runs all the same."""
        with ExitStack() as opened:
            try:
                self._bell, self._ring = map(opened.enter_context, socket.socketpair())
                self._selector = opened.enter_context(selectors.DefaultSelector())
                listening = opened.enter_context(self._bind())
            except OSError as error:
                _log.warning("peer %s: no control socket in %s: %s", self._name, self._directory, error)
                return
            opened.pop_all()
        self._listening = listening
        self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        _open_here.add(self)
        self._thread = threading.Thread(target=self._serve, name=f"zmqrel-{self._name}-control", daemon=True)
        self._thread.start()

    def _bind(self) -> socket.socket:
        path = self._directory / SOCKET
        # The store is locked by this process, so nobody listens there any more. Anything else is not ours to remove.
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        listening = unix_socket()
        try:
            with address_of(self._directory) as address:
                listening.bind(address)
            # Nobody can connect before `listen`.
            path.chmod(0o600)
            listening.listen(_MOST_CONNECTIONS)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
        self._identity = identity(path)
        return listening

    def end(self) -> None:
        """Let the thread end; what it holds open stays until `close`. May be repeated, in any thread."""
        if self._listening is not None and not self._closing:
            self._closing = True
            self._ring.send(b"x")

    def close(self) -> None:
        """Stop serving and remove the socket; an answer that is under way is finished. May be repeated."""
        if self not in _open_here:
            return
        self.end()
        self._thread.join()
        path = self._directory / SOCKET
        # The store may have been let go, and another process may serve it by now.
        if identity(path) == self._identity:
            path.unlink(missing_ok=True)
        self.let_go()

    def let_go(self) -> None:
        """Close all descriptors; in a forked child that is all."""
        _open_here.discard(self)
        for asking in self._asking.values():
            asking.connection.close()
        self._selector.close()
        for end in (self._listening, self._bell, self._ring):
            if end is not None:
                end.close()

    # ---------------------------------------------------------------------------------------------- its thread

    def _serve(self) -> None:
        while not self._closing:
            events = self._selector.select(self._timeout_s())
            now = monotonic()  # what is asked while somebody takes an answer slowly is not late
            if self._accept_again_at is not None and self._accept_again_at <= now:
                assert self._listening is not None
                self._selector.register(self._listening, selectors.EVENT_READ)
                self._accept_again_at = None
            for key, _ in events:
                if key.fileobj is self._listening:
                    self._accept()
                elif key.fd in self._asking:
                    self._read(self._asking[key.fd])
            for asking in [one for one in self._asking.values() if one.give_up_at < now]:
                self._drop(asking, "no question in time")

    def _timeout_s(self) -> float | None:
        if self._accept_again_at is not None:
            return max(0.0, self._accept_again_at - monotonic())
        return _QUESTION_S if self._asking else None

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            connection, _ = self._listening.accept()
        except OSError as error:  # who came is gone again; or no descriptors are left
            if remedy(error.errno) is not None:
                # Somebody still waits, and would wake this thread again at once, for ever.
                self._selector.unregister(self._listening)
                self._accept_again_at = monotonic() + _ACCEPT_AGAIN_S
            return
        with suppress(OSError):
            asking = _Asking(connection)
            user = _user(connection)
            if user not in (None, 0, os.geteuid()):
                self._drop(asking, f"user {user} is not the owner")
            elif len(self._asking) >= _MOST_CONNECTIONS:
                self._drop(asking, "too many connections")
            else:
                connection.setblocking(False)
                self._asking[connection.fileno()] = asking
                self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, asking: _Asking) -> None:
        try:
            data = asking.connection.recv(MOST_QUESTION_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        asking.data += data
        if not asking.data:
            self._forget(asking)  # only looked whether somebody is here
            asking.connection.close()
            return
        if not data:
            self._drop(asking, "it ended before it had asked")
            return
        if len(asking.data) < LENGTH.size:
            return
        (length,) = LENGTH.unpack_from(asking.data)
        if length > MOST_QUESTION_BYTES or len(asking.data) > LENGTH.size + length:
            self._drop(asking, "too long a question")
        elif len(asking.data) == LENGTH.size + length:
            self._ask(asking)

    def _ask(self, asking: _Asking) -> None:
        try:
            question = unpack(asking.data[LENGTH.size :], MOST_QUESTION_BYTES, max_list=1000)
            if not isinstance(question, dict) or not all(isinstance(key, str) for key in question):
                raise BadRecord("a question is a map of text to values")
        except BadRecord as error:
            self._drop(asking, str(error))
            return
        answer = framed(self._answer(question))
        self._forget(asking)
        with suppress(OSError):  # who asked does not listen any more
            asking.connection.settimeout(_ANSWER_S)
            asking.connection.sendall(answer)
            self.answered += 1
        asking.connection.close()

    def _drop(self, asking: _Asking, why: str) -> None:
        self.dropped += 1
        _log.warning("peer %s: dropped a connection to its control socket: %s", self._name, why)
        self._forget(asking)
        asking.connection.close()

    def _forget(self, asking: _Asking) -> None:
        if self._asking.pop(asking.connection.fileno(), None) is not None:
            self._selector.unregister(asking.connection)


_open_here: weakref.WeakSet[ControlListener] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # Or a child that lives on would seem to listen when its parent is gone.
    for listener in list(_open_here):
        listener.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


def _user(connection: socket.socket) -> int | None:
    """Who connected; None where the system does not tell, and the permissions of the file must do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])
