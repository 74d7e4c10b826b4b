"""Text from elsewhere, shown: nothing in it steers a terminal or hides, and none of it is endless."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from zmqrel.escaping import LONGEST, escaped


@given(st.text())
def test_what_is_left_can_be_seen_and_is_not_long(text: str) -> None:
    said = escaped(text)
    assert all(unicodedata.category(char)[0] != "C" for char in said)
    assert not set(said) & {"\u2028", "\u2029", "\n", "\r"}
    assert len(said) <= 10 * (LONGEST + 3)


@given(st.text("abc XYZ[]<>&'\"0-9é€", max_size=LONGEST))
def test_what_harms_nobody_stays_as_it_is(text: str) -> None:
    assert escaped(text) == text


def test_a_long_text_says_that_it_was_cut() -> None:
    assert escaped("x" * 600) == "x" * 500 + "..."
    assert escaped("abcdef", 3) == "abc..."
    assert escaped("\x1b[31m\u202e\ud800") == r"\x1b[31m\u202e\ud800"
