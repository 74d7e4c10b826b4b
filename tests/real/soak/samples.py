"""Memory, open descriptors and files of the nodes over time, whether they grew, and a plot of them."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Final

_MIB: Final = 1 << 20
BOUNDS: Final = {"rss_bytes": (1.25, 24 * _MIB), "descriptors": (1.0, 8), "store_bytes": (1.25, 24 * _MIB)}
"""What the median of a run's last third may be at most: so many times that of its first third, and so much on top."""
TITLES: Final = {
    "rss_bytes": "resident memory (MiB)",
    "descriptors": "open descriptors",
    "store_bytes": "files of the store (MiB)",
    "sent": "messages sent",
}


@dataclass(frozen=True)
class Sample:
    """One look at a node."""

    at_s: float
    node: str
    rss_bytes: int
    descriptors: int
    store_bytes: int
    """As the disk counts them: files have holes."""
    sent: int


@dataclass(frozen=True)
class Growth:
    """How a figure of a node went."""

    node: str
    figure: str
    first: float
    """Its median in the first third of the run."""
    last: float
    most: float
    """That the last third was allowed."""

    @property
    def is_too_much(self) -> bool:
        """It is beyond its bound."""
        return self.last > self.most


def sample(at_s: float, node: str, pid: int, store: Path, sent: int) -> Sample | None:
    """Look at a node, None if it has just died."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            rss, descriptors = process.memory_info().rss, process.num_fds()
        files = sum(path.stat().st_blocks * 512 for path in store.iterdir())
    except (psutil.Error, FileNotFoundError):
        return None
    return Sample(at_s, node, rss, descriptors, files, sent)


def growth(samples: list[Sample]) -> list[Growth]:
    """Of every figure of every node."""
    end_s = max((each.at_s for each in samples), default=0.0)
    found = []
    for node in sorted({each.node for each in samples}):
        own = [each for each in samples if each.node == node]
        for figure, (factor, slack) in BOUNDS.items():
            first = [getattr(each, figure) for each in own if each.at_s <= end_s / 3]
            last = [getattr(each, figure) for each in own if each.at_s >= end_s * 2 / 3]
            if first and last:
                found.append(Growth(node, figure, median(first), median(last), factor * median(first) + slack))
    return found


def write_csv(samples: list[Sample], path: Path) -> None:
    """One line for each sample."""
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, [each.name for each in fields(Sample)])
        rows.writeheader()
        rows.writerows(asdict(each) for each in samples)


def plot(samples: list[Sample], faults: list[tuple[float, str]], title: str, path: Path) -> None:
    """A PNG and an SVG of that name: each figure over time, and when what was done to the nodes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(TITLES), sharex=True, figsize=(10, 11), constrained_layout=True)
    figure.suptitle(title)
    for ax, (name, label) in zip(axes, TITLES.items(), strict=True):
        unit = _MIB if name.endswith("_bytes") else 1
        for node in sorted({each.node for each in samples}):
            own = [each for each in samples if each.node == node]
            ax.plot([each.at_s / 60 for each in own], [getattr(each, name) / unit for each in own], lw=0.8, label=node)
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    for kind, colour in (("kills", "tab:red"), ("stops", "tab:gray"), ("partitions", "tab:purple")):
        at = [at_s / 60 for at_s, what in faults if what == kind]
        axes[0].plot(at, [0] * len(at), "|", ms=10, color=colour, label=kind, clip_on=False)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=6, fontsize="small")
    axes[-1].set_xlabel("minutes")
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120)
    plt.close(figure)
