"""Search small cases exhaustively: see docs/exhaustive.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive.cases import CASES
from zmqrel.testing.exhaustive.replay import told
from zmqrel.testing.exhaustive.search import Found, Search

_MOST_LINES = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Search or replay. Returns 0, 1 if a promise is broken, or 2 if a replay is not possible."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.replay is not None:
        return _replay(chosen.cases, chosen.replay.split(), parser)
    names = chosen.cases or list(CASES)
    print(f"{_many(len(names), 'case')}, {chosen.jobs} at a time", flush=True)
    search = partial(_search, limit=chosen.limit, settle_every=chosen.settle_every, reduce=not chosen.all_orders)
    if chosen.jobs == 1:
        results = list(map(search, names))
    else:
        with ProcessPoolExecutor(chosen.jobs) as pool:
            results = list(pool.map(search, names))
    states, transitions = (sum(getattr(found, what) for found in results) for what in ("states", "transitions"))
    broken = [name for name, found in zip(names, results, strict=True) if found.broken]
    partly = sum(not found.complete for found in results) - len(broken)
    verdict = f"a promise is broken in {', '.join(broken)}" if broken else "no promise is broken"
    whole = f"; {_many(partly, 'search', 'searches')} ended at the limit" if partly else ""
    print(f"{states:,} distinct states, {transitions:,} transitions: {verdict}{whole}")
    return int(bool(broken))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zmqrel.testing.exhaustive",
        description="Search every interleaving of small cases over the production core.",
        epilog="cases: " + "; ".join(f"{name}: {text}" for name, (text, _) in CASES.items()),
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", type=_case, help="cases to search; without, all")
    parser.add_argument("--jobs", type=_positive, default=2, help="processes at a time, a case each (default 2)")
    parser.add_argument("--limit", type=_positive, help="end each search after so many states")
    parser.add_argument(
        "--settle-every", type=_positive, default=1, metavar="N", help="follow one in N quiet states to its end"
    )
    parser.add_argument("--all-orders", action="store_true", help="also orders of actions that cannot differ")
    parser.add_argument("--replay", metavar="ACTIONS", help="take these actions of one case and tell what happens")
    return parser


def _case(text: str) -> str:
    if text not in CASES:
        raise argparse.ArgumentTypeError(f"there is no case {text!r}; there are {', '.join(CASES)}")
    return text


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"takes a whole number from 1, not {text!r}")
    return int(text)


def _many(count: int, one: str, more: str | None = None) -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _search(name: str, limit: int | None, settle_every: int, reduce: bool) -> Found:
    try:
        search = Search(CASES[name][1], limit=limit, settle_every=settle_every, reduce=reduce)
    except PromiseBroken as broken:
        print(f"{name}: BROKEN while the two processes start and connect: {broken}", flush=True)
        return Found(complete=False, broken=str(broken))
    found = search.run(lambda found: print(f"{name}: {_progress(found)}", flush=True))
    print(f"{name}: {_progress(found)}; {'complete' if found.complete else 'not complete'}")
    followed = f"{found.settled:,} of {found.quiet:,} quiet states were followed to their end"
    print(f"    {followed}: {_ends(found)}", flush=True)
    if found.broken is not None:
        print(f"{name}: BROKEN: {found.broken}")
        print(_numbered(told(CASES[name][1], found.path)))
        print(f"replay: python -m zmqrel.testing.exhaustive {name} --replay '{' '.join(found.path)}'", flush=True)
    return found


def _progress(found: Found) -> str:
    rate = found.states / max(found.seconds, 0.001)
    return (
        f"{found.states:,} distinct states ({rate:,.0f}/s), {found.transitions:,} transitions, "
        f"{found.depth} actions deep, {found.process_states:,} states of processes, "
        f"{found.core_runs:,} runs of the core"
    )


def _ends(found: Found) -> str:
    return ", ".join(f"{end} {count:,}" for end, count in found.outcomes.most_common()) or "none"


def _numbered(lines: Sequence[str]) -> str:
    """Lines with their numbers, without the middle of what goes on for ever."""
    numbered = [f"{at:4} {line}" for at, line in enumerate(lines, 1)]
    if len(numbered) > 2 * _MOST_LINES:
        numbered[_MOST_LINES : -_MOST_LINES // 4] = ["     ..."]
    return "\n".join(numbered)


def _replay(cases: Sequence[str], actions: Sequence[str], parser: argparse.ArgumentParser) -> int:
    if len(cases) != 1:
        parser.error("--replay takes one case")
    lines = told(CASES[cases[0]][1], actions)
    print(_numbered(lines))
    if any("not possible here" in line for line in lines):
        return 2
    return int(any("BROKEN" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
