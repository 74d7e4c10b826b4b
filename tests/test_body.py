"""Bodies: what may be sent, what arrives, and what is refused on either side."""

from __future__ import annotations

import enum
import math
import struct
import threading
from collections import OrderedDict, namedtuple
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqrel.body import MOST_DEEP, BadBody, check_body, decode_body, encode_bodies, encode_body
from zmqrel.errors import Error, NotSerializable

Pair = namedtuple("Pair", "a b")


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)
keys = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.binary(max_size=8))
bodies = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(keys, inner, max_size=5),
    ),
    max_leaves=30,
)


def as_arrived(body: Any) -> Any:
    if isinstance(body, (list, tuple)):
        return [as_arrived(each) for each in body]
    if isinstance(body, dict):
        return {key: as_arrived(value) for key, value in body.items()}
    return body


def nested(depth: int, inner: object = None) -> object:
    for level in range(depth):
        inner = ([inner], (inner,), {"a": inner})[level % 3]
    return inner


def assert_arrives(body: object) -> None:
    check_body(body)
    data = encode_body(body)
    assert type(data) is bytes
    assert decode_body(data) == as_arrived(body)
    assert repr(decode_body(memoryview(data))) == repr(as_arrived(body))


@given(bodies)
def test_what_is_sent_arrives(body: object) -> None:
    assert_arrives(body)


@pytest.mark.long
@settings(max_examples=3_000, deadline=None)
@given(bodies)
def test_what_is_sent_arrives_in_many_shapes(body: object) -> None:
    assert_arrives(body)


@pytest.mark.parametrize(
    "body",
    [
        None, True, False, 0, -(2**63), 2**64 - 1, 0.1, math.inf, "", "ä\0\U0001f600", b"", b"\xff" * 300,
        [], {}, {"": 1, b"": 2}, {"order": 42, "amount": "19.90"},
        [[], {}, [None]], {"a": {b"b": [1, "2", b"3"]}},
    ],
)  # fmt: skip
def test_what_may_be_sent(body: object) -> None:
    assert_arrives(body)


def test_tuples_arrive_as_lists() -> None:
    assert decode_body(encode_body((1, {"a": (2, ())}))) == [1, {"a": [2, []]}]


def test_types_are_kept() -> None:
    arrived: Any = decode_body(encode_body([True, 1, 1.0, "1", b"1"]))
    assert [type(each) for each in arrived] == [bool, int, float, str, bytes]


def test_not_a_number_may_be_sent() -> None:
    arrived: Any = decode_body(encode_body([math.nan]))
    assert math.isnan(arrived[0])


@pytest.mark.parametrize("body", [nested(MOST_DEEP), nested(MOST_DEEP, "x" * 100), [nested(MOST_DEEP - 1)] * 5])
def test_64_deep_may_be_sent(body: object) -> None:
    assert_arrives(body)


def endless() -> object:
    ring: list[object] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    ("body", "path", "why"),
    [
        (datetime(2024, 1, 1), "$", "datetime.datetime is no type of a body"),
        ({"order": {"when": datetime(2024, 1, 1)}}, "$.order.when", "datetime.datetime"),
        ({"items": [1, 2, {"price": Decimal(1)}]}, "$.items[2].price", "decimal.Decimal"),
        ({"a b": (1, {2})}, "$['a b'][1]", "set is no type"),
        ({b"k": object()}, "$[b'k']", "object is no type"),
        ({"a": {1: 2}}, "$.a", "1 is no key"),
        ({("x",): 1}, "$", "('x',) is no key"),
        ({None: 1}, "$", "None is no key"),
        ({"a": 2**64}, "$.a", "the int is out of range"),
        ([-(2**63) - 1], "$[0]", "the int is out of range"),
        ([10**5000], "$[0]", "the int is out of range"),
        ("\ud800", "$", "lone surrogate"),
        ({"a": ["x", "\udfff"]}, "$.a[1]", "lone surrogate"),
        ({"a": {"\ud800": 1}}, "$.a", "the key '\\ud800' holds a lone surrogate"),
        (bytearray(b"x"), "$", "bytearray is no type"),
        ([memoryview(b"x")], "$[0]", "memoryview is no type"),
        (Colour.RED, "$", "Colour is no type"),
        ({"n": Name("x")}, "$.n", "Name is no type"),
        ({Name("x"): 1}, "$", "'x' is no key"),
        (OrderedDict(a=1), "$", "OrderedDict is no type"),
        ([Pair(1, 2)], "$[0]", "Pair is no type"),
        (nested(MOST_DEEP + 1), "$", "more than 64 deep"),
        ({"a": nested(500)}, "$.a", "more than 64 deep"),
        (endless(), "$[0][0]", "more than 64 deep, or within itself"),
    ],
)
def test_what_may_not_be_sent_is_refused_by_path(body: object, path: str, why: str) -> None:
    for refuse in (encode_body, check_body):
        with pytest.raises(NotSerializable) as refused:
            refuse(body)
        message = str(refused.value)
        assert message.startswith(path)
        assert why in message
        assert "a body is None, bool, int from -2^63 to 2^64-1" in message
        assert isinstance(refused.value, TypeError)


