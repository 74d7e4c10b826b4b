"""What the relay makes of a line."""

from __future__ import annotations

import re

import zmqrel

LINE = re.compile(r"(?P<time>\S+T\S+) (?P<level>[A-Z]+) (?P<service>\S+): (?P<text>.*)")


def parsed(message: zmqrel.Message) -> dict[str, str]:
    """The parts of a line, and the line; the line alone if it is none of ours, such as one of a traceback."""
    line = message.body
    found = LINE.fullmatch(line)
    return {"line": line} | (found.groupdict() if found else {})
