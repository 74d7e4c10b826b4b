"""`zmqrel bench`: a quick look at what this machine does."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console

from zmqrel.bench.measure import Case, Result, measure
from zmqrel.bench.processes import PartFailed
from zmqrel.bench.singles import singles
from zmqrel.bench.streams import streams, threads
from zmqrel.bench.tables import show

_SIZE = 100


@click.command()
@click.option("--messages", type=click.IntRange(100), default=500_000, show_default=True, help="In the stream.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often each is run, in turn.")
@click.option("--json", "as_json", is_flag=True, help="An object a line.")
def bench(messages: int, rounds: int, as_json: bool) -> None:
    """Measure zmqrel on this machine, beside plain ZeroMQ sockets that promise nothing.

    Each run is two processes over 127.0.0.1, with stores in the folder for temporary files; medians are shown. A
    message counts when its sender knows its outcome.

    \b
    Example:
      zmqrel bench --messages 20000 --rounds 1

    \b
    Exit status: 0 measured, 1 a run failed, 2 used wrongly.
    """
    console = Console()
    with Console(stderr=True).status("starting") as status:
        for case in _cases(messages):
            try:
                result = measure(case, rounds, status.update)
            except PartFailed as error:
                raise click.ClickException(f"{case.title}: {error}") from None
            if as_json:
                click.echo(json.dumps(_as_json(result)))
            else:
                show(result, console)


def _cases(messages: int) -> list[Case]:
    return [*streams(messages, {_SIZE: 1.0}), *singles(max(50, messages // 500)), *threads(messages // 5)[:1]]


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "case": result.case.name,
        "title": result.case.title,
        "figure": result.case.figure,
        "medians": {
            name: {figure: result.median(name, figure) for figure in samples[0]}
            for name, samples in result.samples.items()
        },
    }
