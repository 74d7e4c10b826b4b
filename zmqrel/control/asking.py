"""Who asks: `connected` finds out whether the peer of a store runs, and answers come from it or from the store."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import zmqrel.errors
from zmqrel.control.asked import Asked, looked_at, opened
from zmqrel.control.place import LENGTH, MOST_ANSWER_BYTES, SOCKET, VERSION, address_of, framed, unix_socket
from zmqrel.control.questions import CHANGING, answer
from zmqrel.core.entries import BadRecord, unpack
from zmqrel.errors import ConfigError, Error, StoreLocked
from zmqrel.store.directory import DATA, LIFE

_ANSWER_S = 5.0
"""A peer answers between two turns of its loop: at once, unless its process is stopped or its disk is stuck."""
_PATIENCE_S = 3.0
"""For a peer that is about to start or to end: its store is locked, and its socket not there."""
_PAUSE_S = 0.05

Ask = Callable[..., dict[str, Any]]
"""ask(question, **arguments): the answer, or what it was refused with is raised."""


class NoAnswer(Error):
    """The peer has its store open, and cannot be asked."""


@contextmanager
def connected(directory: str | Path, *, change: bool = False, verify: bool = False) -> Iterator[Ask]:
    """Whom to ask about the store in `directory`: its peer if it runs, else the store itself, locked meanwhile.

    With `change` for questions that change it; with `verify` the file of a stopped peer's store is checked first,
    which reads all of it. Raises ConfigError if there is no store or it is not ours to read,
    StoreDamaged, StoreTooNew, StoreLocked or NoAnswer.
    """
    path = Path(directory)
    _check(path)
    with ExitStack() as stack:
        yield _either(path.resolve(), opened if change else partial(looked_at, verify=verify), stack)


def _either(path: Path, stopped: Callable[[Path], AbstractContextManager[Asked]], stack: ExitStack) -> Ask:
    give_up_at = monotonic() + _PATIENCE_S
    while not is_served(path):
        try:
            asked = stack.enter_context(stopped(path))
        except StoreLocked as error:
            if monotonic() >= give_up_at:
                raise NoAnswer(f"{error}. It has no control socket to be asked through") from error
            sleep(_PAUSE_S)
        else:
            return lambda question, **arguments: _result(answer(asked, _question(question, arguments)))
    return lambda question, **arguments: _over_socket(path, question, arguments, _ANSWER_S)


def glance(directory: Path, timeout_s: float) -> dict[str, int] | None:
    """The figures of the peer of this store, and its `pid`; None if nobody answers within so many seconds."""
    if not (directory / SOCKET).exists():
        return None
    try:
        found = _over_socket(directory, "status", {}, timeout_s)
    except Error:
        return None
    return {"pid": found["pid"], **found["stats"]}


def peer_of(directory: Path) -> str | None:
    """The name of the peer whose store lies in `directory`; None if no store does, or whose it is cannot be learnt."""
    try:
        if not (directory / DATA).exists():
            return None
        if is_served(directory):
            name: str = _over_socket(directory, "status", {}, _PATIENCE_S)["peer"]
            return name
        with looked_at(directory) as asked:
            return asked.name
    except (Error, OSError):
        return None


def is_served(directory: Path) -> bool:
    """Whether a peer listens at the control socket of this store. Raises ConfigError if it is another user's."""
    with unix_socket() as probe, address_of(directory) as address:
        try:
            probe.settimeout(_PATIENCE_S)
            probe.connect(address)
        except PermissionError as error:
            raise ConfigError(
                f"store: the peer of {directory} runs for another user; only its owner asks it"
            ) from error
        except OSError:
            return False
    return True


def _check(path: Path) -> None:
    try:
        if not path.exists():
            raise ConfigError(f"store: there is no directory {path}")
        if not path.is_dir():
            raise ConfigError(f"store: {path} is a file, a store is a directory")
        if not (path / DATA).exists() and not (path / LIFE).exists():
            raise ConfigError(f"store: the directory {path} holds no store of zmqrel")
    except OSError as error:
        raise ConfigError(f"store: {path} cannot be read: {error.strerror}") from error


def _question(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, "ask": name, **arguments}


def _result(said: dict[str, Any]) -> dict[str, Any]:
    """The answer, or the error that it names."""
    if "error" in said:
        kind = getattr(zmqrel.errors, str(said["error"]), NoAnswer)
        known = isinstance(kind, type) and issubclass(kind, Error) and kind is not zmqrel.errors.NotHandled
        raise (kind if known else NoAnswer)(str(said.get("message")))
    found: dict[str, Any] = said["answer"]
    return found


def _over_socket(directory: Path, name: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    try:
        with unix_socket() as connection:
            connection.settimeout(timeout_s)
            with address_of(directory) as address:
                connection.connect(address)
            connection.sendall(framed(_question(name, arguments)))
            (length,) = LENGTH.unpack(_received(connection, LENGTH.size))
            if length > MOST_ANSWER_BYTES:
                raise NoAnswer(f"the peer of {directory} answered with {length} bytes")
            said = unpack(_received(connection, length), MOST_ANSWER_BYTES)
    except TimeoutError as error:
        may = "; it may still do what it was asked to" if name in CHANGING else ""
        raise NoAnswer(f"the peer of {directory} does not answer within {timeout_s:g} s{may}") from error
    except (OSError, BadRecord) as error:
        raise NoAnswer(f"the peer of {directory} was asked and did not answer: {error}") from error
    if not isinstance(said, dict):
        raise NoAnswer(f"the peer of {directory} answered with no map")
    return _result(said)


def _received(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            raise OSError("it closed the connection")
        data += part
    return bytes(data)
