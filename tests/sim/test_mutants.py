"""The checkers can fail: each deliberate bug of mutants.py is found by the seed that it names."""

from __future__ import annotations

import pytest

from tests.sim.mutants import FOUND, MUTANTS, mutated, source_of, start
from zmqrel.testing.workload import run

SOUND = sorted({(mutant.mix, mutant.seed) for mutant in MUTANTS.values()})


@pytest.mark.parametrize("name", MUTANTS)
def test_there_is_one_place_for_each_bug(name: str) -> None:
    compile(mutated(MUTANTS[name], source_of(MUTANTS[name])), name, "exec")


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_is_found(name: str) -> None:
    mutant = MUTANTS[name]
    process = start(name, mutant.mix, str(mutant.seed))
    said = process.communicate()[0]
    assert process.returncode == FOUND, said


@pytest.mark.long
@pytest.mark.parametrize(("mix", "seed"), SOUND)
def test_the_sound_core_passes_the_same_seeds(mix: str, seed: int) -> None:
    run(seed, mix)
