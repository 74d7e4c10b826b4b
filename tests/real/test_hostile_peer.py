"""A peer with a valid key does its worst, on raw sockets: its victim's memory, an honest pair's rate, and the promises.

What the attack takes of the pair's rate is told by the time of processors, which others on this machine do not change:
phases with and without the attack alternate, each with the same work for the pair, and of the medians the difference is
what the victim spent on the attack. What it may spend of each second is what a pair that needs all of it would lack.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from time import monotonic
from types import TracebackType
from typing import Any, Literal, NamedTuple

import pytest

from tests.real.keyed import Keyring
from tests.real.net import LIMIT_S, until
from tests.store.processes import Child
from zmqrel import Outcome, Peer

ROUNDS, MESSAGES_A_ROUND, PHASES = 20, 5000, 6
MOST_TAKEN = 0.2
"""Of each second of one processor, so that a pair that needs all of it keeps 80% of its rate."""
MOST_MEMORY = 192 << 20
"""Beyond what the victim took before the attack."""

VICTIM = """
import json, sys, threading
from time import process_time
from zmqrel import Peer
store, keys = sys.argv[1:]
seen = bytearray(2000000)
lock = threading.Lock()
bank = Peer("bank", store, bind="tcp://127.0.0.1:*", peers={"shop": None, "mallory": None, "away": None}, keys=keys,
            max_body_bytes=1 << 20, inbox_max_bytes=64 << 20)
@bank.handler("work")
def handle(message):
    with lock:
        seen[message.body] += 1
bank.start()
print(bank.endpoints[0], flush=True)
waiting = [bank.send("away", n) for n in range(50)]
delayed = [bank.send("shop", n, queue="later", delay=3600) for n in range(50)]
to_mallory = [bank.send("mallory", n) for n in range(50)]
for line in sys.stdin:
    with open("/proc/self/status") as status:
        held = dict(row.split(":", 1) for row in status)
    # Without RssFile: pages of the store's file are the system's to take back.
    memory = 1024 * int(held.get("RssAnon", held["VmRSS"]).split()[0])
    with lock:
        told = {"cpu_s": process_time(), "memory": memory, "handled": sum(seen), "most": max(seen),
                "stats": bank.stats(), "waiting": sorted({r.state.name for r in waiting}),
                "delayed": sorted({r.state.name for r in delayed})}
    print(json.dumps(told), flush=True)
"""


class Phase(NamedTuple):
    """What it took: the victim's processors, and in all."""

    cpu_s: float
    wall_s: float


class Victim(Child):
    """The peer that is attacked."""

    def ask(self) -> dict[str, Any]:
        """How it is."""
        self.say("how")
        told: dict[str, Any] = json.loads(self.line())
        return told


class Mallory:
    """The attacker's process."""

    def __init__(self, *arguments: str) -> None:
        script = Path(__file__).with_name("hostile.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Mallory:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def go(self, way: Literal["flood", "needle"]) -> None:
        self._say(way)

    def rest(self) -> Counter[str]:
        """Stop for now; what it has sent so far."""
        self._say("rest")
        assert self._process.stdout
        return Counter(json.loads(self._process.stdout.readline()))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_a_hostile_peer_with_a_valid_key_hurts_nobody(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    ring.introduce("bank", "shop", "mallory")
    ring.give("bank", "away")
    with Victim(VICTIM, str(tmp_path / "bank"), str(ring.of("bank"))) as bank:
        endpoint = bank.line()
        key = [each.decode() for each in (ring.public("bank"), ring.public("mallory"), ring.secret("mallory"))]
        with (
            Peer("shop", tmp_path / "shop", peers={"bank": endpoint}, keys=ring.of("shop")) as shop,
            Mallory(endpoint, "mallory", "shop", *key) as mallory,
        ):
            until(lambda: shop.stats()["inbox_messages"] == 50)
            sent = 0

            def work() -> Phase:
                """A phase: so many messages as fast as they go, each once."""
                nonlocal sent
                before, begun_s = bank.ask()["cpu_s"], monotonic()
                for _ in range(ROUNDS):
                    receipts = shop.send_many("bank", range(sent, sent + MESSAGES_A_ROUND), queue="work")
                    sent += MESSAGES_A_ROUND
                    ended = {receipt.wait(LIMIT_S) for receipt in receipts}
                    assert ended == {Outcome.HANDLED}
                return Phase(bank.ask()["cpu_s"] - before, monotonic() - begun_s)

            work()
            start = bank.ask()
            quiet, under_attack, memory = [], [], []
            tried: Counter[str] = Counter()
            for phase in range(PHASES):
                quiet.append(work())
                mallory.go("flood" if phase % 2 else "needle")
                under_attack.append(work())
                tried = mallory.rest()
                memory.append(bank.ask()["memory"] - start["memory"])
            end = bank.ask()
            stats = end["stats"]
            report = f"{tried}, quiet {quiet}, under attack {under_attack}, memory {memory}, {stats}"
            print(report)
            assert len(tried) == 24, tried
            assert min(stats["malformed"], stats["throttled"], stats["shut_out"]) > 0, report
            assert max(memory) < MOST_MEMORY, report
            spent_s = median([phase.cpu_s for phase in under_attack]) - median([phase.cpu_s for phase in quiet])
            assert spent_s <= MOST_TAKEN * median([phase.wall_s for phase in under_attack]), report
            assert (end["handled"], end["most"]) == (sent, 1), "each of the pair's messages once"
            assert end["waiting"] == ["STORED"]
            assert end["delayed"] == ["RECEIVED"]
            assert shop.stats()["sessions"] == 1, "nobody ended the pair's session"
            assert shop.stats()["inbox_messages"] == 50, "nobody took back what the pair has"
            assert shop.stats()["settled"] == sent == shop.stats()["outcome_handled"]
