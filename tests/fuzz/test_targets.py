"""Every target with its corpus, what once broke something included, and with what hypothesis makes up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.engine import engine
from tests.fuzz.targets import CORPUS, TARGETS

INPUTS = {name: sorted((CORPUS / name).iterdir()) for name in TARGETS}


def test_each_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    assert min(map(len, INPUTS.values())) >= 3


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_breaks_nothing(target: str) -> None:
    for path in INPUTS[target]:
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(CORPUS.parent)} breaks it") from error


@pytest.mark.parametrize("target", sorted(TARGETS.keys() - {"engine"}))
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.data())
def test_made_up_bytes_break_no_decoder(target: str, made_up: bytes, data: st.DataObject) -> None:
    TARGETS[target](made_up)
    changed = bytearray(data.draw(st.sampled_from(INPUTS[target])).read_bytes() or b"x")
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    TARGETS[target](bytes(changed))


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=250))
def test_made_up_programs_do_not_break_the_engine(program: bytes) -> None:
    engine(b"\1" + program)


@pytest.mark.parametrize("seed", range(20))
def test_spliced_programs_do_not_break_the_engine(seed: int) -> None:
    rng = Random(seed)
    for _ in range(10):
        one, other = (path.read_bytes() for path in rng.sample(INPUTS["engine"], 2))
        engine(one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other)) :])
