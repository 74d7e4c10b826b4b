"""Runs a triangle for a time, or for a number of messages, and judges what its nodes recorded.

tox -e soak -- --minutes 30
tox -e soak -- --messages 300000
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tests.real.net import Net
from tests.real.processes import Child, Nursery
from tests.real.soak.judge import Judgement, judge
from tests.real.soak.samples import Growth, Sample, growth, plot, sample, write_csv
from tests.real.soak.triangle import NAMES, Plan, Progress, Triangle, verify

_SHOW_EVERY_S: Final = 10
_MIB: Final = 1 << 20
_KEPT_S: Final = 60.0
"""How long outcomes are kept in a run of some minutes: what its stores hold is soon what they will hold at its end."""


@dataclass
class Watch:
    """Samples a run and shows how it goes."""

    net: Net
    console: Console
    live: Live | None
    every_s: float
    samples: list[Sample] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)
    """When, and what."""
    _next_s: float = 0.0
    _next_shown_s: float = 0.0

    def __call__(self, progress: Progress, nodes: dict[str, Child]) -> None:
        """Look, if it is time to."""
        now_s = progress.elapsed_s
        for what, times in progress.faults.items():
            noted = sum(each == what for _, each in self.faults)
            self.faults += [(now_s, what)] * (times - noted)
        if now_s < self._next_s:
            return
        self._next_s = now_s + self.every_s
        for name, node in list(nodes.items()):
            found = sample(now_s, name, node.pid, Path(self.net.store(name)), progress.sent[name])
            if found is not None:
                self.samples.append(found)
        if self.live is not None:
            self.live.update(_going(progress, self.samples))
        elif now_s >= self._next_shown_s:
            self._next_shown_s = now_s + _SHOW_EVERY_S
            self.console.print(_line(progress), soft_wrap=True)


def _line(progress: Progress) -> str:
    total, faults = progress.total(), progress.faults
    return (
        f"{progress.elapsed_s:6.0f} s  sent {sum(progress.sent.values()):,}  handed over {total['handed over']:,}"
        f"  repeated {total['repeated']:,}  told {total['told']:,}  kills {faults['kills']}  stops {faults['stops']}"
        f"  partitions {faults['partitions']}"
    )


def _going(progress: Progress, samples: list[Sample]) -> Table:
    table = Table(title=_line(progress))
    for column in ("node", "sent", "no outcome yet", "inbox", "connected", "memory", "descriptors", "store"):
        table.add_column(column, justify="left" if column == "node" else "right")
    last = {each.node: each for each in samples}
    for name in NAMES:
        levels, seen = progress.levels[name], last.get(name)
        figures = [levels.get(key, "") for key in ("outbox_messages", "inbox_messages", "peers_connected")]
        sizes: list[Any] = ["", "", ""]
        if seen is not None:
            sizes = [f"{seen.rss_bytes / _MIB:.0f} MiB", seen.descriptors, f"{seen.store_bytes / _MIB:.0f} MiB"]
        table.add_row(name, *map(str, (progress.sent[name], *figures, *sizes)))
    return table


def _plan(minutes: float | None, messages: int | None, rate: float | None, options: dict[str, Any]) -> Plan:
    """Faults are a few a minute, or one of each kind in some thousand messages, unless their numbers are given."""
    times = {
        "kills": 4 * minutes if minutes else (messages or 0) / 5_000,
        "stops": 4 * minutes if minutes else (messages or 0) / 5_000,
        "partitions": 2 * minutes if minutes else (messages or 0) / 10_000,
    }
    options |= {what: round(often) for what, often in times.items() if options[what] is None}
    if minutes:
        return Plan(
            minutes=minutes, rate=rate or 100, spared=frozenset(NAMES[-1:]), outcome_retention_s=_KEPT_S, **options
        )
    return Plan(messages=-(-(messages or 0) // len(NAMES)), rate=rate, **options)


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), help="How long messages flow.  [default: 30]")
@click.option("--messages", type=click.IntRange(min=300), help="How many, instead of a time.")
@click.option("--rate", type=click.FloatRange(min=1), help="Messages a second of each node.  [with a time: 100]")
@click.option("--kills", type=click.IntRange(min=0), help="How many SIGKILLs.  [default: 4 a minute]")
@click.option(
    "--stops", type=click.IntRange(min=0), help="How many SIGSTOPs, with SIGCONT later.  [default: 4 a minute]"
)
@click.option("--partitions", type=click.IntRange(min=0), help="How many links cut or stalled.  [default: 2 a minute]")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--durability", type=click.Choice(["fsync", "relaxed"]), default="fsync", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/soak"), show_default=True)
@click.option("--keep", is_flag=True, help="Keep the records of the nodes there too.")
def main(
    minutes: float | None, messages: int | None, rate: float | None, out: Path, keep: bool, **options: Any
) -> None:
    """Three peers in a triangle under SIGKILL, SIGSTOP and partitions; what they recorded is judged at the end.

    Writes soak.json, samples.csv, soak.png and soak.svg to OUT. The judge takes some 3 KiB of memory for each message.
    Exit status: 0 if every promise held and nothing grew beyond its bound, 1 if not.
    """
    if minutes is not None and messages is not None:
        raise click.UsageError("give --minutes or --messages, not both")
    if missing := [name for name in ("psutil", "matplotlib") if find_spec(name) is None]:
        raise click.UsageError(f"{' and '.join(missing)} must be installed; tox -e soak does that")
    plan = _plan(minutes or (None if messages else 30.0), messages, rate, options)
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with Net("tcp") as net, Nursery() as nursery:  # whatever happens, the nodes end before their folder is removed
        live = Live(console=console, refresh_per_second=2) if console.is_terminal else None
        watch = Watch(net, console, live, every_s=max(1.0, plan.minutes * 60 / 2000))
        triangle = Triangle(nursery, net, plan, watch)
        records = {name: triangle.record(name) for name in NAMES}
        try:
            if live is not None:
                with live:
                    triangle.run()
            else:
                triangle.run()
            took_s = triangle.progress.elapsed_s
            damaged = {name: verify(net.folder, name) for name in NAMES}
            found = judge(records, triangle.holds)
            console.print(f"ran {took_s:.0f} s; judged in {triangle.progress.elapsed_s - took_s:.0f} s")
        finally:
            if keep:
                for path in records.values():
                    shutil.copy(path, out)
            write_csv(watch.samples, out / "samples.csv")
            plot(watch.samples, watch.faults, _title(plan, triangle.progress), out / "soak")
    left = {name: figures for name, figures in triangle.finished.items() if any(figures.values())}
    # In a run of a number of messages stores keep every outcome: they have to grow.
    grown = growth(watch.samples) if plan.messages is None else []
    _show(console, triangle.progress, found, grown)
    bad = [f"{name}: left in its store: {figures}" for name, figures in left.items()]
    bad += [f"{name}: zmqrel verify: {faults}" for name, faults in damaged.items() if faults]
    bad += [
        f"{each.node}: {each.figure} grew from {each.first:g} to {each.last:g}" for each in grown if each.is_too_much
    ]
    bad += found.broken
    (out / "soak.json").write_text(json.dumps(_summary(plan, triangle.progress, found, grown, bad), indent=2))
    for line in bad[:20]:
        console.print(line, markup=False)
    console.print("every promise held" if not bad else f"{len(bad)} promises broken")
    sys.exit(bool(bad))


def _title(plan: Plan, progress: Progress) -> str:
    what = ", ".join(f"{times} {fault}" for fault, times in progress.faults.items())
    return f"{sum(progress.sent.values()):,} messages between three peers, {plan.durability}: {what}"


def _show(console: Console, progress: Progress, found: Judgement, grown: list[Growth]) -> None:
    table = Table("what", title="what the records say")
    table.add_column("times", justify="right")
    for what, times in (_figures(progress, found) | dict(found.seen)).items():
        table.add_row(what, f"{times:,}" if isinstance(times, int) else f"{times:.3f}")
    console.print(table)
    sizes = Table("node", "figure", title="medians of the run's thirds")
    for column in ("first", "last", "allowed"):
        sizes.add_column(column, justify="right")
    for each in grown:
        sizes.add_row(each.node, each.figure, *(f"{value:,.0f}" for value in (each.first, each.last, each.most)))
    if grown:
        console.print(sizes)


def _figures(progress: Progress, found: Judgement) -> dict[str, Any]:
    return {
        "messages": found.messages,
        "hand-overs": found.hand_overs,
        **progress.faults,
        "lost": found.lost,
        "repeated": found.seen["redelivered"],
        "repeated without saying so": found.unmarked,
        "late": found.late,
        "latest hand-over, seconds after its deadline": found.latest_s,
    }


def _summary(plan: Plan, progress: Progress, found: Judgement, grown: list[Growth], bad: list[str]) -> dict[str, Any]:
    return {
        "plan": asdict(plan) | {"spared": sorted(plan.spared)},
        "figures": _figures(progress, found),
        "seen": dict(found.seen),
        "growth": [asdict(each) for each in grown],
        "broken": bad,
    }


if __name__ == "__main__":
    main()
