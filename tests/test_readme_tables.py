"""The README's table of options says what the options are."""

from __future__ import annotations

import re
import time
from dataclasses import fields
from pathlib import Path

import zmqrel
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
