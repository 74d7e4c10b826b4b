"""What was measured, as tables for a terminal, as JSON and as plots."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import zmq
from rich.console import Console
from rich.table import Table

from bench import brokers
from bench.targets import TARGETS
from zmqrel.bench.measure import Result

_OTHERS = ("plain", "acknowledged", "plain round trip", "one commit", *(broker.name for broker in brokers.ALL))
_SPEEDS = ("per second", "bytes per second", "first per second", "last per second")


def show_targets(results: Sequence[Result], console: Console) -> None:
    """A line for each target of which all parts were measured."""
    by_name = {result.case.name: result for result in results}
    table = Table("target", "measured", "required", "aim", "", title="What is to be reached")
    for target in TARGETS:
        ratio = target.ratio(by_name)
        if ratio is None:
            continue
        sign = "" if target.more_is_better else "at most "
        reached = "aim" if target.met(ratio, target.aim) else "yes" if target.met(ratio, target.required) else "NO"
        table.add_row(
            target.title, f"{ratio:,.2f} {target.unit}", f"{sign}{target.required:g}", f"{sign}{target.aim:g}", reached
        )
    if table.row_count:
        console.print(table)


def as_json(results: Sequence[Result], arguments: Sequence[str]) -> dict[str, Any]:
    """Everything: the machine, the command, all samples, and the targets."""
    by_name = {result.case.name: result for result in results}
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": ["python", "-m", "bench", *arguments],
        "machine": machine(),
        "cases": {
            result.case.name: {
                "title": result.case.title,
                "figure": result.case.figure,
                "baseline": result.case.baseline,
                "samples": result.samples,
                "missing": result.missing,
            }
            for result in results
        },
        "targets": [
            {"title": target.title, "measured": ratio, "required": target.required, "aim": target.aim}
            for target in TARGETS
            if (ratio := target.ratio(by_name)) is not None
        ],
    }


def machine() -> dict[str, Any]:
    """What the figures hang on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "pyzmq": zmq.__version__,
        "zmqrel": _version(),
    }


def _version() -> str:
    try:
        return metadata.version("zmqrel")
    except metadata.PackageNotFoundError:
        return "unknown, for it is not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def write(results: Sequence[Result], arguments: Sequence[str], folder: Path) -> list[Path]:
    """Write figures.json, and a plot of each case as PNG and SVG; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / "figures.json"
    figures.write_text(json.dumps(as_json(results, arguments), indent=1) + "\n", encoding="utf-8")
    return [figures, *(file for result in results for file in _plot(result, folder))]


def _plot(result: Result, folder: Path) -> list[Path]:
    """Bars of the medians, with lines from the least to the most."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = [name for name in result.samples if result.values(name)]
    medians = [result.median(name) or 0.0 for name in names]
    lows = [median - min(result.values(name)) for name, median in zip(names, medians, strict=True)]
    highs = [max(result.values(name)) - median for name, median in zip(names, medians, strict=True)]
    chart, axes = pyplot.subplots(figsize=(8, 0.5 * len(names) + 1.5), layout="constrained")
    axes.barh(
        names, medians, xerr=[lows, highs], color=["#4477aa" if "zmqrel" in name else "#bbbbbb" for name in names]
    )
    axes.invert_yaxis()
    axes.set_title(result.case.title)
    axes.set_xlabel(result.case.figure)
    if result.case.figure in _SPEEDS:
        axes.set_xlim(left=0)
    files = [folder / f"{result.case.name}.{kind}" for kind in ("png", "svg")]
    for file in files:
        chart.savefig(file)
    pyplot.close(chart)
    return files
