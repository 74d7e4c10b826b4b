"""Hosts with TCP stacks of their own, and between them a network that is slow, loses packets and can be cut.

Each host is a network namespace with one TUN device; a thread of this process carries packets between the devices, late
or not at all. So the connections are real, and so are their retransmissions, back-offs and time-outs. `tc netem` does
the same, but is not in every kernel, cannot be asked how much it has lost, and cannot be cut in one instant.

The namespaces have no names: whatever becomes of this process, they are gone with it and with those that it started.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from socket import inet_aton
from time import monotonic
from types import TracebackType
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_DEVICE: Final = "wan"
_LARGEST_PACKET: Final = 65_536


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(namespace: str) -> None:
    """Move the calling thread, and those that it starts from now on, into the network namespace behind a path."""
    fd = os.open(namespace, os.O_RDONLY)
    try:
        _check(ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET), "setns")
    finally:
        os.close(fd)


class Host:
    """A network namespace whose only way out is the file descriptor `tun`. Raises OSError."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._namespace = self.tun = -1
        failures: list[BaseException] = []

        def make() -> None:
            try:
                self._make()
            except BaseException as error:
                failures.append(error)

        # A thread changes its own namespace only, and takes it along when it ends.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        for failure in failures:
            self.close()
            raise failure

    def _make(self) -> None:
        _check(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET), "unshare")
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN_NO_PI))
        lines = ["link set lo up", f"address add {self.address}/24 dev {_DEVICE}", f"link set {_DEVICE} up"]
        # What a thread starts is in its namespace.
        done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True)
        if done.returncode:
            raise OSError(f"ip: {done.stderr.strip()}")

    @property
    def namespace(self) -> str:
        """The path by which other processes enter it."""
        return f"/proc/{os.getpid()}/fd/{self._namespace}"

    def close(self) -> None:
        """Take its only device away: from now on nothing comes in or goes out, not even the end of a connection."""
        for fd in (self.tun, self._namespace):
            if fd >= 0:
                os.close(fd)
        self.tun = self._namespace = -1


class Wan:
    """The network. Each packet takes `delay_s` one way, and a share of `loss` of them gets lost, both ways alike."""

    def __init__(self, delay_s: float = 0.0, loss: float = 0.0, seed: int = 20) -> None:
        self.delay_s = delay_s
        self.loss = loss
        self.carried = self.lost = 0
        """Packets."""
        self._rng = random.Random(seed)
        self._hosts: dict[bytes, Host] = {}
        self._mute: set[bytes] = set()
        self._deaf: set[bytes] = set()
        self._due: list[tuple[float, int, bytes, bytes]] = []
        self._guard = threading.Lock()
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="wan", daemon=True)
        self._thread.start()

    def __enter__(self) -> Wan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        os.write(self._wake_write, b"x")
        self._thread.join()
        for host in self._hosts.values():
            host.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def host(self, number: int) -> Host:
        """A new host. One that had the number before vanishes, with all its connections and without a word."""
        address = f"10.20.30.{number}"
        self.remove(address)
        host = Host(address)
        self._change(lambda: self._hosts.update({inet_aton(address): host}))
        return host

    def remove(self, address: str) -> None:
        """Let a host vanish; that of an address that nobody has is ignored."""

        def forget() -> None:
            host = self._hosts.pop(inet_aton(address), None)
            self._mute.discard(inet_aton(address))
            self._deaf.discard(inet_aton(address))
            if host is not None:
                host.close()

        self._change(forget)

    def cut(self, host: Host, *, from_it: bool = True, to_it: bool = True) -> None:
        """Lose every packet from this host, or to it, or both."""

        def lose() -> None:
            if from_it:
                self._mute.add(inet_aton(host.address))
            if to_it:
                self._deaf.add(inet_aton(host.address))

        self._change(lose)

    def heal(self, host: Host) -> None:
        """Carry its packets again."""

        def carry() -> None:
            self._mute.discard(inet_aton(host.address))
            self._deaf.discard(inet_aton(host.address))

        self._change(carry)

    def _change(self, change: Callable[[], None]) -> None:
        with self._guard:
            change()
        os.write(self._wake_write, b"x")

    # ------------------------------------------------------------------------------------------------ the thread

    def _carry(self) -> None:
        while not self._stopping:
            with self._guard:
                tuns = [host.tun for host in self._hosts.values()]
                timeout_s = max(0.0, self._due[0][0] - monotonic()) if self._due else None
            poll = select.poll()
            for fd in (self._wake_read, *tuns):
                poll.register(fd, select.POLLIN)
            # A host that is removed meanwhile leaves a closed descriptor, which is no harm to look at.
            readable = {fd for fd, _ in poll.poll(None if timeout_s is None else 1 + timeout_s * 1000)}
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
            with self._guard:
                for host in list(self._hosts.values()):
                    if host.tun in readable:
                        self._take(host)
                self._give()

    def _take(self, host: Host) -> None:
        with suppress(BlockingIOError):
            while True:
                packet = os.read(host.tun, _LARGEST_PACKET)
                if packet[0] >> 4 != 4:
                    continue  # IPv6 looking for neighbours
                source, target = packet[12:16], packet[16:20]
                if source in self._mute or target in self._deaf or self._rng.random() < self.loss:
                    self.lost += 1
                    continue
                heappush(self._due, (monotonic() + self.delay_s, self.carried, target, packet))
                self.carried += 1

    def _give(self) -> None:
        while self._due and self._due[0][0] <= monotonic():
            _, _, target, packet = heappop(self._due)
            host = self._hosts.get(target)
            if host is not None and target not in self._deaf:
                with suppress(BlockingIOError):
                    os.write(host.tun, packet)


def why_not() -> str | None:
    """Why there can be no such network here; None if there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are of Linux"
    if os.geteuid() != 0:
        return "network namespaces are made by root"
    if not shutil.which("ip"):
        return "network namespaces are set up with ip, of the package iproute2"
    try:
        Host("10.20.30.1").close()
    except OSError as error:
        return f"network namespaces cannot be made here: {error}"
    return None
