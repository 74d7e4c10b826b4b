"""Processes whose wall clock jumps by an hour: no deadline comes early or late, over restarts neither.

Each patches `time.time` before it imports zmqrel, for the clock of this machine is not ours to set.
"""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.real.net import LIMIT_S, Net, until
from tests.store.processes import Child

PROCESS = """
import json, sys, time
true, ahead_s = time.time, float(sys.argv[1])
time.time = lambda: true() + ahead_s
import zmqrel
name, options = sys.argv[2], json.loads(sys.argv[3])
peer = zmqrel.Peer(name, **options)
peer.start()
print("ready", flush=True)
asking = {
    "send": lambda id, queue, ttl: peer.send("billing", id, id=id, queue=queue, ttl=ttl).state.name,
    "state": lambda id: peer.receipt(id).state.name,
    "wait": lambda id: peer.receipt(id).wait(LIMIT).name,
    "serve": lambda queue: peer.handler(queue)(lambda message: None) and None,
    "close": lambda: peer.close() and None,
}
for line in sys.stdin:
    word, arguments = json.loads(line)
    if word == "jump":
        ahead_s += arguments[0]
        answer = None
    else:
        answer = asking[word](*arguments)
    print(json.dumps(answer), flush=True)
""".replace("LIMIT", str(LIMIT_S))

HOUR_S = 3600.0
SHORT_S = 1.0
LONG_S = 1800.0
"""Shorter than a jump: a deadline that followed it would be over, or an hour late."""


class Program:
    """A peer in a process, and what its wall clock says."""

    def __init__(self, net: Net, name: str, **options: Any) -> None:
        self._name = name
        self._options = json.dumps({"store": net.store(name), "bind": net.endpoint(name), **options})
        self._ahead_s = 0.0
        self.start()

    def start(self, jump_s: float = 0.0) -> None:
        """Begin a life, at a wall clock that has jumped since the one before ended."""
        self._ahead_s += jump_s
        self._child = Child(PROCESS, str(self._ahead_s), self._name, self._options)
        assert self._child.line() == "ready"

    def ask(self, word: str, *arguments: Any) -> Any:
        """Have something done in the process."""
        self._child.say(json.dumps([word, arguments]))
        return json.loads(self._child.line())

    def jump(self, by_s: float) -> None:
        """Set its wall clock."""
        self._ahead_s += by_s
        self.ask("jump", by_s)

    def restart(self, jump_s: float, *, clean: bool) -> None:
        """End it, by its own will or not, and begin a life with a clock that was set meanwhile."""
        if clean:
            self.ask("close")
        self.kill()
        self.start(jump_s)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._child.kill()


@pytest.mark.long
@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
@pytest.mark.parametrize("how", ["running", "closed", "killed"])
def test_a_jump_of_either_wall_clock(how: str, jump_s: float) -> None:
    with Net("ipc") as net:
        shop = Program(net, "shop", peers={"billing": net.endpoint("billing")})
        billing = Program(net, "billing", peers={"shop": net.endpoint("shop")})
        try:
            sent_at = monotonic()
            for queue in ("shop", "billing"):
                shop.ask("send", f"short {queue}", "shelf", SHORT_S)
                shop.ask("send", f"long {queue}", queue, LONG_S)
            until(lambda: shop.ask("state", "long billing") == "RECEIVED")
            for program in (shop, billing):
                if how == "running":
                    program.jump(jump_s)
                else:
                    program.restart(jump_s, clean=how == "closed")
            assert shop.ask("state", "long shop") != "SETTLED"
            for queue in ("shop", "billing"):
                assert shop.ask("wait", f"short {queue}") == "EXPIRED"
            assert monotonic() - sent_at >= SHORT_S
            for queue in ("shop", "billing"):
                billing.ask("serve", queue)
                assert shop.ask("wait", f"long {queue}") == "HANDLED"
        finally:
            shop.kill()
            billing.kill()
            for name in ("shop", "billing"):
                Path(net.endpoint(name).removeprefix("ipc://")).unlink(missing_ok=True)
