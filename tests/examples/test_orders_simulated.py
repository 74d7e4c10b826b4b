"""The orders' own code on the simulated network, over hundreds of schedules of kills; and with faults planted in it."""

from __future__ import annotations

import argparse
import itertools
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples.orders import payments, shop, verify, warehouse
from nodes import sink, source
from nodes.journal import Journal
from tests.cli.launching import ROOT
from tests.examples.simulated import LATEST_S, Program, World
from zmqrel import Retry
from zmqrel.testing.disk import ProcessDied

SAMPLE = ROOT / "examples" / "orders" / "orders.csv"
ROWS = 30
DEATHS = 12
NO_END = "the books are right, and the run does not end"


class Clock:
    """The Stop of a program that nobody asks to stop: it only waits."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def wait(self, seconds: float = 0) -> bool:
        self._program.sleep(seconds)
        return False


@dataclass(frozen=True)
class Code:
    """The modules of the processes; a test may put another in place of one."""

    source: ModuleType = source
    shop: ModuleType = shop
    warehouse: ModuleType = warehouse
    payments: ModuleType = payments
    sink: ModuleType = sink


class Run:
    """One run of the orders: the source's loop at the bottom of the stack, everything else inside its waits."""

    def __init__(self, data: Path, seed: int, deaths: int, code: Code) -> None:
        self.data = data
        self._code = code
        with SAMPLE.open(encoding="utf-8") as lines:
            (data / "orders.csv").write_text("".join(itertools.islice(lines, ROWS + 1)), encoding="utf-8")
        self.world = world = World(seed, deaths)
        self._table: Any = None
        world.add("source", {"shop": True}, lambda _: None)
        world.add("shop", {"source": False, "warehouse": True, "payments": True, "ledger": True}, code.shop.setup)
        world.add("warehouse", {"shop": False}, code.warehouse.setup)
        world.add("payments", {"shop": False}, code.payments.setup)
        world.add("ledger", {"shop": False}, self._ledger)

    def close(self) -> None:
        """Let go of the ledger's file."""
        if self._table is not None:
            self._table.close()

    def _ledger(self, program: Program) -> None:
        self.close()
        table = self._table = self._code.sink.Table(self.data / "ledger.sqlite")
        program.handler("events", retry=Retry.fixed(0.2))(table.write)

    def _complete(self) -> bool:
        return self._table is not None and self._table.complete()

    def faults(self) -> list[str]:
        """Run to the end; what the judge finds in the books then, or when it does not end."""
        self.world.start()
        network = self.world.network
        while not self._feed():
            assert network.until(lambda: network.peers["source"].running, LATEST_S)
        has_ended = network.until(self._complete, LATEST_S)
        found, _ = verify.JUDGE.found(self.data)
        return found or ([] if has_ended else [NO_END])

    def _feed(self) -> bool:
        """What nodes.source does; False if it was killed."""
        args = argparse.Namespace(
            file=self.data / "orders.csv", to="shop", queue="rows", key="CustomerID", rate=20.0, label="orders.csv"
        )
        program = self.world.program("source")
        with closing(Journal(self.data / "source.journal.sqlite", args.label)) as journal:
            try:
                self._code.source.send_rows(program, args, journal, Clock(program))
            except ProcessDied:
                return False
        return True


class Runs:
    """Runs, each in a directory of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self.deaths = 0

    def faults(self, seed: int, code: Code | None = None) -> list[str]:
        """What the judge finds after the run of a seed."""
        data = self._folder / f"{seed}"
        data.mkdir()
        self._monkeypatch.setenv("EXAMPLE_DATA", str(data))
        with closing(Run(data, seed, DEATHS, code or Code())) as run:
            found = run.faults()
            self.deaths += run.world.deaths
        return found


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    connect = sqlite3.connect

    def hasty(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        # Processes are killed here, not machines: what SQLite has written is there without a flush.
        db: sqlite3.Connection = connect(*arguments, **keywords)
        db.execute("PRAGMA synchronous = OFF")
        return db

    monkeypatch.setattr(sqlite3, "connect", hasty)
    return Runs(tmp_path, monkeypatch)


@pytest.mark.parametrize("seed", range(4))
def test_kills_change_nothing(runs: Runs, seed: int) -> None:
    assert runs.faults(seed) == []


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 300, 25))
def test_kills_change_nothing_over_300_schedules(runs: Runs, first: int) -> None:
    wrong = {seed: found for seed in range(first, first + 25) if (found := runs.faults(seed))}
    assert wrong == {}
    assert runs.deaths >= 25 * 5


def planted(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """A module with one place of its code changed."""
    file = Path(str(module.__file__))
    text = file.read_text(encoding="utf-8")
    assert text.count(right) == 1, f"{right!r} is not one place of {file}"
    changed = ModuleType(module.__name__)
    exec(compile(text.replace(right, wrong), file, "exec"), changed.__dict__)
    return changed


PLANTED = {
    "the source notes its progress before it sends": (
        "source",
        source,
        "        if commit(peer, args, named, stop):\n            sent += len(batch)\n            journal.write(sent)",
        "        sent += len(batch)\n        journal.write(sent)\n        commit(peer, args, named, stop)",
    ),
    "the shop tells the ledger under no id of its own": (
        "shop",
        shop,
        'self._peer.send("ledger", body, queue="events", id=f"{kind}:{subject}")',
        'self._peer.send("ledger", body, queue="events")',
    ),
    "the warehouse cannot be told twice": (
        "warehouse",
        warehouse,
        " ON CONFLICT (line) DO UPDATE SET times = times + 1",
        "",
    ),
    "the shop takes every payment for one in time": (
        "shop",
        shop,
        "late = paid and self._recall_deadline(order) is not Verdict.RECALLED",
        "late = False",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_planted_in_the_code_is_found(runs: Runs, fault: str) -> None:
    process, module, right, wrong = PLANTED[fault]
    code = replace(Code(), **{process: planted(module, right, wrong)})
    found = next(found for seed in range(60) if (found := runs.faults(seed, code)))
    assert found != [NO_END]
