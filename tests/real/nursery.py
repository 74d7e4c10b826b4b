"""Processes for a test to kill: forked from one that has imported everything, which takes 5 ms where a start takes 200.

The parent sends one request at a time over a socket: {"role": name, "arguments": {...}} with one end of a socket pair,
answered by the child's number, or {"wait": number}, answered by its exit status once it has ended. It ends, with
its children, when the parent closes its end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from typing import Any

from tests.real import roles
from tests.real.line import Line


class _Critical(logging.Handler):
    """Tells the parent what must never happen."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.CRITICAL)
        self._line = line
        self.setFormatter(logging.Formatter("%(message)s %(exc_info)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._line.say(critical=self.format(record))


def _run(end: socket.socket, role: str, arguments: dict[str, Any]) -> None:
    line = Line(end)
    logger = logging.getLogger("zmqrel")
    logger.addHandler(_Critical(line))
    logger.propagate = False
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        getattr(roles, role)(line, **arguments)
        status = 0
    except EOFError:
        status = 2  # the parent is gone, or done with this
    except KeyboardInterrupt:
        status = 1  # as Python does
    except BaseException as error:
        line.say(critical=f"{role} raised {error!r}")
        raise
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Serve the parent at the other end of the descriptor that is the first argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    # Not for this process; for a child it waits until the child is ready for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 1)
        if not data:
            return
        request = json.loads(data)
        if "wait" in request:
            control.send(str(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])).encode())
            continue
        end = socket.socket(fileno=descriptors[0])
        child = os.fork()
        if child == 0:
            control.close()
            _run(end, request["role"], request["arguments"])
        end.close()
        control.send(str(child).encode())


if __name__ == "__main__":
    main()
