"""Lets libFuzzer (atheris) look for inputs of one target: it keeps those that reach code which none before reached.

    python -m tests.fuzz.guided TARGET DIRECTORY... [options of libFuzzer]

New inputs go into the first directory. Run by `python -m tests.fuzz`, as a process of its own: it always ends itself.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["zmqrel.core", "zmqrel.body", "zmqrel.runtime.parts"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()
