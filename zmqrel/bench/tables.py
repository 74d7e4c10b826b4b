"""Tables of what was measured: medians, spread, and the ratio to the baseline."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from zmqrel.bench.measure import Result


def show(result: Result, console: Console) -> None:
    """Print the table of a case, and who was not there."""
    figures = [name for name in _figures(result) if name != "bytes per second"]
    table = Table("contestant", title=result.case.title)
    for figure in figures:
        table.add_column(figure, justify="right")
        if figure == result.case.figure:
            table.add_column("from to", justify="right")
            table.add_column(f"of {result.case.baseline}" if result.case.baseline else "", justify="right")
    for name in result.samples:
        table.add_row(name, *(cell for figure in figures for cell in _cells(result, name, figure)))
    console.print(table)
    for reason in result.missing.values():
        console.print(f"not measured: {reason}")


def _figures(result: Result) -> list[str]:
    """Names of all figures of a case, the one that counts first."""
    names = [result.case.figure]
    for samples in result.samples.values():
        names += [name for sample in samples for name in sample if name not in names]
    return list(dict.fromkeys(names))


def _cells(result: Result, contestant: str, figure: str) -> list[str]:
    median = result.median(contestant, figure)
    if median is None:
        return ["", "", ""] if figure == result.case.figure else [""]
    cells = [_number(median)]
    if figure == result.case.figure:
        values = result.values(contestant)
        base = result.median(result.case.baseline) if result.case.baseline else None
        cells += [f"{_number(min(values))} {_number(max(values))}", f"{median / base:.2f}" if base else ""]
    return cells


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
