"""The rows of a file that does not change: CSV, JSON lines, or any lines of text."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JSON_LINES = (".jsonl", ".ndjson")
TEXT = (".log", ".txt")


def rows_of(file: Path, column: str | None = None) -> Iterator[Any]:
    """Each row: a dict, for CSV with a header line and JSON lines, or a str, as the ending of the file's name says.

    A CSV file must have the `column`, if one is given. A mistake in the file ends the program, with a message.
    """
    with file.open(
        encoding="utf-8-sig", errors="backslashreplace", newline=None if file.suffix in TEXT else ""
    ) as lines:
        if file.suffix in TEXT:
            yield from (line.removesuffix("\n") for line in lines)
        elif file.suffix in JSON_LINES:
            yield from (_json_row(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip())
        else:
            reader = csv.DictReader(lines, restkey="rest", restval="")
            try:
                if column is not None and column not in (reader.fieldnames or ()):
                    sys.exit(f"{file}: no column {column}; its columns are {', '.join(reader.fieldnames or ())}")
                yield from reader
            except csv.Error as error:
                sys.exit(f"{file}:{reader.line_num}: {error}")


def _json_row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        sys.exit(f"{place}: not JSON: {error}")
    if not isinstance(row, dict):
        sys.exit(f"{place}: not a JSON object")
    return row
