"""The checkers can fail: each deliberate bug of mutants.py is found, by runs that the sound core passes."""

from __future__ import annotations

import re

import pytest

from tests.sim.mutants import FOUND, MUTANTS, mutated, source_of, start
from zmqrel.testing.case import run


@pytest.mark.parametrize("name", MUTANTS)
def test_there_is_one_place_for_each_bug(name: str) -> None:
    compile(mutated(MUTANTS[name], source_of(MUTANTS[name])), name, "exec")


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_is_found(name: str) -> None:
    process = start("find", name)
    said = process.communicate()[0]
    assert process.returncode == FOUND, said
    where = re.search(r"by seed (\d+) of '(.+?)':", said)
    assert where is not None, said
    run(int(where[1]), where[2])
