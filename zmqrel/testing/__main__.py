"""Run random workloads under faults in the simulator and check every promise: `python -m zmqrel.testing --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

from zmqrel.testing.batch import Batch, Shown, cases, explain, run_batch
from zmqrel.testing.case import case, parts_of
from zmqrel.testing.mixes import MIXES
from zmqrel.testing.shrinking import attempt, first_line, report
from zmqrel.testing.sights import INTERESTING, missing

_FAILURES = "simulator-failures.txt"


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say. Returns 0, 1 if something was found, 2 for arguments that make no sense."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    unknown = [mix for mix in asked.mixes if mix not in MIXES]
    if unknown:
        parser.error(f"there is no mix {unknown[0]!r}; there are: {', '.join(MIXES)}")
    if asked.list:
        print(*(f"{name:24}{mix.about}" for name, mix in MIXES.items()), sep="\n")
        return 0
    if asked.replay is not None:
        return _replay(parser, asked)
    return _batch(asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zmqrel.testing",
        description="Runs random workloads under faults in the simulator, and checks every promise.",
        epilog="Exit status: 0, 1 if a promise was broken or a batch showed too little, 2 for wrong arguments.",
    )
    parser.add_argument("mixes", nargs="*", metavar="MIX", help="what may happen, see --list; all of them by default")
    parser.add_argument("--list", action="store_true", help="list the mixes")
    parser.add_argument("--seeds", type=_positive, default=len(MIXES), metavar="N", help="runs, the mixes in turn")
    parser.add_argument("--first", type=_natural, default=0, metavar="SEED", help="first seed of each mix")
    parser.add_argument("--steps", type=_positive, metavar="N", help="steps of each run, not those of its mix")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument(
        "--failures", default=_FAILURES, metavar="FILE", help=f"written to if a run fails ({_FAILURES})"
    )
    parser.add_argument("--replay", type=_natural, metavar="SEED", help="one run of MIX, with a trace of its failure")
    parser.add_argument("--only", metavar="PARTS", help="with --replay: leave out all but these parts")
    parser.add_argument("--shrink", action="store_true", help="with --replay: search for a smaller run that fails so")
    return parser


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _positive(text: str) -> int:
    if not _natural(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _replay(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> int:
    if len(asked.mixes) != 1:
        parser.error("--replay takes one MIX")
    a_case = case(asked.replay, asked.mixes[0], asked.steps)
    if asked.only is not None:
        try:
            a_case = replace(a_case, kept=parts_of(asked.only))
        except ValueError as error:
            parser.error(f"--only: {error}")
    if asked.shrink:
        said = report(a_case, _say)
        print(said or "nothing fails")
        return int(said is not None)
    failure = attempt(a_case)
    if failure is None:
        print("nothing fails")
        return 0
    print(failure.trace.written(failure.error), f"\n{first_line(failure.error)}", sep="\n")
    return 1


def _batch(asked: argparse.Namespace) -> int:
    mixes, begun = asked.mixes or list(MIXES), monotonic()
    batch = Batch({mix: Shown() for mix in mixes})
    status = 0
    try:
        run_batch(cases(mixes, asked.first, asked.seeds, asked.steps), asked.seeds, asked.jobs, batch, _say)
    except KeyboardInterrupt:
        _say("interrupted")
        status = 130
    _print_summary(batch, monotonic() - begun)
    not_shown = missing({mix: (shown.runs, shown.seen) for mix, shown in batch.mixes.items()})
    for what in not_shown:
        print(f"NOT SHOWN: {what}")
    if batch.failed:
        explain(batch, Path(asked.failures))
        print(f"{len(batch.failed)} runs failed; see {asked.failures}")
    return status or int(bool(batch.failed or not_shown))


def _print_summary(batch: Batch, seconds: float) -> None:
    whole = batch.whole
    print(f"{'mix':24}{'runs':>7}{'failed':>7}{'messages':>11}{'hand-overs':>11}{'virtual s':>11}{'times real':>12}")
    for mix, shown in [*batch.mixes.items(), ("all", whole)]:
        print(f"{mix:24}{shown.runs:7}{shown.failed:7}", end="")
        print(f"{shown.messages:11,}{shown.hand_overs:11,}{shown.pace.virtual_s:11,.0f}{shown.pace.rate:12.1f}")
    print("\nwhat was shown, and how often:")
    for name, of in INTERESTING.items():
        print(f"  {name:46}{sum(whole.seen[what] for what in of):11,}")
    print(f"\n{whole.pace}")
    print(f"{whole.runs} runs in {seconds:.0f} s, {whole.failed} failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
