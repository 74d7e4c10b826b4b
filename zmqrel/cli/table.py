"""How a run is shown: a live table on a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zmqrel.cli.counts import COUNTERS
from zmqrel.cli.supervise import State, View
from zmqrel.escaping import escaped

COLUMNS = (*COUNTERS, "backlog")
# So that a table fits 80 columns: what seldom happens is told below it, once it has happened.
SELDOM = ("retried", "recalled", "expired", "dead")
OFTEN = tuple(column for column in COLUMNS if column not in SELDOM)
STYLES = {State.RUNNING: "green", State.ENDED: "dim", State.RESTARTING: "yellow", State.FAILED: "bold red"}
LIVE_EVERY_S = 0.25


def table(views: list[View]) -> Group:
    """All nodes and their counts, one line each, and below what seldom happens."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    # If it is too wide all the same, names are folded rather than headings and numbers.
    grid.add_column("node", overflow="fold")
    grid.add_column("state", no_wrap=True)
    for column in (*OFTEN, "per s"):
        grid.add_column(column, justify="right", no_wrap=True)
    for view in views:
        state = f"{view.state.value} ({view.starts})" if view.starts > 1 else view.state.value
        counts = [f"{view.counts[column]:,}" for column in OFTEN]
        grid.add_row(view.name, state, *counts, _rate(view), style=STYLES.get(view.state, ""))
    also = [(view.name, _counted(view, SELDOM)) for view in views]
    return Group(grid, *(Text(f" {name}: {counted}") for name, counted in also if counted))


def line(view: View) -> str:
    """One node and what it has counted; zeros are left out."""
    starts = f"starts {view.starts}" if view.starts > 1 else ""
    counts = ", ".join(filter(None, (starts, _counted(view, COLUMNS))))
    return f"  {view.name:<16} {view.state.value:<10} {counts or '-'}, {_rate(view)}/s"


def _counted(view: View, columns: Iterable[str]) -> str:
    return ", ".join(f"{column} {view.counts[column]:,}" for column in columns if view.counts[column])


def restarted(views: list[View]) -> str:
    """What is to be known of the counts of nodes with more than one life; empty if there is none."""
    names = [view.name for view in views if view.starts > 1]
    if not names:
        return ""
    return f"restarted: {', '.join(names)}; what a killed life counted after its last report is not in the figures"


def told(kind: str, fields: dict[str, Any]) -> str:
    """An event in words, or nothing for one that needs none."""
    words = {
        "started": "{node}: started, process {pid}",
        "ended": "{node}: ended",
        "died": "{node}: {why}, started again in {again_in} s",
        "given_up": "{node}: {why}, given up",
        "killed": "{node}: did not end within {after} s, killed",
        "ended_badly": "{node}: {why} when it was asked to end; its log may tell why",
        "stopping": "{reason}, ending the nodes",
        "verifying": "verifying: {command}",
    }
    return words[kind].format(**fields) if kind in words else ""


def tail(fields: dict[str, Any]) -> str:
    """The last words of a node that was given up."""
    head = f"{fields['node']} was given up after {fields['starts']} starts ({fields['why']}); its last lines:"
    return "\n".join([head, *(f"  | {escaped(each)}" for each in fields["tail"] or ["(it said nothing)"])])


def _rate(view: View) -> str:
    return f"{view.rate:,.0f}" if view.state is State.RUNNING else "0"


class Shown:
    """What the three ways of showing a run have in common: they are entered, told, and left."""

    def __enter__(self) -> Shown:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def event(self, kind: str, **fields: Any) -> None:
        """Something happened once."""

    def progress(self, nodes: list[View], seconds: float) -> None:
        """How the nodes stand; called far more often than it shows anything."""

    def summary(self, nodes: list[View], fields: dict[str, Any]) -> None:
        """How the run ended."""


class Lines(Shown):
    """Plain lines: events as they come, counts every few seconds."""

    def __init__(self, every: float) -> None:
        self._every = self._next = every

    def event(self, kind: str, **fields: Any) -> None:
        text = told(kind, fields)
        if text:
            click.echo(text)
        if kind == "given_up":
            click.echo(tail(fields), err=True)

    def progress(self, nodes: list[View], seconds: float) -> None:
        if seconds >= self._next:
            self._next = seconds + self._every
            self._counts(nodes, seconds)

    def _counts(self, nodes: list[View], seconds: float) -> None:
        click.echo("\n".join([f"after {seconds:.1f} s:", *map(line, nodes)]))

    def summary(self, nodes: list[View], fields: dict[str, Any]) -> None:
        self._counts(nodes, fields["seconds"])
        for text in filter(None, (restarted(nodes), closing(fields))):
            click.echo(text)


class OnTerminal(Shown):
    """A table that is drawn anew in place, with the events above it."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._next = 0.0

    def __enter__(self) -> OnTerminal:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def event(self, kind: str, **fields: Any) -> None:
        text = told(kind, fields)
        if text:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        if kind == "given_up":
            self._console.print(tail(fields), markup=False, highlight=False, soft_wrap=True, style="red")

    def progress(self, nodes: list[View], seconds: float) -> None:
        if seconds >= self._next:
            self._next = seconds + LIVE_EVERY_S
            self._live.update(table(nodes), refresh=True)

    def summary(self, nodes: list[View], fields: dict[str, Any]) -> None:
        self._console.print(table(nodes))
        for text in filter(None, (restarted(nodes), closing(fields))):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Json(Shown):
    """One JSON object a line, told apart by `event`; the keys are described in `zmqrel launch --help`."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = 0.0

    def event(self, kind: str, **fields: Any) -> None:
        click.echo(json.dumps({"event": kind, **fields}))

    def progress(self, nodes: list[View], seconds: float) -> None:
        if seconds >= self._next:
            self._next = seconds + self._every
            self.event("progress", seconds=round(seconds, 3), nodes=as_json(nodes))

    def summary(self, nodes: list[View], fields: dict[str, Any]) -> None:
        self.event("summary", **fields, nodes=as_json(nodes))


def as_json(nodes: list[View]) -> dict[str, Any]:
    """The nodes by name: state, starts, rate, the counts over all lives, and the latest report as it came."""
    return {
        view.name: {
            "state": view.state.value,
            "starts": view.starts,
            "rate": round(view.rate, 1) if view.state is State.RUNNING else 0.0,
            **view.counts,
            "report": dict(view.own),
        }
        for view in nodes
    }


def closing(fields: dict[str, Any]) -> str:
    """The last words of a run."""
    kept = f"data kept in {fields['data']}" if fields["kept"] else "data removed (--data DIR keeps it)"
    head = f"{fields['end']} after {fields['seconds']:.1f} s: {fields['reason']}"
    return f"{head}; exit status {fields['status']}; {kept}"


def shown(as_lines_of_json: bool, every: float) -> Shown:
    """The way of showing a run that fits where it is shown."""
    if as_lines_of_json:
        return Json(every)
    return OnTerminal() if sys.stdout.isatty() else Lines(every)