def test_a_refusal_leaves_nothing_behind() -> None:
    for bad in ({"a": [1, 2**64]}, ["x" * 1000, "\ud800"]):
        with pytest.raises(NotSerializable):
            encode_body(bad)
        assert encode_body([1]) == b"\x91\x01"


@pytest.mark.parametrize("length", [0, 255, 256, 65_535, 65_536, 65_537, 2_000_000])
def test_bytes_of_any_length_are_messagepack(length: int) -> None:
    body = b"x" * length
    assert encode_body(body) == encode_bodies([body, body])[1] == msgpack.packb(body)
    assert encode_bodies([body, 7, "x"]) == [msgpack.packb(each) for each in (body, 7, "x")]


def test_large_bodies() -> None:
    body = {"blob": b"x" * 5_000_000}
    assert decode_body(encode_body(body)) == body
    assert encode_body(None) == b"\xc0"


def test_threads_do_not_share_a_packer() -> None:
    results: dict[int, list[bytes]] = {}

    def encode(number: int) -> None:
        results[number] = [encode_body({"n": number, "i": i}) for i in range(200)]

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, encoded in results.items():
        assert [decode_body(data) for data in encoded] == [{"n": number, "i": i} for i in range(200)]


BAD_BYTES = {
    "nothing": b"",
    "a type never used": b"\xc1",
    "two bodies": b"\x01\x02",
    "cut short": b"\xa5abc",
    "a str that is no UTF-8": b"\xa2\xff\xff",
    "a surrogate": b"\xa3\xed\xa0\x80",
    "a key that is an int": b"\x81\x01\x02",
    "a key that is a list": b"\x81\x90\x02",
    "a key that is nil": b"\x81\xc0\x02",
    "an extension": msgpack.packb(msgpack.ExtType(5, b"abc")),
    "an empty extension": b"\xc7\x00\x05",
    "a timestamp": msgpack.packb(msgpack.Timestamp(1, 2)),
    "an empty timestamp": b"\xc7\x00\xff",
    "a list of 2^32-1": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32-1": b"\xdf\xff\xff\xff\xff",
    "a str of 2^32-1": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32-1": b"\xc6\xff\xff\xff\xff",
    "65 deep": b"\x91" * 65 + b"\xc0",
    "65 deep, the last empty": b"\x91" * 64 + b"\x90",
    "100,000 deep": b"\x91" * 100_000 + b"\xc0",
    "100,000 maps deep": b"\x81\xa1a" * 100_000 + b"\xc0",
}


@pytest.mark.parametrize("data", BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_bytes_that_are_no_body_are_refused(data: bytes) -> None:
    for form in (data, memoryview(data)):
        with pytest.raises(BadBody, match="^not the encoding of a body: .") as refused:
            decode_body(form)
        assert isinstance(refused.value, ValueError)
        assert isinstance(refused.value, Error)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_refused(data: bytes) -> None:
    try:
        body = decode_body(data)
    except BadBody:
        return
    check_body(body)


@given(bodies, st.data())
def test_a_cut_body_is_refused(body: object, data: st.DataObject) -> None:
    whole = encode_body(body)
    with pytest.raises(BadBody):
        decode_body(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_64_deep_is_taken() -> None:
    assert encode_body(decode_body(b"\x91" * 64 + b"\xc0")) == b"\x91" * 64 + b"\xc0"


def test_foreign_encodings_of_a_body_are_taken() -> None:
    assert decode_body(b"\xca" + struct.pack(">f", 0.5)) == 0.5
    assert decode_body(b"\xd3" + struct.pack(">q", 7)) == 7
