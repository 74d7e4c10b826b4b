"""Brokers for comparison: each started on a free port of 127.0.0.1 with its data in a temporary directory, and stopped.

They come from Debian's packages. One that is not there is named with its package; nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import util
from pathlib import Path

_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Broker:
    """What is needed to run one: a program of a Debian package, and a client from PyPI."""

    name: str
    program: str
    package: str
    client: str
    """Name of the client's module."""
    distribution: str
    """Name of the client on PyPI."""

    def missing(self) -> str | None:
        """What has to be installed first, None if nothing."""
        if _program(self.program) is None:
            return f"{self.name}: {self.program} is not installed (Debian package {self.package})"
        if util.find_spec(self.client) is None:
            return f"{self.name}: the client is not installed (pip install {self.distribution})"
        return None


NATS = Broker("NATS JetStream", "nats-server", "nats-server", "nats", "nats-py")
REDIS = Broker("Redis Streams", "redis-server", "redis-server", "redis", "redis")
RABBITMQ = Broker("RabbitMQ", "/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server", "aio_pika", "aio-pika")
MOSQUITTO = Broker("Mosquitto", "mosquitto", "mosquitto", "paho.mqtt", "paho-mqtt")
ALL = (NATS, REDIS, RABBITMQ, MOSQUITTO)


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], place: Path, port: int, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until the block ends; it is up when it takes connections at the port."""
    log = place / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=place,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
        try:
            _await_port(port, process, log)
            yield
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}:\n{_end_of(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server takes no connection at port {port} after {_START_S:g} s:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


@contextmanager
def nats(place: Path) -> Iterator[str]:
    """JetStream with file storage, which flushes to the disk every two minutes: its default.

    A power cut takes what came since the last flush. `sync_interval: always`, which would compare with "fsync", needs
    2.10; Debian 12 has 2.9. So the figure flatters it.
    """
    port = _free_port()
    configuration = place / "nats.conf"
    configuration.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{place}/jetstream" }}\n', encoding="utf-8"
    )
    program = _program(NATS.program)
    assert program is not None
    with _running([program, "-c", str(configuration)], place, port):
        yield f"nats://127.0.0.1:{port}"


@contextmanager
def redis(place: Path) -> Iterator[str]:
    """Streams with an append-only file that is flushed before a command is answered."""
    port = _free_port()
    program = _program(REDIS.program)
    assert program is not None
    command = [
        program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place),
        "--appendonly", "yes", "--appendfsync", "always", "--save", "",
    ]  # fmt: skip
    with _running(command, place, port):
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def rabbitmq(place: Path) -> Iterator[str]:
    """One node, for quorum queues; they write ahead and flush before they confirm."""
    port, between, mapper = _free_port(), _free_port(), _free_port()
    (place / "enabled_plugins").write_text("[].\n", encoding="utf-8")
    environment = {
        "HOME": str(place),
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(between),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_MNESIA_BASE": str(place / "data"),
        "RABBITMQ_LOG_BASE": str(place / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq"),
        "RABBITMQ_PID_FILE": str(place / "pid"),
    }
    program = _program(RABBITMQ.program)
    assert program is not None
    try:
        with _running([program], place, port, environment):
            yield f"amqp://guest:guest@127.0.0.1:{port}/"
    finally:
        # Erlang's port mapper outlives the node that started it.
        mapping = shutil.which("epmd")
        if mapping is not None:
            subprocess.run(
                [mapping, "-port", str(mapper), "-kill"], capture_output=True, check=False, env=os.environ | environment
            )


@contextmanager
def mosquitto(place: Path) -> Iterator[str]:
    """With persistence; it writes its file now and then, not before it answers."""
    port = _free_port()
    configuration = place / "mosquitto.conf"
    configuration.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {place}/\n"
        "max_inflight_messages 0\nmax_queued_messages 0\nset_tcp_nodelay true\n",
        encoding="utf-8",
    )
    program = _program(MOSQUITTO.program)
    assert program is not None
    place.chmod(0o777)  # it changes to a user of its own when it is started by root
    with _running([program, "-c", str(configuration)], place, port):
        yield f"mqtt://127.0.0.1:{port}"
