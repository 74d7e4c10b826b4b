"""Looks for inputs that break something.

    python -m tests.fuzz [--minutes M] [--target NAME]...      or tox -e fuzz -- --minutes 5

The minutes are divided among the targets. It needs atheris, which knows what code an input reached. New inputs lie in
build/fuzz/NAME, and what breaks something in build/fuzz/NAME-crash-*: put that into tests/fuzz/corpus/NAME, so that it
is run with the tests, and mend what it found. Says how many inputs each target was given; exit status 1: one broke.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS

_OUT = Path("build/fuzz")
_MOST_BYTES = 2048
_SLOW_S = 20
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")


def _fuzz(target: str, seconds: int) -> tuple[str, bool]:
    """What was found out, in a line, and whether nothing broke."""
    found, log = _OUT / target, _OUT / f"{target}.log"
    found.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds, "max_len": _MOST_BYTES, "timeout": _SLOW_S, "artifact_prefix": f"{_OUT}/{target}-",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.fuzz.guided", target, str(found), str(CORPUS / target)]
    command += [f"-{name}={value}" for name, value in options.items()]
    with log.open("w") as output:
        status = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
    done = _DONE.search(log.read_text(errors="replace"))
    if status or done is None:
        return f"{target}: broken; {log} tells more", False
    return f"{target}: {int(done[1]):,} inputs in {done[2]} s, {len(list(found.iterdir()))} kept", True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Look for inputs that break something.")
    parser.add_argument("--minutes", type=float, default=5, help="for all targets together [%(default)s]")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be repeated")
    args = parser.parse_args()
    if find_spec("atheris") is None:
        parser.error("this needs atheris (pip install atheris); tests/fuzz/test_targets.py does without, less well")
    targets = args.target or list(TARGETS)
    whole = True
    for target in targets:
        said, is_whole = _fuzz(target, max(1, int(args.minutes * 60 / len(targets))))
        print(said, flush=True)
        whole = whole and is_whole
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
