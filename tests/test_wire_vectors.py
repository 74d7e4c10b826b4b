"""The vectors of docs/wire.md: what stands there is what a peer writes, and what it reads."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from zmqrel.body import decode_body, encode_body
from zmqrel.core import frames
from zmqrel.core.entries import (
    NO_META,
    Meta,
    decode_control,
    decode_head,
    encode_control,
    encode_messages,
    encode_meta,
    verify,
)

PAGE = (Path(__file__).parents[1] / "docs" / "wire.md").read_text(encoding="utf-8")
VECTORS = {
    name: (said, [bytes.fromhex(part) for part in hexadecimal.split("+ ")])
    for name, said, hexadecimal in re.findall(r"```vector ([^\n]+)\n([^\n]+)\n(.*?)```", PAGE, re.DOTALL)
}
FRAMES = {name for name in VECTORS if name in frames.FRAME_NAMES.values()}
MESSAGES = {name for name in VECTORS if name.startswith("MESSAGE")}
CONTROL = set(VECTORS) - FRAMES - MESSAGES


def value(text: str) -> Any:
    """A value in the page's notation."""
    literal = re.sub(r"h'([0-9a-f]*)'", lambda match: repr(bytes.fromhex(match[1])), text)
    for theirs, ours in (("nil", "None"), ("true", "True"), ("false", "False")):
        literal = re.sub(rf"\b{theirs}\b", ours, literal)
    return ast.literal_eval(literal)


def lists(item: Any) -> Any:
    """The same with every tuple as a list, as the page writes it."""
    return [lists(each) for each in item] if isinstance(item, (list, tuple)) else item


def test_there_is_a_vector_of_everything_that_is_said() -> None:
    assert set(frames.FRAME_NAMES.values()) == FRAMES
    assert {"WITHDRAW", "SETTLE", "NOTICE", "DENY"} <= {name.split()[0] for name in CONTROL}
    assert any("STATE" in name for name in CONTROL)
    assert len(MESSAGES) >= 2


@pytest.mark.parametrize("name", sorted(FRAMES))
def test_a_frame_is_written_and_read_as_the_page_says(name: str) -> None:
    said, parts = VECTORS[name]
    head, *payload = (value(part) for part in said.split(" + "))
    assert frames.encode(head, payload or None) == parts
    read = frames.decode(parts)
    assert (frames.FRAME_NAMES[read.type], read.session, read.instance, read.commits) == (name, *head[1:4])
    told = lists(read.fields[0]) if name == "DATA" else lists(read.fields)
    assert told == head[4:]
    if payload:
        assert frames.unpack_records(read.fields[0].sizes, read.payload) == payload
        assert verify(payload[0])


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_message_is_written_and_read_as_the_page_says(name: str) -> None:
    said, [record] = VECTORS[name]
    match = re.fullmatch(r"sent_at (\d+), deadline (\d+), meta (.*), body (.*)", said)
    assert match is not None
    sent_at_us, deadline_us = int(match[1]), int(match[2])
    meta = Meta(*(value(match[3]) or NO_META))
    body = value(match[4])
    assert encode_messages([encode_body(body)], sent_at_us, deadline_us, encode_meta(meta)) == [record]
    assert verify(record)
    head = decode_head(record)
    assert (head.sent_at_us, head.deadline_us, head.meta) == (sent_at_us, deadline_us, meta)
    assert decode_body(record[head.body_at : -4]) == body


@pytest.mark.parametrize("name", sorted(CONTROL))
def test_a_control_entry_is_written_and_read_as_the_page_says(name: str) -> None:
    said, [record] = VECTORS[name]
    entry = decode_control(record)
    assert type(entry).__name__.upper() == name.split()[0]
    assert encode_control(entry) == record
    expected = value(said)
    plain = lists(entry)
    if name == "WITHDRAW":
        plain[-1] = entry.cause.value  # type: ignore[union-attr]
    if name == "SETTLE":
        for each in plain[-1]:
            each[2] = each[2].value
    assert plain == expected[1:]
