"""What one peer may cost another: at each limit it is slowed or refused, and counted; nobody else is concerned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.pump import Host, Time
from tests.core.puppet import LINK, MESSAGES, PATIENT, Puppet
from tests.core.test_keys import keyed
from zmqrel.core import commands as c
from zmqrel.core import frames, limits, tables
from zmqrel.core.buffer import HANDLED
from zmqrel.core.entries import (
    LARGEST_CONTROL,
    MAX_SEQ,
    MOST_IN_WITHDRAW,
    Deny,
    Notice,
    Settle,
    Settled,
    State,
    Withdraw,
    encode_messages,
)
from zmqrel.core.frames import pack_sizes
from zmqrel.core.lane import CONTROL, DATA
from zmqrel.core.limits import Bucket, Buckets
from zmqrel.outcome import Cause, Outcome


def host_and_puppet(**options: Any) -> tuple[Host, Puppet]:
    host = Host("b", Time(), **{**PATIENT, **options})
    host.serve()
    return host, Puppet(host)


def message(host: Host, body: bytes = b"x") -> bytes:
    return encode_messages([body], host.now().store_us, 0, b"")[0]


# ----------------------------------------------------------------------------------------------------- buckets


@given(
    st.integers(1, 1000),
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 50)), max_size=60),
)
def test_a_bucket_gives_what_a_count_of_tokens_would(per_s: int, burst: int, steps: list[tuple[int, int]]) -> None:
    """Against the plain way: so many tokens, some more with each step, never more than fit."""
    bucket, now_us, tokens = Bucket(per_s, burst), 0, float(burst)
    for wait_us, wanted in steps:
        now_us += wait_us
        tokens = min(burst, tokens + wait_us * per_s / 1e6)
        assert bucket.left(now_us) == pytest.approx(tokens, abs=1e-3)
        for _ in range(wanted):
            if abs(tokens - 1) < 1e-3:
                return  # rounding decides
            assert bucket.take_one(now_us) == (tokens >= 1)
            tokens -= tokens >= 1


def test_a_debt_is_over_after_two_seconds_and_a_full_bucket() -> None:
    bucket = Bucket(1000, 100)
    bucket.take(0, 10**9)
    assert bucket.is_empty(2_000_000)
    assert not bucket.is_empty(2_002_000)


def test_of_those_who_come_and_go_so_many_are_remembered() -> None:
    buckets = Buckets(1, 1)
    assert all(buckets.take_one(key, 0) for key in range(5000))
    assert buckets.known(0) is None
    assert not buckets.take_one(4999, 0)
    buckets.forget(4999)
    assert buckets.take_one(4999, 0)


# --------------------------------------------------------------------------------------------- the allowance


def gap(puppet: Puppet) -> None:
    puppet.data(1000, message(puppet.host))


def duplicate(puppet: Puppet) -> None:
    puppet.data(1, message(puppet.host))


def lane_of(puppet: Puppet) -> int:
    own = puppet.host.engine.channels[puppet.name].own.values()
    return next(lane.id for lane in own if lane.kind == DATA)


def settled(first: int) -> Settled:
    return Settled(first, first, Outcome.HANDLED, None, 1, 5, 5, False)


IDLE = {
    "garbage": lambda puppet: puppet.say_parts([b"garbage"]),
    "a deep header": lambda puppet: puppet.say_parts([b"\x95" + b"\x91" * 900]),
    "a frame of another session": lambda puppet: puppet.say(frames.PING, 5, session=bytes(16)),
    "a BYE of another session": lambda puppet: puppet.say(frames.BYE, "", session=bytes(16)),
    "a WELCOME to no HELLO": lambda puppet: puppet.welcome(),
    "an OPEN of another session": lambda puppet: puppet.open(session=bytes(16)),
    "an OPEN again": lambda puppet: puppet.open(),
    "a HELLO again": lambda puppet: puppet.say(frames.HELLO, puppet.identity(), 5, session=b"puppet__"),
    "a PING": lambda puppet: puppet.say(frames.PING, 5),
    "a PONG": lambda puppet: puppet.say(frames.PONG, 5, 5, 5),
    "a gap": gap,
    "a duplicate": duplicate,
    "an ACK of nothing new": lambda puppet: puppet.ack(lane_of(puppet), 1),
    "an ACK of nothing known": lambda puppet: puppet.ack(5, 1),
    "a request to send again": lambda puppet: puppet.ack(lane_of(puppet), 1, gap=True),
    "a settlement of nothing": lambda puppet: puppet.control(
        Settle(puppet.host.engine.shared.ledger.store_id, lane_of(puppet), [settled(1)])
    ),
    "a settlement of what was never sent": lambda puppet: puppet.control(
        Settle(puppet.host.engine.shared.ledger.store_id, lane_of(puppet), [settled(10**6)])
    ),
    "a settlement of no lane": lambda puppet: puppet.control(Settle(7, 7, [settled(1)])),
    "a notice of nothing": lambda puppet: puppet.control(
        Notice(puppet.host.engine.shared.ledger.store_id, lane_of(puppet), 1, 5)
    ),
    "a notice of no lane": lambda puppet: puppet.control(Notice(7, 7, 1, 5)),
    "a denial of nothing": lambda puppet: puppet.control(
        Deny(puppet.host.engine.shared.ledger.store_id, lane_of(puppet), [(1, 1)], "")
    ),
    "a denial of no lane": lambda puppet: puppet.control(Deny(7, 7, [(1, 1)], "")),
    "a STATE that nobody asked for": lambda puppet: puppet.control(State(7, 7, [], [], True)),
}


@pytest.mark.parametrize("idle", IDLE)
def test_who_brings_nothing_is_slowed_down_and_others_are_not(idle: str) -> None:
    """However small a frame is, and however little it is wrong: a flood of it is dropped unread before long."""
    host, puppet = host_and_puppet()
    other = Puppet(host, "other", dial=False)
    other.link = 70
    other.dial(b"other___")
    host.send("puppet", b"sent")
    puppet.ack(lane_of(puppet), 1)
    puppet.settle(lane_of(puppet), 1, Outcome.HANDLED)
    duplicate(puppet)
    sent = 0
    while not host.engine.stats()["throttled"]:
        IDLE[idle](puppet)
        sent += 1
        assert sent < 3 * limits.ALLOWANCE_BYTES // limits.FRAME_COST, "nothing stops it"
        assert host.engine.channels["other"].allowance.left(host.now().mono_us) > limits.ALLOWANCE_BYTES // 2
        puppet.forget()
    other.data(1, message(host, b"good"), lane_id=0xBEEF)
    assert [bytes(host.take().body) for _ in range(2)] == [b"x", b"good"]
    host.time.pass_s(20)
    puppet.data(2, message(host, b"later"))
    assert bytes(host.take().body) == b"later", "nothing of what it sent for nothing is held against it for ever"


def impostor() -> tuple[Host, Puppet]:
    """It has a session in its own name, and says another."""
    host = keyed({LINK: "puppet"})
    puppet = Puppet(host)
    puppet.name = "shop"
    return host, puppet


def unwelcome() -> tuple[Host, Puppet]:
    """The application wants no more of it, and its link is still there."""
    host, puppet = host_and_puppet()
    host.turn([], c.Disconnect(puppet.name))
    return host, puppet


@pytest.mark.parametrize("made", [impostor, unwelcome])
def test_a_hello_that_is_refused_is_charged_over_a_known_link_too(made: Callable[[], tuple[Host, Puppet]]) -> None:
    host, puppet = made()
    puppet.session = b"puppet__"
    for _ in range(limits.ALLOWANCE_BYTES // limits.FRAME_COST):
        puppet.hello()
        puppet.forget()
    assert host.engine.stats()["throttled"], "nothing stops it"
    assert not host.engine.stats()["malformed"]


def test_a_welcome_of_somebody_else_is_charged() -> None:
    """Who is dialled answers in another name, as often as it likes."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host, dial=False)
    host.turn([], c.Connect("puppet", "tcp://somewhere:1"))
    host.engine.dialled("puppet", LINK)
    puppet.listen()
    host.turn()
    half = puppet.last(frames.HELLO).session
    for _ in range(limits.ALLOWANCE_BYTES // limits.FRAME_COST):
        puppet.welcome(session=half + b"somebody", identity=[frames.PROTOCOL, "shop", 5])
    assert host.engine.stats()["refused"] > 0
    assert host.engine.stats()["throttled"] > 0


@pytest.mark.parametrize("known", [True, False])
def test_who_goes_on_all_the_same_is_shut_out(known: bool) -> None:
    """One connection at a time ends, and what comes over others is no concern of it."""
    host, puppet = host_and_puppet()
    link = puppet.link if known else 1234
    while not host.shut_out:
        host.turn([(link, [b"garbage"])] * 100)
        assert host.engine.stats()["throttled"] < 2 * limits.PATIENCE_BYTES // limits.FRAME_COST
    assert set(host.shut_out) == {link}
    assert host.engine.stats()["shut_out"] == len(host.shut_out)
    host.engine.link_down(link)
    host.turn([])
    assert not host.engine.has_session(link)


def test_what_is_no_frame_is_charged_by_its_bytes() -> None:
    host, puppet = host_and_puppet()
    allowance = host.engine.channels["puppet"].allowance
    before = allowance.left(host.now().mono_us)
    host.engine.begin(host.now(), 0)
    host.engine.no_frame(puppet.link, 10**6)
    host.engine.no_frame(4321, 10**6)
    host.engine.finish()
    assert before - allowance.left(host.now().mono_us) >= 10**6
    assert host.engine.stats()["malformed"] == 2


@pytest.mark.parametrize("full", ["inbox", "store"])
def test_who_goes_on_sending_without_room_is_slowed_down(full: str) -> None:
    host, puppet = host_and_puppet(inbox_max_messages=5)
    puppet.data(1, *[message(host)] * 5)
    host.engine.set_accepting(full == "inbox")
    sent = 0
    while not host.engine.stats()["throttled"]:
        puppet.data(6, message(host))
        sent += 1
        assert sent < limits.ALLOWANCE_BYTES // limits.FRAME_COST
    assert host.engine.stats()["received"] == 5


@pytest.mark.parametrize("session", [None, bytes(16)])
def test_large_bodies_that_come_again_slow_nobody_down(session: bytes | None) -> None:
    """One of each of six queues, the window being what it is, four times: as after sessions that broke."""
    host, puppet = host_and_puppet()
    body = message(host, bytes(16 << 20))
    for again in range(5):
        for lane in range(6 if session is None or again else 0):
            fields = 0xBEEF + lane, DATA, "work", 0, 1, [1], pack_sizes([body])
            puppet.say(frames.DATA, *fields, payload=[body], session=session)
        host.time.pass_s(2)
    assert host.engine.stats()["throttled"] == 0
    assert not host.shut_out


def test_a_wide_window_that_comes_again_slows_nobody_down() -> None:
    """Where the own window is as wide."""
    host, puppet = host_and_puppet(window_bytes=64 << 20)
    batch = message(host, bytes(60_000))
    puppet.data(1, batch)
    for _ in range(4):
        for _ in range(1000):
            puppet.data(1, batch)
        puppet.forget()
    assert host.engine.stats()["throttled"] == 0


def test_who_has_no_room_for_large_bodies_is_heard_all_the_same() -> None:
    """Each time it has room again it asks for what is on the wire."""
    host, puppet = host_and_puppet()
    lanes = 6
    for lane in range(lanes):
        host.send("puppet", bytes(16 << 20), queue=f"q{lane}")
    own = [lane for lane in host.engine.channels["puppet"].own.values() if lane.kind == DATA]
    for _ in range(3):
        for lane in own:
            puppet.ack(lane.id, 0, gap=True)
            puppet.forget()
        host.time.pass_s(3)
        host.turn()
    assert host.engine.stats()["resent_gaps"] >= lanes
    assert host.engine.stats()["throttled"] == 0


def test_what_is_under_way_for_long_is_not_sent_again_meanwhile() -> None:
    host, puppet = host_and_puppet()
    for lane in range(4):
        host.send("puppet", bytes(16 << 20), queue=f"q{lane}")
    for _ in range(100):
        host.time.pass_s(0.1)
        host.turn()
    assert host.engine.stats()["resend_timeouts"] <= 2, "of which the timers began before the others were sent"
    host.time.pass_s(300)
    host.turn()
    assert host.engine.stats()["resend_timeouts"] >= 4, "but for good it is not given up"
    puppet.forget()


def test_useful_work_is_free() -> None:
    host, puppet = host_and_puppet()
    before = limits.ALLOWANCE_BYTES - host.engine.channels["puppet"].allowance.left(host.now().mono_us)
    for first in range(1, 400):
        puppet.data(first, message(host))
        host.finish(host.take(), HANDLED)
        host.send("puppet", b"y")
        puppet.ack(lane_of(puppet), first)
        puppet.settle(lane_of(puppet), first, Outcome.HANDLED)
    charged = limits.ALLOWANCE_BYTES - host.engine.channels["puppet"].allowance.left(host.now().mono_us)
    assert charged <= before + 2 * limits.LANE_COST + 1000, "for two lanes that are new"


def test_strangers_are_slowed_each_and_together() -> None:
    host = Host("b", Time(), **PATIENT)
    each = limits.STRANGER_BYTES // limits.FRAME_COST
    host.turn([(5, [b"garbage"])] * 2 * each)
    assert each // 2 < host.engine.stats()["malformed"] <= each + 1
    before = host.engine.stats()["malformed"]
    host.turn([(6, [b"garbage"])])
    assert host.engine.stats()["malformed"] == before + 1, "another link is heard"
    for link in range(10, 1000):
        host.turn([(link, [b"garbage"])] * (each // 4))
    together = host.engine.stats()["malformed"]
    assert together < 2 * limits.STRANGERS * each
    host.time.pass_s(60)
    puppet = Puppet(host)
    assert host.engine.has_session(puppet.link)


def test_what_was_under_way_to_the_life_before_delays_no_handshake() -> None:
    """A peer that streamed to a process which was started anew: all of that comes first, and is large."""
    host = Host("b", Time(), **PATIENT)
    before = Puppet(Host("b", Time(), **PATIENT))
    under_way = frames.encode([frames.DATA, before.session, before.instance, 1, 5, 1, "work", 0, 1, [1], b""], [])
    host.turn([(LINK, [under_way[0], b"x" * 65536])] * 300)
    puppet = Puppet(host)
    assert host.engine.has_session(puppet.link)
    assert host.engine.stats()["throttled"] == 0


def test_a_peer_that_asks_over_ever_new_connections_is_slowed() -> None:
    host, puppet = host_and_puppet()
    for link in range(100, 400):
        puppet.link = link
        puppet.say(frames.HELLO, puppet.identity(), 5, session=link.to_bytes(8, "big"))
    assert host.engine.stats()["throttled"] > 0
    assert len(host.engine._links) <= limits.MOST_SESSIONS + 2
    assert host.engine.stats()["limited"] > 0, "offers that nobody took gave way"


def test_what_others_provoke_is_reported_now_and_then_and_always_counted() -> None:
    host, puppet = host_and_puppet()
    for _ in range(200):
        puppet.say_parts([b"garbage"])
    assert host.engine.stats()["malformed"] == 200
    assert host.kinds().count("malformed") == limits.REPORTS


# --------------------------------------------------------------------------------------------- numbers


def test_sessions_of_one_peer() -> None:
    host, puppet = host_and_puppet()
    first = puppet.link
    for number in range(limits.MOST_SESSIONS):
        host.time.pass_s(1)
        puppet.link += 1
        puppet.dial(f"life{number:04}".encode())
    assert len(host.engine.channels["puppet"].sessions.open) == limits.MOST_SESSIONS
    assert not host.engine.has_session(first), "the one that was silent longest"
    assert host.engine.has_session(puppet.link)
    assert host.engine.stats()["limited"] == 1


def test_peers_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqrel.core.engine.MOST_PEERS", 5)
    host = Host("b", Time(), accept="any", **PATIENT)
    for link in range(10, 20):
        identity = [frames.PROTOCOL, f"peer-{link}", link]
        host.turn([(link, frames.encode([frames.HELLO, link.to_bytes(8, "big"), 1, 1, identity, 5]))])
    assert len(host.engine.channels) == 5
    assert host.engine.stats()["limited"] == 5


def test_lanes_of_one_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqrel.core.channel.MOST_LANES", 5)
    host, puppet = host_and_puppet()
    for lane_id in range(1, 20):
        puppet.data(1, message(host), lane_id=lane_id)
    assert len(host.engine.channels["puppet"].theirs) == 5
    assert host.engine.stats()["malformed"] == 14


def test_lanes_of_stores_that_are_gone() -> None:
    """What holds a message stays; of the rest the latest stores are remembered."""
    host, puppet = host_and_puppet()
    puppet.data(1, message(host, b"kept"))
    for _ in range(12):
        puppet.lose_store()
        puppet.data(1, runs=[-1], lane_id=0xABC)
    stores = {lane.store_id for lane in host.engine.shared.in_lanes.values() if lane.peer == "puppet"}
    assert len(stores) <= limits.MOST_GONE_STORES + 2
    host.reopen("clean")
    host.turn()
    assert bytes(host.take().body) == b"kept"


def test_stores_in_an_hour() -> None:
    host, puppet = host_and_puppet()
    for _ in range(limits.STORES_PER_HOUR):
        puppet.lose_store()
    known = host.engine.channels["puppet"].their_store
    host.engine.link_down(puppet.link)
    puppet.store_id += 1
    puppet.live_anew()
    assert host.engine.channels["puppet"].their_store == known
    assert not host.engine.has_session(puppet.link)
    assert host.engine.stats()["limited"] == 1
    host.time.pass_s(3600 / limits.STORES_PER_HOUR + 1)
    puppet.live_anew()
    assert host.engine.channels["puppet"].their_store == puppet.store_id


def test_old_copies_in_an_hour() -> None:
    host, puppet = host_and_puppet()
    host.send("puppet", b"sent")
    puppet.ack(lane_of(puppet), 1)
    while not host.engine.stats()["limited"]:
        puppet.live_anew(i_am_old=True)
    assert host.engine.stats()["peer_old_copy"] == limits.STORES_PER_HOUR
    assert not host.engine.has_session(puppet.link)


def test_tombstones_of_one_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the control lane waits; data still comes, and makes room."""
    monkeypatch.setattr("zmqrel.core.channel.MOST_TOMBSTONES", 10)
    host, puppet = host_and_puppet()
    puppet.withdraw(*range(2, 14))
    puppet.withdraw(20)
    control = next(lane for lane in host.engine.channels["puppet"].theirs.values() if lane.kind == CONTROL)
    assert control.floor == 1
    assert host.engine._inbox.tombstones_of["puppet"] == 12
    host.reopen("clean")
    assert host.engine._inbox.tombstones_of["puppet"] == 12
    puppet = Puppet(host)
    puppet.records[1] = b""
    puppet.data(1, *[message(host)] * 13)
    assert host.engine._inbox.tombstones_of["puppet"] == 0
    puppet.withdraw(20)
    assert host.engine._inbox.tombstones_of["puppet"] == 1
    assert host.engine.stats()["limited"] == 0


def test_tombstones_for_millions_are_slowed() -> None:
    host, puppet = host_and_puppet()
    entry = Withdraw(puppet.store_id, MESSAGES, DATA, "work", [(1, MOST_IN_WITHDRAW)], Cause.RECALL)
    entries = [entry._replace(ranges=[(first, first + MOST_IN_WITHDRAW - 1)]) for first in range(1, 10**7, 20_000)]
    puppet.control(*entries)
    made = host.engine.stats()["tombstones"]
    assert 0 < made * limits.ENTRY_COST < 2 * limits.ALLOWANCE_BYTES
    control = next(lane for lane in host.engine.channels["puppet"].theirs.values() if lane.kind == CONTROL)
    assert control.floor * MOST_IN_WITHDRAW == made
    assert puppet.last(frames.ACK).fields[0][0].gap, "the rest is asked for"


def test_a_withdrawal_of_what_has_come_costs_what_is_there() -> None:
    host, puppet = host_and_puppet()
    puppet.data(1, message(host), runs=[1, -(10**12)])
    for first in range(2, 10**7, 20_000):
        last = first + MOST_IN_WITHDRAW - 1
        puppet.control(Withdraw(puppet.store_id, MESSAGES, DATA, "work", [(first, last)], Cause.RECALL))
    assert host.engine.stats()["tombstones"] == 0
    puppet.withdraw(1)
    assert host.engine.stats()["recalled"] == 1


def test_who_does_not_take_settlements_is_not_taken_messages_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqrel.core.channel.MOST_UNHEARD", 3)
    host, puppet = host_and_puppet()
    for first in range(1, 10):
        puppet.data(first, message(host))
        row = host.buffers["work"].take(host.now().store_us)
        if row is not None:
            host.finish(row, HANDLED)
    assert host.engine.stats()["received"] == 4
    assert host.engine.stats()["limited"] > 0
    puppet.ack_control()
    puppet.data(5, message(host))
    assert host.engine.stats()["received"] == 5


def test_entries_larger_than_what_was_said() -> None:
    host, puppet = host_and_puppet(max_body_bytes=1000)
    puppet.data(1, message(host, bytes(1000 + 2**20)))
    assert host.engine.stats()["malformed"] == 1
    puppet.data(1, *[message(host, bytes(1000))] * 100)
    assert host.engine.stats()["received"] == 100
    puppet.data(1, bytes(LARGEST_CONTROL + 1), lane_id=5, kind=CONTROL, queue="")
    assert host.engine.stats()["malformed"] == 2


# --------------------------------------------------------------------------------- the inbox, fairly shared


def filled(lanes: int, **options: Any) -> Host:
    """A peer has sent as much as it may, over so many lanes, to a host that knows another."""
    host = Host("b", Time(), **PATIENT, **options)
    host.turn([], c.Connect("other", None))
    puppet = Puppet(host)
    for _ in range(3):
        for lane_id in range(1, lanes + 1):
            channel = host.engine.channels["puppet"]
            lane = channel.theirs.get(lane_id)
            floor = lane.floor if lane is not None else 0
            puppet.data(floor + 1, *[message(host)] * 200, lane_id=lane_id, queue=f"q{lane_id}")
    return host


@pytest.mark.parametrize("lanes", [1, 10, 60])
def test_one_peer_cannot_fill_the_inbox_of_all(lanes: int) -> None:
    """However many queues it sends to: half of the fair share of another is left to that one."""
    host = filled(lanes, inbox_max_messages=1000)
    assert host.engine.shared.ledger.inbox_messages <= 750 + 2 * lanes
    other = Puppet(host, "other", dial=False)
    other.link = 70
    other.dial(b"other___")
    before = host.engine.stats()["received"]
    for first in range(1, 1000, 50):
        other.data(first, *[message(host)] * 50, lane_id=0xBEEF)
    assert host.engine.stats()["received"] - before >= 250 - lanes


# ------------------------------------------------------------------------- whatever it says, others are not concerned


NUMBERS = st.sampled_from([0, 1, 2, 3, 2**31, 2**32, 2**62, MAX_SEQ - 1, MAX_SEQ, 2**63 + 1, 2**64 - 1])
QUEUES = st.sampled_from(["", "work", "other"])
RANGES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3)
FORGED = st.lists(
    st.one_of(
        st.tuples(st.just("ack"), st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans()), max_size=4)),
        st.tuples(
            st.just("data"), NUMBERS, st.integers(0, 4), st.sampled_from(["", "work", "other"]), NUMBERS, NUMBERS
        ),
        st.tuples(st.just("withdraw"), NUMBERS, RANGES, st.integers(0, 4)),
        st.tuples(st.just("settle"), NUMBERS, RANGES, st.integers(0, 7)),
        st.tuples(st.just("notice"), NUMBERS, NUMBERS),
        st.tuples(st.just("state"), NUMBERS, RANGES, st.booleans()),
        st.tuples(st.just("open"), NUMBERS, st.booleans(), st.booleans()),
        st.tuples(st.just("bye"), st.booleans()),
        st.tuples(st.just("raw"), st.binary(max_size=40)),
    ),
    max_size=12,
)


def forge(host: Host, puppet: Puppet, lanes: list[int], said: tuple[Any, ...]) -> None:
    """Say it, in the names of lanes that are the victim's, the other peer's and nobody's."""
    kind, *given = said

    def lane(number: int) -> int:
        return lanes[number % len(lanes)] if number < 2**32 else number

    store = host.engine.shared.ledger.store_id
    control: list[Any] | None = None
    if kind == "ack":
        puppet.say(frames.ACK, [[lane(each[0]), *each[1:]] for each in given[0]])
    elif kind == "data":
        lane_id, lane_kind, queue, doubt, first = given
        fields = [lane(lane_id), lane_kind, queue, doubt, first, [1], pack_sizes([message(host)])]
        puppet.say(frames.DATA, *fields, payload=[message(host)])
    elif kind == "withdraw":
        control = [1, puppet.store_id, lane(given[0]), DATA, "work", given[1], given[2]]
    elif kind == "settle":
        control = [2, store, lane(given[0]), [[*each, given[2], None, 1, 5, 5, False] for each in given[1]]]
    elif kind == "notice":
        control = [3, store, lane(given[0]), given[1], 5]
    elif kind == "state":
        received = [[lane(given[0]), 1, MAX_SEQ, given[1], []]]
        sent = [[lane(given[0]), 1, MAX_SEQ, MAX_SEQ, given[2], given[1]]]
        control = [4, puppet.store_id, store, received, sent, True]
    elif kind == "open":
        puppet.open(floors=[(lane(given[0]), given[0])], i_am_old=given[1], you_are_old=given[2])
    elif kind == "bye":
        puppet.say(frames.BYE, "", session=puppet.session if given[0] else b"other___" + bytes(8))
    else:
        puppet.say_parts(given)
    if control is not None:
        payload = msgpack.packb(control)
        floor = max((each.floor for each in theirs(host, "puppet") if each.kind == CONTROL), default=0)
        record = payload + crc32(payload).to_bytes(4, "little")
        puppet.data(floor + 1, record, lane_id=0xC0, kind=CONTROL, queue="")


def theirs(host: Host, name: str) -> list[Any]:
    return list(host.engine.channels[name].theirs.values())


def concerns(host: Host, name: str) -> Any:
    """All that a peer has to do with: its row, its lanes, and what lies in them."""
    channel = host.engine.channels[name]
    lanes = [*channel.own.values(), *channel.theirs.values()]
    rows = host.store.scan(b"\x02", b"\xff", 10_000)
    of_lanes = [
        row for row in rows if row[0][0] >= tables.OUTBOX and row[0][1:5] in {n.no.to_bytes(4, "big") for n in lanes}
    ]
    sessions = [(session.id, session.link) for session in channel.sessions.open.values()]
    return channel.encode(), sorted(lane.encode() for lane in lanes), of_lanes, sessions


@settings(deadline=None)
@given(FORGED)
def test_whatever_one_peer_forges_no_other_is_concerned(forged: list[tuple[Any, ...]]) -> None:
    host, puppet = host_and_puppet()
    other = Puppet(host, "other", dial=False)
    other.link, other.store_id, other.instance = 70, 0x07E4, 0x17
    other.dial(b"other___")
    other.data(1, message(host), message(host), lane_id=0xBEEF, queue="left")
    other.withdraw(9)
    host.send("other", b"one", b"two")
    host.send("puppet", b"three")
    host.turn()
    before = concerns(host, "other")
    lanes = [
        lane.id
        for channel in host.engine.channels.values()
        for lane in [*channel.own.values(), *channel.theirs.values()]
    ]
    for said in forged:
        forge(host, puppet, lanes, said)
    assert concerns(host, "other") == before
    channel, inbox = host.engine.channels["puppet"], host.engine._inbox
    assert len(channel.sessions.open) <= limits.MOST_SESSIONS
    assert len(channel.theirs) <= len(forged) + 1
    stones = host.store.scan(*tables.table_bounds(tables.TOMBSTONE), 10**6)
    assert sum(inbox.tombstones_of.values()) == len(stones)
    assert host.engine.shared.ledger.inbox_messages == sum(lane.count for lane in host.engine.shared.in_lanes.values())
