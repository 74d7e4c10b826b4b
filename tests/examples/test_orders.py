"""The orders, run for real: as they are, interrupted and continued, and with processes that are killed."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import select
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from examples.orders import verify
from tests.cli.launching import PATIENCE_S, ROOT, Launched, is_gone

Orders = Callable[..., Launched]

SAMPLE = ROOT / "examples" / "orders" / "orders.csv"
COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]
FAST = ("--set", "rate=40", "--set", "deadline=1.0", "--set", "packing=1.2", "--every", "0.2")


def ended_right(run: Launched, data: Path) -> dict[str, int]:
    """The figures of a run that ended by itself, without a fault, and left no process."""
    status = run.end()
    assert status == 0, f"{run.events[-3:]}\n{run.stderr()}\n{logs(data)}"
    assert run.summary()["end"] == "finished"
    assert all(is_gone(pid) for pid in run.pids())
    found, figures = verify.JUDGE.found(data)
    assert found == []
    return figures


def logs(data: Path) -> str:
    """What the nodes said, for a run that failed."""
    return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in data.glob("logs/*.log"))


def rows(file: Path) -> int:
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        return sum(1 for _ in csv.DictReader(lines))


def test_the_sample_is_in_the_columns_that_the_readme_names() -> None:
    with SAMPLE.open(encoding="utf-8", newline="") as lines:
        found = list(csv.DictReader(lines))
    assert list(found[0]) == COLUMNS
    assert len({row["InvoiceNo"] for row in found if row["InvoiceNo"].startswith("C")}) >= 3
    assert any(not row["CustomerID"] for row in found)


def test_the_sample_ends_right(orders: Orders, tmp_path: Path) -> None:
    run = orders(tmp_path, *FAST)
    figures = ended_right(run, tmp_path)
    assert run.of("died") == []
    assert figures["handed over again after a crash"] == 0
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM rows").fetchone()[0] == rows(SAMPLE)
    # The sample tells the whole story. Only whether something comes back hangs on how fast this machine is.
    unseen = {name for name, count in figures.items() if not count}
    assert unseen <= {"handed over again after a crash", "... too late to recall, returned"}


def test_an_interrupted_run_goes_on_where_it_was(orders: Orders, tmp_path: Path) -> None:
    run = orders(tmp_path, *FAST)
    while run.until("progress")["nodes"]["ledger"]["handled"] < 5:
        pass
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 1
    assert all(is_gone(pid) for pid in run.pids())
    ended_right(orders(tmp_path, *FAST), tmp_path)
    # And once more: there is nothing left to do, and nothing is done twice.
    figures = ended_right(orders(tmp_path, *FAST), tmp_path)
    assert figures["handed over again after a crash"] == 0


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs descriptors of processes, which Linux has")
def test_nodes_do_not_outlive_a_launcher_that_is_killed(orders: Orders, tmp_path: Path) -> None:
    run = orders(tmp_path, *FAST)
    while run.until("progress")["nodes"]["ledger"]["handled"] < 1:
        pass
    pids = run.pids()
    # The end of a process whose parent is gone cannot be waited for: its descriptor tells.
    descriptors = [os.pidfd_open(pid) for pid in pids]
    run.process.kill()
    try:
        for descriptor in descriptors:
            assert ends(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    run.end()


def ends(descriptor: int) -> bool:
    """Whether the process behind a descriptor ends while one may wait for it."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


def killing(run: Launched, seed: int, each: int) -> Counter[str]:
    """Kill nodes at random until the run has ended, none more often than `each` times; returns who was killed."""
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    while (event := run.next()) is not None:
        if event["event"] != "progress" or rng.random() < 0.4:
            continue
        alive = [name for name, node in event["nodes"].items() if node["state"] == "running" and killed[name] < each]
        if alive:
            name = rng.choice(alive)
            pid = [started["pid"] for started in run.of("started") if started["node"] == name][-1]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed[name] += 1
    return killed


def test_a_warehouse_that_loses_its_store_is_told_again_what_nobody_knows(orders: Orders, tmp_path: Path) -> None:
    run = orders(tmp_path, *FAST)
    while run.until("progress")["nodes"]["warehouse"]["backlog"] < 20:
        pass
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 1
    shutil.rmtree(tmp_path / "warehouse")
    run = orders(tmp_path, *FAST)
    ended_right(run, tmp_path)
    assert run.summary()["nodes"]["shop"]["report"]["outcome_uncertain"] > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_killed_processes_change_nothing(orders: Orders, tmp_path: Path, seed: int) -> None:
    run = orders(tmp_path, "--set", "rate=30", "--set", "deadline=0.6", "--set", "packing=1.2", "--every", "0.25")
    # Five deaths in a row are a node that is given up.
    killed = killing(run, seed, each=4)
    ended_right(run, tmp_path)
    assert killed.total() >= 8
    assert len(run.of("died")) >= killed.total() - 1


def large_files() -> list[Path]:
    folder = Path(os.environ.get("ZMQREL_DATA") or ROOT.parent / "shared" / "data")
    return [file for file in sorted(folder.glob("*.csv")) if first_line(file) == ",".join(COLUMNS)]


def first_line(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().rstrip()


@pytest.mark.long
def test_a_larger_file_ends_right(orders: Orders, tmp_path: Path) -> None:
    files = large_files()
    if not files:
        pytest.skip("no larger file of order lines: set ZMQREL_DATA to a folder with one")
    run = orders(tmp_path, "--input", str(files[0]), "--set", "rate=150", "--every", "1")
    ended_right(run, tmp_path)
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM rows").fetchone()[0] == rows(files[0])
