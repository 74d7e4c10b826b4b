"""What is fuzzed, by name: each takes any bytes, and raises if something does not keep its word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import decoders
from tests.fuzz.engine import engine

CORPUS = Path(__file__).parent / "corpus"
"""A directory of inputs for each: where the search begins, and every one that once found something."""

TARGETS: dict[str, Callable[[bytes], None]] = {
    "frame": decoders.frame,
    "record": decoders.record,
    "body": decoders.body,
    "question": decoders.question,
    "engine": engine,
}
