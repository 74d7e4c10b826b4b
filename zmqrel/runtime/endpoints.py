"""Endpoints as they are written: which libzmq can bind or dial, and the files of those on this machine."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import zmq

from zmqrel.errors import ConfigError
from zmqrel.runtime.doors import SocketFile

# A socket file is first made in a directory beside its place, whose name is longer by less than this.
_LONGEST_BOUND_PATH: Final = zmq.IPC_PATH_MAX_LEN - 12
_BIND_TAKES: Final = (
    "tcp://ADDRESS:PORT (an IPv4 address, an IPv6 address in brackets, an interface or *; 1 to 65535, or *"
    f" for a free port) or ipc://PATH (of at most {_LONGEST_BOUND_PATH} bytes)"
)
DIAL_TAKES: Final = (
    "tcp://HOST:PORT (a host name, an IPv4 address or an IPv6 address in brackets; 1 to 65535)"
    f" or ipc://PATH (of at most {zmq.IPC_PATH_MAX_LEN} bytes)"
)
_TCP: Final = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9_.-]+|\*):([0-9]{1,5}|\*)", re.ASCII)


def check_bindable(endpoint: str) -> None:
    """Raise ConfigError unless libzmq would bind what is written; it takes port 99999 and binds 34463."""
    address = tcp_address(endpoint)
    if address is not None:
        fits = address[1] == "*" or _is_port(address[1])
    else:
        path = _ipc_path(endpoint)
        fits = path is not None and len(os.fsencode(path.absolute())) <= _LONGEST_BOUND_PATH
    if not fits:
        raise ConfigError.of("bind", _BIND_TAKES, endpoint)


def check_dial(endpoint: str) -> None:
    """Raise ConfigError for what can never connect; libzmq takes much of it, and retries in silence."""
    address = tcp_address(endpoint)
    if address is not None:
        fits = address[0] != "*" and _is_port(address[1])
    else:
        path = _ipc_path(endpoint)
        fits = path is not None and len(os.fsencode(path)) <= zmq.IPC_PATH_MAX_LEN
    if not fits:
        raise ConfigError.of("endpoint", DIAL_TAKES, endpoint)


def tcp_address(endpoint: str) -> tuple[str, str] | None:
    """Host and port as written; None if it is no tcp endpoint, or what looks like an address is none."""
    found = _TCP.fullmatch(endpoint)
    if found is None:
        return None
    host, port = found.groups()
    with suppress(ValueError):
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif not is_name(host):
            ipaddress.IPv4Address(host)
        return host, port
    return None


def is_name(host: str) -> bool:
    """Whether it is neither an IPv6 address nor something that is meant to be an IPv4 address."""
    return not host.startswith("[") and not host.replace(".", "").isdigit()


def _is_port(port: str) -> bool:
    return port.isdigit() and 1 <= int(port) <= 65_535


def _ipc_path(endpoint: str) -> Path | None:
    """The path of an ipc endpoint. Abstract names (@) are none: anybody on this machine may connect to them."""
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or "\0" in path or path[:1] in ("", "@", "*"):
        return None
    return Path(path)


def not_bound(endpoint: str, error: zmq.ZMQError | OSError) -> ConfigError:
    """What the caller is told of an endpoint that libzmq or the system did not bind."""
    if error.errno == zmq.EADDRINUSE:
        return ConfigError.of("bind", "an endpoint that is not in use, or port * for a free one", endpoint)
    return ConfigError(f"bind takes {_BIND_TAKES}, not {endpoint!r}, which gives: {error.strerror}")


def bind_file(router: zmq.Socket[bytes], endpoint: str) -> tuple[SocketFile, str]:
    """Bind an ipc endpoint whose file only its owner can connect to; returns it, and the path that its socket knows.

    The file is made in a directory of our own and then moved to its place. A chmod after the bind would leave
    it open to all for a moment; a umask around it would for a moment be that of every thread. The move also
    replaces the file of a dead process in one step, where libzmq would remove whatever is there: the socket
    of a living one, or a text.
    """
    place = Path(endpoint.removeprefix("ipc://")).absolute()
    _refuse_taken(place)
    with tempfile.TemporaryDirectory(prefix=".z", dir=place.parent) as own:
        made = Path(own, "s")
        router.bind(f"ipc://{made}")
        made.chmod(0o600)
        made.replace(place)
    return SocketFile(place), str(made)


def _refuse_taken(place: Path) -> None:
    """Raise OSError, with EADDRINUSE, if somebody listens at `place` or it is no socket."""
    try:
        is_socket = stat.S_ISSOCK(place.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_socket:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            # Other errors (a full backlog, the socket of somebody else) mean that it is in use.
            refusal = probe.connect_ex(str(place))
            if refusal in (errno.ECONNREFUSED, errno.ENOENT):
                return
    raise OSError(zmq.EADDRINUSE, "in use")
