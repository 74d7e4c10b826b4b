"""Measure zmqrel beside a plain socket loop and beside brokers; see docs/performance.md."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from bench import backlogs, costs, fans, idle, simulated, smoke
from bench.brokered import streams_with_brokers
from bench.report import show_targets, write
from zmqrel.bench.measure import Case, Result, measure
from zmqrel.bench.processes import PartFailed
from zmqrel.bench.singles import singles
from zmqrel.bench.streams import streams, threads
from zmqrel.bench.tables import show

GROUPS = ("streams", "single", "threads", "fans", "backlogs", "costs", "idle", "simulator")


def cases(groups: tuple[str, ...], scale: float, with_brokers: bool) -> list[Case]:
    """The cases of these groups; at scale 1 they are those of the documentation."""

    def scaled(number: int) -> int:
        return max(1, int(number * scale))

    makers = {
        "streams": lambda: (streams_with_brokers if with_brokers else streams)(scaled(1_000_000)),
        "single": lambda: singles(max(50, scaled(3_000))),
        "threads": lambda: threads(scaled(200_000)),
        "fans": lambda: fans.fans(scaled(100_000)),
        "backlogs": lambda: backlogs.backlogs(
            scaled(10_000_000), scaled(1_000_000), max(20, scaled(1_000)), scaled(100_000)
        ),
        "costs": lambda: costs.costs(scaled(100_000), scaled(1_000_000), max(8, scaled(100))),
        "idle": lambda: idle.idle(max(8, scaled(1_000))),
        "simulator": lambda: simulated.simulated(scaled(60)),
    }
    return [case for group in groups or GROUPS for case in makers[group]()]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("groups", nargs=-1, type=click.Choice(GROUPS))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each case is run.")
@click.option("--scale", type=click.FloatRange(0.0001, 10), default=1.0, show_default=True, help="Of all sizes.")
@click.option("--brokers/--no-brokers", default=True, show_default=True, help="Measure those that are installed.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Folder for figures.json and the plots.",
)
@click.option("--smoke", "only_counts", is_flag=True, help="Only compare counts per message with the recorded ones.")
@click.option("--record", is_flag=True, help="With --smoke: record them anew.")
def main(
    groups: tuple[str, ...], rounds: int, scale: float, brokers: bool, out: Path, only_counts: bool, record: bool
) -> None:
    """Measure GROUPS of cases, or all; print tables, write JSON and plots.

    \b
    Example:
      python -m bench streams single --rounds 3 --scale 0.2
    """
    console = Console()
    if only_counts:
        sys.exit(smoke.compare(console, smoke.counted(), record=record))
    results: list[Result] = []
    with Console(stderr=True).status("starting") as status:
        for case in cases(groups, scale, brokers):
            try:
                results.append(measure(case, rounds, status.update))
            except (PartFailed, RuntimeError) as error:
                console.print(f"{case.title}: {error}", style="red", markup=False)
                sys.exit(1)
            show(results[-1], console)
    show_targets(results, console)
    for file in write(results, sys.argv[1:], out):
        console.print(f"wrote {file}", highlight=False)


if __name__ == "__main__":
    main()
