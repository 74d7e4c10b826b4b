"""Sessions: state by frame, with a peer made by hand at the other end of the link, and what time does to them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.core.pump import Host, Pump, Time, pair
from tests.core.puppet import LINK, MESSAGES, PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import frames
from zmqrel.core.buffer import HANDLED
from zmqrel.core.entries import encode_messages
from zmqrel.core.lane import DATA

OLD = b"an old session__"


class Case:
    """An engine and a link to it, in a state."""

    def __init__(self, state: str) -> None:
        self.host = Host("b", Time(), **PATIENT)
        self.host.serve()
        self.puppet = Puppet(self.host, dial=False)
        getattr(self, state)()
        self.puppet.forget()

    # The engine is the one that was dialled, ...

    def nothing(self) -> None:
        pass

    def pending(self) -> None:
        self.puppet.hello()
        self.puppet.session = self.puppet.last(frames.WELCOME).session

    def opened(self) -> None:
        self.pending()
        self.puppet.open()

    # ... or the one that dials.

    def dialling(self) -> None:
        self.host.engine.dialled("puppet", LINK)
        self.host.turn()
        self.puppet.session = self.puppet.last(frames.HELLO).session + b"puppets_"

    def dialled(self) -> None:
        self.dialling()
        self.puppet.welcome()

    @property
    def is_open(self) -> bool:
        return self.host.engine.has_session(LINK)

    def session(self) -> bytes | None:
        sessions = self.host.engine.channels["puppet"].sessions.open
        return sessions[LINK].id if sessions else None


def data(session: bytes | None = None) -> Callable[[Puppet], None]:
    def say(puppet: Puppet) -> None:
        known = puppet.session
        puppet.session = session or known
        puppet.data(1, *encode_messages([b"x"], puppet.host.now().store_us, 0, b""))
        puppet.session = known

    return say


def hello(half: bytes) -> Callable[[Puppet], None]:
    return lambda puppet: puppet.say(frames.HELLO, puppet.identity(), 5, session=half)


def ping_of_another_life(puppet: Puppet) -> None:
    puppet.instance += 1
    puppet.say(frames.PING, 5)
    puppet.instance -= 1


EVENTS: dict[str, Callable[[Puppet], None]] = {
    "HELLO again": hello(b"puppet__"),
    "HELLO of a new session": hello(b"anewhalf"),
    "WELCOME": lambda puppet: puppet.welcome(),
    "WELCOME of another": lambda puppet: puppet.welcome(session=OLD),
    "OPEN": lambda puppet: puppet.open(session=puppet.session),
    "OPEN of another": lambda puppet: puppet.open(session=OLD),
    "BYE": lambda puppet: puppet.say(frames.BYE, "why"),
    "BYE of another": lambda puppet: puppet.say(frames.BYE, "why", session=OLD),
    "DATA": data(),
    "DATA of another": data(OLD),
    "PING": lambda puppet: puppet.say(frames.PING, 5),
    "PING of another": lambda puppet: puppet.say(frames.PING, 5, session=OLD),
    "PING of another life": ping_of_another_life,
    "PONG": lambda puppet: puppet.say(frames.PONG, 5, 5, 5),
    "ACK": lambda puppet: puppet.ack(1, 0),
    "ACK of another": lambda puppet: puppet.say(frames.ACK, [], session=OLD),
}
OFFERED = ["WELCOME"]
REFUSED = ["BYE"]
SILENCE: list[str] = []
TABLE: dict[str, dict[str, list[str]]] = {
    # A first HELLO draws a WELCOME and changes nothing; everything else is of no session here.
    "nothing": dict.fromkeys(EVENTS, REFUSED)
    | {"HELLO again": OFFERED, "HELLO of a new session": OFFERED, "BYE": SILENCE, "BYE of another": SILENCE},
    "pending": {
        "HELLO again": OFFERED,
        "HELLO of a new session": OFFERED,
        "WELCOME": SILENCE,
        "WELCOME of another": SILENCE,
        "OPEN": ["PING"],
        "OPEN of another": REFUSED,
        "BYE": SILENCE,
        "BYE of another": SILENCE,
        "DATA": SILENCE,
        "DATA of another": REFUSED,
        "PING": SILENCE,
        "PING of another": REFUSED,
        "PING of another life": SILENCE,
        "PONG": SILENCE,
        "ACK": SILENCE,
        "ACK of another": REFUSED,
    },
    "opened": {
        "HELLO again": OFFERED,
        "HELLO of a new session": OFFERED,
        "WELCOME": SILENCE,
        "WELCOME of another": SILENCE,
        "OPEN": ["PING"],
        "OPEN of another": REFUSED,
        "BYE": ["BYE"],
        "BYE of another": SILENCE,
        "DATA": ["ACK"],
        "DATA of another": REFUSED,
        "PING": ["PONG"],
        "PING of another": REFUSED,
        "PING of another life": REFUSED,
        "PONG": SILENCE,
        "ACK": SILENCE,
        "ACK of another": REFUSED,
    },
    "dialling": dict.fromkeys(EVENTS, REFUSED)
    | {
        "HELLO again": OFFERED,
        "HELLO of a new session": OFFERED,
        "WELCOME": ["OPEN"],
        "WELCOME of another": SILENCE,
        "BYE": SILENCE,
        "BYE of another": SILENCE,
    },
}
TABLE["dialled"] = TABLE["opened"] | {"OPEN": ["PING"]}
OPENS = {("pending", "OPEN"), ("dialling", "WELCOME")}
ENDS = {("opened", "BYE"), ("dialled", "BYE")}


@pytest.mark.parametrize("state", TABLE)
@pytest.mark.parametrize("event", EVENTS)
def test_state_by_frame(state: str, event: str) -> None:
    case = Case(state)
    before = case.session()
    EVENTS[event](case.puppet)
    assert case.puppet.types() == TABLE[state][event]
    if (state, event) in OPENS:
        assert case.session() == case.puppet.session
    elif (state, event) in ENDS:
        assert case.session() is None
    else:
        assert case.session() == before
    assert case.host.kinds() == []


def test_the_same_hello_draws_the_same_welcome() -> None:
    case = Case("pending")
    case.puppet.say(frames.HELLO, case.puppet.identity(), 5, session=b"puppet__")
    assert case.puppet.last(frames.WELCOME).session == case.puppet.session
    case.puppet.open()
    case.puppet.say(frames.HELLO, case.puppet.identity(), 5, session=b"puppet__")
    assert case.puppet.last(frames.WELCOME).session == case.puppet.session


def test_a_refusal_names_the_session_that_it_refuses() -> None:
    case = Case("opened")
    case.puppet.say(frames.PING, 5, session=OLD)
    assert case.puppet.last(frames.BYE).session == OLD


def test_sixty_four_old_frames_draw_one_refusal_a_turn() -> None:
    case = Case("opened")
    old = frames.encode([frames.PING, OLD, case.puppet.instance, 1, 5])
    case.host.turn([(LINK, old)] * 64)
    assert case.puppet.types() == ["BYE"]
    assert case.is_open


def test_a_connector_repeats_its_hello_and_then_its_open() -> None:
    case = Case("dialling")
    heard: list[str] = []
    for _ in range(100):
        case.host.time.pass_s(0.05)
        case.host.turn()
        heard += case.puppet.types()
    assert set(heard) == {"HELLO"}
    assert 4 <= len(heard) <= 12, "more rarely each time, but at least once a second"
    case.puppet.welcome()
    case.puppet.forget()
    for _ in range(40):
        case.host.time.pass_s(0.05)
        case.host.turn()
    assert "OPEN" in case.puppet.types()
    case.puppet.say(frames.PING, 5)
    case.puppet.forget()
    for _ in range(40):
        case.host.time.pass_s(0.05)
        case.host.turn()
    assert case.puppet.types() == []


def test_a_refused_connector_begins_anew_with_another_half() -> None:
    case = Case("dialling")
    half = case.puppet.session[:8]
    case.puppet.say(frames.BYE, "not now", session=half)
    assert case.puppet.types() == []
    case.host.time.pass_s(1.1)
    case.host.turn()
    assert case.puppet.last(frames.HELLO).session != half


def test_a_connector_whose_session_ended_begins_anew() -> None:
    case = Case("dialled")
    half = case.puppet.session[:8]
    case.puppet.say(frames.BYE, "restarting")
    case.host.time.pass_s(0.05)
    case.host.turn()
    assert case.puppet.last(frames.HELLO).session != half


# ----------------------------------------------------------------------------------------------- who it is


@pytest.mark.parametrize(
    ("identity", "event"),
    [([99, "puppet", 1], "refused"), ([1, "stranger", 1], "refused"), ([1, "b", 1], "refused")],
    ids=["protocol", "name", "itself"],
)
def test_a_hello_of_the_wrong_peer_is_refused(identity: list[Any], event: str) -> None:
    case = Case("nothing")
    case.puppet.say(frames.HELLO, identity, 5)
    assert case.puppet.types() == ["BYE"]
    assert case.host.kinds() == [event]


def test_with_accept_any_a_stranger_is_let_in() -> None:
    host = Host("b", Time(), accept="any")
    puppet = Puppet(host, name="stranger", dial=False)
    host.engine.channels.pop("stranger")
    puppet.dial()
    assert host.engine.has_session(LINK)


def test_one_link_speaks_for_one_peer() -> None:
    case = Case("opened")
    case.host.turn([], c.Connect("other", None))
    case.puppet.say(frames.HELLO, [1, "other", 5], 5, session=b"_another")
    assert case.host.kinds() == ["malformed"]
    assert case.puppet.types() == []


def test_a_hello_names_half_of_a_session() -> None:
    case = Case("nothing")
    case.puppet.say(frames.HELLO, case.puppet.identity(), 5, session=bytes(16))
    assert case.host.kinds() == ["malformed"]


@pytest.mark.parametrize("identity", [[99, "puppet", 1], [1, "other", 1]], ids=["protocol", "name"])
def test_a_welcome_of_the_wrong_peer_is_refused(identity: list[Any]) -> None:
    case = Case("dialling")
    case.puppet.welcome(identity=identity)
    assert not case.is_open
    assert case.host.kinds() == ["refused"]


def test_a_handshake_that_was_overtaken_closes_no_lane() -> None:
    """It was said on the other link before its peer made the lane, and this peer has heard of it since."""
    case = Case("dialling")
    puppet = case.puppet
    puppet.commits = 6
    puppet.welcome(lanes=[[MESSAGES, DATA, "work", False, 1, 2, 0]])
    puppet.link, puppet.commits, puppet.session = LINK + 1, 5, b"latehalf"
    puppet.hello()
    puppet.open(session=puppet.last(frames.WELCOME).session)
    channel = case.host.engine.channels["puppet"]
    assert len(channel.sessions.open) == 2
    assert not channel.theirs[MESSAGES].closed


def test_a_newcomer_with_a_living_peers_name_is_refused() -> None:
    case = Case("opened")
    newcomer = Puppet(case.host, dial=False)
    newcomer.store_id += 1
    newcomer.link = LINK + 1
    newcomer.hello()
    assert case.puppet.types() == ["PING"], "the first is asked whether it lives"
    case.host.time.pass_s(0.1)
    case.puppet.say(frames.PONG, 5, 5, 5)
    newcomer.hello()
    assert newcomer.types() == []
    assert case.is_open
    assert case.host.kinds() == ["refused"]


def newcomer_of(case: Case, *, store: int = 0, life: int = 0) -> Puppet:
    """Another process that says it is the same peer, over a link of its own."""
    newcomer = Puppet(case.host, dial=False)
    newcomer.store_id += store
    newcomer.instance += life
    newcomer.link = LINK + 1
    return newcomer


def knock(newcomer: Puppet, seconds: float) -> bool:
    """Say HELLO every tenth of a second, as a connector does or oftener; whether it was let in at last."""
    for _ in range(round(seconds * 10)):
        newcomer.host.time.pass_s(0.1)
        newcomer.hello()
        if "WELCOME" in newcomer.types():
            return True
    return False


def test_a_new_life_of_a_store_takes_over_from_one_that_does_not_answer() -> None:
    case = Case("opened")
    newcomer = newcomer_of(case, life=1)
    newcomer.hello()
    assert newcomer.types() == [], "the first has some time to answer"
    assert not knock(newcomer, 0.2)
    assert knock(newcomer, 0.2)
    newcomer.dial()
    assert case.host.engine.has_session(LINK + 1)
    assert not case.is_open


def test_another_store_gets_the_name_only_when_its_holder_counts_as_down() -> None:
    """A copy of a directory, or a second process by mistake, must not push out a holder that is busy for a moment."""
    case = Case("opened")
    liveness_s = case.host.options.liveness_s
    newcomer = newcomer_of(case, store=1)
    newcomer.hello()
    assert not knock(newcomer, 5)
    case.puppet.say(frames.PONG, 5, 5, 5)
    assert case.is_open
    case.host.time.pass_s(liveness_s - 6)
    assert not knock(newcomer, 5)
    assert knock(newcomer, 5)
    newcomer.dial()
    assert case.host.engine.has_session(LINK + 1)
    assert not case.is_open


@pytest.mark.parametrize("end", ["BYE", "closed"])
def test_another_store_gets_the_name_at_once_when_its_holder_is_known_to_be_gone(end: str) -> None:
    case = Case("opened")
    newcomer = newcomer_of(case, store=1)
    newcomer.hello()
    assert newcomer.types() == []
    if end == "BYE":
        case.puppet.say(frames.BYE, "closing")
    else:
        case.host.engine.link_down(LINK)
        case.host.turn()
    newcomer.dial()
    assert case.host.engine.has_session(LINK + 1)
    assert not case.is_open


# ---------------------------------------------------------------------------------------------------- liveness


def test_a_heartbeat_keeps_an_idle_session_open() -> None:
    a, b, pump = pair()
    pump.pass_s(60)
    assert (a.kinds(), b.kinds()) == ([], [])
    assert a.engine.stats()["sessions"] == 1


def test_two_idle_peers_do_not_make_each_other_commit() -> None:
    a, b, pump = pair()
    pump.pass_s(5)
    commits = [host.engine.stats()["commits"] for host in (a, b)]
    pump.pass_s(300)
    assert [host.engine.stats()["commits"] for host in (a, b)] == commits


def test_a_silent_link_is_down_and_dialled_anew() -> None:
    a, b, pump = pair()
    pump.pass_s(5, keep=lambda host, frame: False)
    assert a.kinds() == ["silent"]
    assert a.hung_up == [1]
    pump.pass_s(1)
    assert a.engine.stats()["peers_connected"] == b.engine.stats()["peers_connected"] == 1
    a.send("b", b"x")
    pump.run()
    assert bytes(b.take().body) == b"x"


def test_a_link_that_answered_and_carries_nothing_more_one_way_is_dialled_anew() -> None:
    a, b, pump = pair()
    pump.pass_s(15, keep=lambda host, frame: host is b)
    assert b.kinds()[0] == "silent"
    assert a.hung_up == [1]
    pump.pass_s(2)
    assert a.engine.stats()["peers_connected"] == b.engine.stats()["peers_connected"] == 1


def test_a_link_on_which_nobody_answers_is_dialled_anew_more_rarely_each_time() -> None:
    a, b, pump = pair()
    many = []
    for _ in range(10):
        pump.pass_s(60, keep=lambda host, frame: False)
        many.append(len(a.hung_up))
    assert 4 <= many[0] <= 6
    assert all(0 <= later - before <= 1 for before, later in pairwise(many)), "a socket a minute"
    pump.pass_s(1)
    assert a.engine.stats()["peers_connected"] == b.engine.stats()["peers_connected"] == 1, "each of them was as good"
    pump.pass_s(10, keep=lambda host, frame: False)
    assert len(a.hung_up) == many[-1] + 2, "as soon as the first time, now that there was somebody"


def test_a_transport_that_says_the_link_is_gone_is_believed() -> None:
    a, b, pump = pair()
    b.engine.link_down(1)
    b.turn()
    assert b.engine.stats()["peers_connected"] == 0
    b.engine.link_down(99)
    pump.run()
    pump.pass_s(0.1)
    assert b.engine.stats()["peers_connected"] == 1, "its BYE made the other begin anew"
    assert a.kinds() == []


def test_both_may_dial_and_neither_link_ends_the_other() -> None:
    time = Time()
    a, b = Host("a", time), Host("b", time)
    b.serve()
    a.serve()
    pump = Pump(a, b)
    pump.connect(both=True)
    assert len(a.engine.channels["b"].sessions.open) == len(b.engine.channels["a"].sessions.open) == 2
    a.send("b", b"to b")
    b.send("a", b"to a")
    pump.run()
    b.finish(b.take(), HANDLED)
    a.finish(a.take(), HANDLED)
    pump.run()
    assert a.outcomes() == b.outcomes() == [(1, "HANDLED", None)]
    a.engine.link_down(1)
    a.send("b", b"over the other link")
    pump.run()
    assert bytes(b.take().body) == b"over the other link"
    pump.pass_s(30)
    assert a.engine.stats()["resent_gaps"] == 0


def test_disconnect_keeps_what_waits_and_connect_takes_it_up() -> None:
    a, b, pump = pair()
    a.turn([], c.Disconnect("b"), c.Disconnect("nobody"))
    pump.run()
    assert a.engine.stats()["peers_connected"] == b.engine.stats()["peers_connected"] == 0
    stored = a.send("b", b"x")
    pump.pass_s(3)
    assert stored.lane.sent_upto == 0
    pump.connect()
    pump.run()
    assert bytes(b.take().body) == b"x"


def test_connecting_to_another_endpoint_leaves_the_first() -> None:
    a, b, pump = pair()
    a.turn([], c.Connect("b", "elsewhere"))
    assert a.hung_up == [1]
    pump.run()
    a.send("b", b"x")
    pump.run()
    assert bytes(b.take().body) == b"x"


def test_closing_says_goodbye() -> None:
    a, b, pump = pair()
    a.engine.begin(a.now(), 0)
    a.engine.close("closing")
    a._apply(a.engine.finish())
    pump.run()
    assert b.engine.stats()["peers_connected"] == 0


def test_a_new_life_of_a_peer_ends_the_session_of_its_old_one() -> None:
    a, b, pump = pair()
    a.send("b", b"x")
    pump.run()
    b.finish(b.take(), HANDLED)
    b.out.clear()  # the settlement is lost with the link
    a.reopen()
    pump.connect()
    pump.pass_s(1)
    assert a.outcomes() == [(1, "HANDLED", None)]
    assert a.kinds() == b.kinds() == []
    a.send("b", b"y")
    pump.run()
    assert (bytes(b.take().body), b.engine.stats()["received"]) == (b"y", 2)


def test_while_a_living_peer_is_asked_a_welcome_and_an_open_of_a_newcomer_wait() -> None:
    case = Case("opened")
    newcomer = Puppet(case.host, dial=False)
    newcomer.instance += 1
    newcomer.link = LINK + 1
    case.host.engine.dialled("puppet", LINK + 1)
    case.host.turn()
    newcomer.session = newcomer.last(frames.HELLO).session + b"newcomer"
    newcomer.welcome()
    assert newcomer.types() == ["HELLO"]
    assert not case.host.engine.has_session(LINK + 1)
    assert case.is_open


def test_an_open_that_comes_when_another_life_has_opened_waits() -> None:
    case = Case("pending")
    other = Puppet(case.host, dial=False)
    other.instance += 1
    other.link = LINK + 1
    other.session = b"other___"
    other.dial(b"other___")
    case.puppet.open()
    assert not case.is_open
    assert case.host.engine.has_session(LINK + 1)


def later_life(case: Case) -> Puppet:
    """Another life of the puppet opens a session over another link, and closes."""
    later = Puppet(case.host, dial=False)
    later.instance = case.puppet.instance + 1
    later.link = LINK + 1
    later.dial(b"later___")
    later.say(frames.BYE, "closing")
    return later


def test_a_late_open_of_an_earlier_life_does_not_count() -> None:
    """It tells of the past as that life knew it: floors that fell, though no store was put back."""
    case = Case("pending")
    later_life(case)
    case.puppet.open()
    assert case.puppet.types() == ["BYE"]
    assert not case.is_open
    assert case.host.kinds() == []


def test_a_late_welcome_of_an_earlier_life_does_not_count() -> None:
    case = Case("dialling")
    later = later_life(case)
    case.puppet.welcome()
    assert case.puppet.types() == ["HELLO"]
    assert not case.is_open
    later.link = LINK
    later.session = case.puppet.session
    later.welcome()
    assert not case.is_open, "whoever lives is met with another half"
    case.host.time.pass_s(1)
    case.host.turn()
    later.session = later.last(frames.HELLO).session + b"later___"
    later.welcome()
    assert case.is_open


@pytest.mark.parametrize(("state", "shows"), [("dialled", frames.PING), ("opened", frames.PONG)])
def test_nothing_is_sent_before_the_other_has_shown_that_it_knows_this_store(state: str, shows: int) -> None:
    """Only so can it be told later whether a peer forgot this one, or never knew it."""
    case = Case(state)
    case.host.send("puppet", b"x")
    if state == "opened":
        case.puppet.say(frames.PING, 5)
    assert "DATA" not in case.puppet.types()
    case.puppet.say(shows, *[5] * (1 if shows == frames.PING else 3))
    assert "DATA" in case.puppet.types()
    assert case.is_open


def test_a_hello_without_its_open_is_forgotten() -> None:
    case = Case("pending")
    case.host.time.pass_s(11)
    case.host.turn()
    assert case.host.hung_up == [LINK]
    case.puppet.open()
    assert not case.is_open


def spoken(pump: Pump, seconds: float, also: Callable[[], object] = lambda: None) -> list[tuple[str, str]]:
    """Who sent which frames in so many seconds, in each of which `also` is done."""
    said: list[tuple[str, str]] = []

    def listen(host: Host, frame: frames.Frame) -> bool:
        said.append((host.name, frames.FRAME_NAMES[frame.type]))
        return True

    for _ in range(int(seconds * 10)):
        also()
        pump.pass_s(0.1, listen)
    return said


def test_of_two_that_have_nothing_to_say_one_asks_and_the_other_answers() -> None:
    _, _, pump = pair()
    pump.pass_s(5)
    said = spoken(pump, 80)
    assert 79 <= said.count(("a", "PING")) <= 81, "who dialled asks once in a heartbeat"
    assert 9 <= said.count(("b", "PING")) <= 11, "the other one only for the reading of a clock"
    assert said.count(("b", "PONG")) == said.count(("a", "PING"))
    assert said.count(("a", "PONG")) == said.count(("b", "PING"))


def test_where_frames_flow_nobody_asks_but_for_the_reading_of_a_clock() -> None:
    a, b, pump = pair()
    b.serve("left")
    pump.pass_s(5)
    said = spoken(pump, 80, lambda: a.send("b", b"x", queue="left"))
    for name in ("a", "b"):
        assert 9 <= said.count((name, "PING")) <= 11


def test_a_reading_that_is_lost_is_asked_for_again_and_not_with_each_frame() -> None:
    a, b, pump = pair()
    b.serve("left")
    asked: list[str] = []

    def no_answer(host: Host, frame: frames.Frame) -> bool:
        if frame.type == frames.PING:
            asked.append(host.name)
        return frame.type != frames.PONG

    for _ in range(80):
        a.send("b", b"x", queue="left")
        pump.pass_s(0.1, no_answer)
    assert asked.count("a") <= 9, "at most one in a heartbeat"


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize(("heartbeat_s", "liveness_s"), [(1, 4), (1, 1.5), (3, 10)])
def test_a_silent_peer_is_given_up_after_liveness_s(who: str, heartbeat_s: float, liveness_s: float) -> None:
    a, b, pump = pair(heartbeat_s=heartbeat_s, liveness_s=liveness_s)
    pump.pass_s(20)
    host = {"a": a, "b": b}[who]
    heard_us = next(iter(host.engine.channels[{"a": "b", "b": "a"}[who]].sessions.open.values())).heard_us
    while "silent" not in host.kinds():
        pump.pass_s(0.05, lambda sender, _frame: sender is host)
    assert host.now().mono_us - heard_us == pytest.approx(liveness_s * 1e6, abs=60_000)


class SlowTransport:
    """What the system would tell of a link on which a large frame is under way."""

    def __init__(self) -> None:
        self.quiet = 3_900_000
        self.sending = True

    def quiet_us(self, _link: int) -> int | None:
        return self.quiet

    def is_sending(self, _link: int) -> bool:
        return self.sending


def test_what_is_still_being_sent_is_not_sent_again() -> None:
    """A copy would stand behind it. But who did not take it need not have said so: for ever nothing is waited for."""
    a, b, pump = pair()
    a.engine.shared.transport = transport = SlowTransport()
    a.send("b", b"x")

    def lost(host: Host, frame: frames.Frame) -> bool:
        return host is not a or frame.type != frames.DATA

    pump.pass_s(3, lost)
    assert a.engine.stats()["resend_timeouts"] == 0
    transport.sending = False
    pump.pass_s(20, lost)
    assert a.engine.stats()["resend_timeouts"] > 0
    a.send("b", b"y", queue="other")
    transport.sending = True
    before = a.engine.stats()["resend_timeouts"]
    pump.pass_s(600, lost)
    assert a.engine.stats()["resend_timeouts"] > before + 5
    pump.pass_s(60)
    assert b.engine.stats()["inbox_messages"] == 2


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_peer_of_whose_frame_parts_come_is_not_given_up(who: str) -> None:
    """It is a large one on a slow link: what else is said comes behind it."""
    a, b, pump = pair()
    host = {"a": a, "b": b}[who]
    host.engine.shared.transport = transport = SlowTransport()
    pump.pass_s(60, lambda sender, _frame: sender is host)
    assert host.kinds() == []
    transport.quiet = 4_000_000
    pump.pass_s(1, lambda sender, _frame: sender is host)
    assert host.kinds() == ["silent"]


def settled_while_sending(said: list[tuple[str, str]]) -> tuple[Host, Host, Pump, Callable[[Host, frames.Frame], bool]]:
    """b settles a message of a while another one of a is on the wire; returns what writes down and carries frames."""
    a, b, pump = pair()

    def listen(host: Host, frame: frames.Frame) -> bool:
        said.append((host.name, frames.FRAME_NAMES[frame.type]))
        return True

    a.send("b", b"x")
    pump.run()
    row = b.take()
    a.send("b", b"y")
    on_the_wire, a.out = a.out, []
    b.finish(row, HANDLED)
    pump.run(listen)
    assert a.outcomes() == [(1, "HANDLED", None)]
    assert said == [("b", "DATA")], "the settlement is not acknowledged yet"
    a.out = on_the_wire
    return a, b, pump, listen


def test_the_acknowledgement_of_a_settlement_travels_with_the_next_message() -> None:
    said: list[tuple[str, str]] = []
    a, b, pump, listen = settled_while_sending(said)
    pump.run(listen)
    a.send("b", b"z")
    pump.run(listen)
    assert said[1:] == [("a", "DATA"), ("b", "ACK"), ("a", "ACK"), ("a", "DATA"), ("b", "ACK")]
    assert not b.engine.has_untold
    pump.pass_s(0.5, listen)
    assert ("a", "ACK") not in said[6:], "nor is it said twice"


def test_the_acknowledgement_of_a_settlement_does_not_wait_long_for_company() -> None:
    said: list[tuple[str, str]] = []
    _, b, pump, listen = settled_while_sending(said)
    pump.pass_s(0.019, listen)
    assert ("a", "ACK") not in said
    pump.pass_s(0.002, listen)
    assert said.count(("a", "ACK")) == 1
    assert not b.engine.has_untold


def test_the_acknowledgement_of_a_settlement_dies_with_its_session() -> None:
    said: list[tuple[str, str]] = []
    a, b, pump, listen = settled_while_sending(said)
    a.out.clear()
    a.turn([], c.Disconnect("b"))
    pump.pass_s(0.1, listen)
    assert ("a", "ACK") not in said
    pump.connect()
    pump.run()
    assert not b.engine.has_untold, "the handshake told it"


def test_a_settlement_is_acknowledged_at_once_if_nothing_is_on_the_wire_or_it_came_before() -> None:
    a, b, pump = pair()
    a.send("b", b"x")
    pump.run()
    b.finish(b.take(), HANDLED)
    settlement = list(b.out)
    pump.run()
    assert not b.engine.has_untold
    a.send("b", b"y")
    a.out.clear()
    a.turn(settlement)
    assert [frames.decode(parts).type for _, parts in a.out] == [frames.ACK]


def test_a_handshake_names_the_lanes_of_its_own_turn() -> None:
    """It bears the count of that turn's commit, as does the batch, which may come first by another link."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host, dial=False)
    hello = frames.encode([frames.HELLO, puppet.session, puppet.instance, 1, puppet.identity(), host.now().store_us])
    host.out.clear()
    host.turn([(LINK, hello)], c.Send("puppet", "new", False, encode_messages([b"\x01"], 0, 0, b"")))
    [welcome] = [frame for _, parts in host.out if (frame := frames.decode(parts)).type == frames.WELCOME]
    assert [lane.queue for lane in welcome.fields[2].lanes] == ["new"]
    assert welcome.commits == host.engine.shared.ledger.commit_count
