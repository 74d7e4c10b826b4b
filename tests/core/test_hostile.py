"""Hostile input at the engine's door: it never raises, is counted, and changes nothing that lasts."""

from __future__ import annotations

from random import Random
from typing import Any
from zlib import crc32

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.pump import Host, Time, pair
from tests.core.puppet import CONTROLS, LINK, MESSAGES, PATIENT, Puppet
from zmqrel.core import frames, tables
from zmqrel.core.buffer import HANDLED
from zmqrel.core.entries import (
    MAX_SEQ,
    MAX_TIME_US,
    Meta,
    Settle,
    Withdraw,
    encode_control,
    encode_messages,
    encode_meta,
)
from zmqrel.core.frames import pack_sizes
from zmqrel.core.lane import CONTROL, DATA
from zmqrel.outcome import Cause


def open_host() -> tuple[Host, Puppet]:
    """An engine in an open session, with one message received and one sent."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    puppet.data(1, *encode_messages([b"good"], host.now().store_us, 0, b""))
    host.send("puppet", b"sent")
    puppet.forget()
    return host, puppet


def lasting(host: Host) -> list[tuple[bytes, bytes]]:
    """What the store holds, but for what every commit writes."""
    rows = host.store.scan(b"\x01", b"\xff", 10_000)
    return [row for row in rows if row[0] != tables.META and row[0][0] != tables.PEER]


def sealed(payload: bytes) -> bytes:
    """Bytes with a checksum that is right."""
    return payload + crc32(payload).to_bytes(4, "little")


@given(st.lists(st.lists(st.binary(max_size=60), max_size=3), min_size=1, max_size=5))
def test_garbage_is_counted_and_changes_nothing(garbage: list[list[bytes]]) -> None:
    host, _ = open_host()
    before = lasting(host)
    host.turn([(LINK, parts) for parts in garbage])
    assert host.engine.stats()["malformed"] == len(garbage)
    assert lasting(host) == before
    assert host.engine.has_session(LINK)


def said_by_a_peer() -> list[list[bytes]]:
    """Every kind of frame, as two engines that talk make them, and as one says them after damage."""
    heard: list[list[bytes]] = []
    a, b, pump = pair()
    a.send("b", b"x", key="k", headers={"a": 1}, deadline_us=a.now().store_us + 10**7)
    a.recall(a.send("b", b"y", b"z"))
    pump.run(lambda host, frame: bool(heard.append(remade(frame))) or True)  # type: ignore[func-returns-value]
    b.finish(b.take(), HANDLED)
    pump.run(lambda host, frame: bool(heard.append(remade(frame))) or True)  # type: ignore[func-returns-value]
    return heard


def remade(frame: frames.Frame) -> list[bytes]:
    """The frame as the puppet would say it."""
    fields = [*frame.fields[0]] if frame.type == frames.DATA else frame.fields
    payload = [frame.payload] if frame.type == frames.DATA else None
    return frames.encode([frame.type, b"", 0x11FE, 1, *fields], payload)


SAID = said_by_a_peer()


def test_the_frames_to_be_mutated_are_of_every_kind_that_a_session_carries() -> None:
    assert {frames.DATA, frames.ACK} <= {parts[0][1] for parts in SAID}
    assert len(SAID) > 5


@pytest.mark.parametrize("seed", range(50))
def test_mutated_frames_of_an_open_session_never_raise(seed: int) -> None:
    rng = Random(seed)
    host, puppet = open_host()
    for _ in range(30):
        head, *payload = rng.choice(SAID)
        fields = msgpack.unpackb(head)
        fields[1] = puppet.session
        parts = [msgpack.packb(fields), *payload]
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(parts))
            part = bytearray(parts[at] or b"x")
            part[rng.randrange(len(part))] = rng.randrange(256)
            parts[at] = bytes(part)
        host.turn([(LINK, parts)])
        host.time.pass_s(0.01)
    host.time.pass_s(100)
    host.turn()
    # It still does its work.
    puppet.lose_store()
    while (row := host.buffers["work"].take(host.now().store_us)) is not None:
        host.finish(row, HANDLED)
    puppet.data(1, *encode_messages([b"after"], host.now().store_us, 0, b""), lane_id=0xF00D)
    assert bytes(host.take().body) == b"after"


@pytest.mark.parametrize("seed", range(40))
def test_every_value_of_a_frame_may_be_any_other(seed: int) -> None:
    """Well-formed, of the right kinds, and false."""
    rng = Random(seed)
    numbers = [0, 1, 2, 3, 5, 2**31, 2**32, 2**62, MAX_SEQ - 1, MAX_SEQ, 2**63 + 1, 2**64 - 1]
    host, puppet = open_host()
    lane_ids = [MESSAGES, CONTROLS, *host.engine.channels["puppet"].own, 0, 2**64 - 1]

    def number() -> int:
        return rng.choice(numbers)

    def ranges() -> list[tuple[int, int]]:
        return [(number(), number()) for _ in range(rng.randrange(3))]

    def control() -> bytes:
        kind = rng.randrange(5)
        store = rng.choice([puppet.store_id, host.engine.shared.ledger.store_id, 5])
        fields: list[Any] = [kind, store, rng.choice(lane_ids)]
        if kind == 1:
            fields += [rng.randrange(5), rng.choice(["work", "", "x" * 64]), ranges(), rng.randrange(5)]
        elif kind == 2:
            fields += [[[*each, rng.randrange(8), None, number(), number(), number(), False] for each in ranges()]]
        elif kind == 3:
            fields += [number(), number()]
        else:
            states = [[rng.choice(lane_ids), number(), number(), ranges(), [[number(), 1]]] for _ in range(2)]
            marks = [[number(), number(), number(), bool(number())] for _ in range(2)]
            sent = [[rng.choice(lane_ids), *mark, ranges()] for mark in marks]
            fields = [4, store, host.engine.shared.ledger.store_id, states, sent, bool(number())]
        return sealed(msgpack.packb(fields))

    def message() -> bytes:
        meta = encode_meta(Meta(key=rng.choice([None, "k"]), not_before_us=number(), max_attempts=number()))
        return encode_messages([b"x"], number(), number(), rng.choice([b"", meta]))[0]

    def said() -> list[bytes]:
        which = rng.randrange(5)
        head: list[Any] = [frames.ACK, puppet.session, puppet.instance, number()]
        if which == 0:
            acks = [[rng.choice(lane_ids), number(), number(), number(), bool(rng.randrange(2))] for _ in range(2)]
            return frames.encode([*head, acks])
        if which == 1:
            head[0] = frames.PONG
            return frames.encode([*head, number(), number(), number()])
        head[0] = frames.DATA
        kind = rng.choice([CONTROL, DATA, DATA, 2, 3])
        records = [control() if kind == CONTROL else message() for _ in range(rng.randrange(1, 3))]
        queue = "" if kind == CONTROL else rng.choice(["work", "other"])
        runs = rng.choice([[len(records)], [-number() or -1, len(records)]])
        lane_id = CONTROLS if kind == CONTROL else rng.choice(lane_ids)
        fields = [lane_id, kind, queue, number(), rng.choice([1, 2, 3, number()]), runs, pack_sizes(records)]
        return frames.encode([*head, *fields], records)

    for _ in range(60):
        try:
            parts = said()
        except OverflowError:
            continue  # a number that no frame can carry
        host.turn([(LINK, parts)])
        host.time.pass_s(0.05)
        while (row := host.buffers["work"].take(host.now().store_us)) is not None:
            host.finish(row, HANDLED)
    host.turn()
    assert host.idle()


# ------------------------------------------------------------------------------- all of a frame, or nothing


BAD_RECORDS = {
    "too short": sealed(b"x"),
    "a wrong checksum": encode_messages([b"x"], 1, 0, b"")[0][:-1] + b"?",
    "meta that is none": encode_messages([b"x"], 1, 0, b"garbage")[0],
    "a date beyond all dates": encode_messages([b"x"], MAX_TIME_US + 1, 0, b"")[0],
    "a deadline beyond all dates": encode_messages([b"x"], 1, 2**64 - 1, b"")[0],
    "a queue without a name": encode_messages([b"x"], 1, 5, encode_meta(Meta(on_expiry="queue:")))[0],
}


@pytest.mark.parametrize("bad", BAD_RECORDS)
def test_a_bad_record_takes_nothing_of_its_frame_with_it(bad: str) -> None:
    host, puppet = open_host()
    puppet.withdraw(2)
    before = lasting(host)
    now_us = host.now().store_us
    good = encode_messages([b"x"] * 3, now_us, now_us + 10**9, encode_meta(Meta(key="k")))
    puppet.data(2, *good, BAD_RECORDS[bad])
    assert host.engine.stats()["malformed"] == 1
    assert lasting(host) == before, "not the tombstone, not a key, not a deadline"
    assert bytes(host.take().body) == b"good"
    puppet.data(2, *good)
    assert host.take().seq == 3, "the key is not blocked"


def test_a_bad_control_entry_leaves_those_before_it_alone() -> None:
    host, puppet = open_host()
    before = lasting(host)
    withdraw = encode_control(Withdraw(puppet.store_id, MESSAGES, DATA, "work", [(1, 1)], Cause.RECALL))
    too_many = encode_control(Withdraw(puppet.store_id, MESSAGES, DATA, "work", [(2, 2**40)], Cause.RECALL))
    other_queue = encode_control(Withdraw(puppet.store_id, MESSAGES, DATA, "other", [(2, 2)], Cause.RECALL))
    no_queue = encode_control(Withdraw(puppet.store_id, 5, DATA, "", [(2, 2)], Cause.RECALL))
    control = encode_control(Withdraw(puppet.store_id, MESSAGES, CONTROL, "", [(2, 2)], Cause.RECALL))
    for bad in (b"garbage", sealed(b"\x90"), too_many, other_queue, no_queue, control):
        puppet.records.clear()
        puppet.control(withdraw, bad)
    assert host.engine.stats()["malformed"] == 6
    assert [row for row in lasting(host) if row[0][0] != tables.LANE] == [
        row for row in before if row[0][0] != tables.LANE
    ], "no more than that the control lane is known"
    assert bytes(host.take().body) == b"good", "it was not withdrawn"


def test_a_lane_told_differently_is_refused() -> None:
    host, puppet = open_host()
    record = encode_messages([b"x"], host.now().store_us, 0, b"")
    puppet.data(2, *record, queue="other")
    puppet.data(2, *record, kind=2)
    puppet.data(1, *record, lane_id=5, kind=3)
    puppet.data(1, *record, lane_id=5, queue="")
    puppet.data(1, *record, lane_id=5, kind=CONTROL)
    assert host.engine.stats()["malformed"] == 5
    assert len(host.engine.channels["puppet"].theirs) == 1


def test_a_settlement_of_everything_costs_what_is_there() -> None:
    host, puppet = open_host()
    lane_id = next(lane.id for lane in host.engine.channels["puppet"].own.values() if lane.kind == DATA)
    store_id = host.engine.shared.ledger.store_id
    settle = [2, store_id, lane_id, [[1, MAX_SEQ, 1, None, 0, 0, 5, False]] * 250]
    puppet.control(sealed(msgpack.packb(settle)))
    assert host.outcomes() == [(1, "HANDLED", None)]


def test_a_void_to_the_last_number_ends_the_lane_and_harms_nothing_else() -> None:
    host, puppet = open_host()
    puppet.data(2, runs=[2 - MAX_SEQ])
    assert puppet.last(frames.ACK).fields[0][0].floor == MAX_SEQ - 1
    puppet.data(1, *encode_messages([b"x"], host.now().store_us, 0, b""), lane_id=5)
    assert [bytes(host.take().body) for _ in range(2)] == [b"good", b"x"]
    host.reopen("clean")
    host.turn()


def test_a_clock_that_lies_does_not_stop_the_judge() -> None:
    host, puppet = open_host()
    now_us = host.now().store_us
    for _ in range(8):
        puppet.say(frames.PONG, now_us, 2**64 - 1, 2**64 - 1)
        puppet.say(frames.PONG, now_us, 0, 0)
        puppet.say(frames.PONG, now_us, 5, 2**64 - 1)
    far = encode_messages([b"x"], now_us, MAX_TIME_US, encode_meta(Meta(not_before_us=MAX_TIME_US)))[0]
    puppet.data(1, far, lane_id=5, kind=2)
    host.reopen("clean")
    host.turn()
    assert host.engine.stats()["malformed"] == 0


@pytest.mark.parametrize(
    "info",
    [
        {"floors": [(5, 2**64 - 1)], "lanes": []},
        {"lanes": [[MESSAGES, DATA, "work", False, MAX_SEQ, MAX_SEQ, 2**64 - 1]]},
        {
            "lanes": [
                [MESSAGES, DATA, "another", False, 1, 1, 0],
                [9, 7, "x", True, 1, 1, 0],
                [9, 0, "x", True, 1, 1, 0],
            ]
        },
        {"heard": [5, 6, 2**64 - 1], "largest_entry": 0},
        {"i_am_old": True, "you_are_old": True},
    ],
)
def test_a_handshake_may_say_anything(info: dict[str, Any]) -> None:
    host, puppet = open_host()
    heard = [host.engine.shared.ledger.store_id, host.engine.shared.ledger.instance, 1]
    puppet.live_anew(**({"heard": heard} | info))
    for _ in range(20):
        host.time.pass_s(0.5)
        host.turn()
    assert not [kind for kind in host.kinds() if kind == "refused"]


def test_a_settlement_is_a_settlement_only_by_its_own_checksum() -> None:
    host, puppet = open_host()
    lane_id = next(lane.id for lane in host.engine.channels["puppet"].own.values() if lane.kind == DATA)
    record = bytearray(encode_control(Settle(host.engine.shared.ledger.store_id, lane_id, [])))
    record[3] ^= 1
    puppet.control(bytes(record))
    assert host.engine.stats()["malformed"] == 1
