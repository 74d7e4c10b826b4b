"""The README's table of options says what the options are."""

from __future__ import annotations

import re
import time
from dataclasses import fields
from pathlib import Path

import zmqrel
from zmqrel.core import limits
from zmqrel.options import Options

README = Path(__file__).parents[1] / "README.md"


def test_every_option_stands_in_the_readme_with_its_default() -> None:
    text = README.read_text(encoding="utf-8").split("## Options and limits")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", text, re.MULTILINE))
    assert set(told) == {each.name for each in fields(Options)}
    options = Options()
    names = {"Retry": zmqrel.Retry, "time": time}
    for name, default in told.items():
        assert eval(default, {"__builtins__": {}}, names) == getattr(options, name), name


def test_the_limits_of_a_peer_stand_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8").split("| of each peer | at most |")[1].split("\n\n")[0]
    kib, mib = 1 << 10, 1 << 20
    for words in (
        f"{limits.STRANGER_BYTES // mib} MiB of frames at once, {limits.STRANGER_BYTES_PER_S // kib} KiB a second",
        f"{limits.FRAME_COST // kib} KiB count); {limits.STRANGERS} times",
        f"{limits.PATIENCE_BYTES // mib} MiB at once, {limits.PATIENCE_BYTES_PER_S // mib} MiB a second; then",
        f"for {limits.SHUT_OUT_S:g} seconds",
        f"{limits.ALLOWANCE_BYTES // mib} MiB at once, {limits.ALLOWANCE_BYTES_PER_S // mib} MiB a second"
        f" (a frame counts its length, at most {limits.MOST_CHARGED // kib} KiB,"
        f" and {limits.FRAME_COST // kib} KiB more, a HELLO {limits.HELLO_COST // kib} KiB,"
        f" a session {limits.SESSION_COST // kib} KiB, a new lane {limits.LANE_COST // kib} KiB,"
        f" a tombstone {limits.ENTRY_COST} bytes)",
        f"gets to know | {limits.MOST_PEERS:,} |",
        f"sessions at a time | {limits.MOST_SESSIONS} |",
        f"lanes of one store | {limits.MOST_LANES:,}:",
        f"in an hour | {limits.STORES_PER_HOUR} |",
        f"(tombstones) | {limits.MOST_TOMBSTONES:,} |",
        f"| {limits.MOST_UNHEARD:,} entries |",
        f"{limits.REPORTS} of a kind at once",
    ):
        assert words in text
