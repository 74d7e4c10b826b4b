"""Peers with keys: who gets in, who does not, and what changes while they run."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import zmqrel
from tests.real.keyed import Keyring, Stranger, control_frame, settled
from tests.real.net import LIMIT_S, Got, Net, connected, until
from zmqrel import ConfigError, Outcome, Peer, State, UnknownPeer, Verdict
from zmqrel.core.entries import Settle, Withdraw, encode_control
from zmqrel.core.frames import ACK, BYE, DATA, HELLO, OPEN
from zmqrel.core.lane import CONTROL, DELAYED
from zmqrel.core.lane import DATA as DATA_LANE
from zmqrel.outcome import Cause
from zmqrel.runtime import keys
from zmqrel.runtime.connections import cut


@pytest.fixture(params=["tcp", "ipc"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Over both transports: with keys they are guarded alike."""
    with Net(request.param) as net:
        yield net


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def pair(net: Net, keyring: Keyring, **options: Any) -> tuple[Peer, Peer, Got]:
    """Shop, who dials, and billing, who binds and handles; both with keys and connected."""
    keyring.introduce("shop", "billing")
    got = Got()
    billing = net.receiver(keys=keyring.of("billing"), **options)
    billing.handler()(got)
    billing.start()
    shop = net.sender(keys=keyring.of("shop"), **options)
    connected(shop, billing)
    return shop, billing, got


# ------------------------------------------------------------------------------------------------ who belongs


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_messages_both_ways(net: Net, keyring: Keyring, durability: str) -> None:
    shop, billing, got = pair(net, keyring, durability=durability)
    back = Got()
    shop.handler()(back)
    receipts = [shop.send("billing", n) for n in range(100)] + [billing.send("shop", -n) for n in range(100)]
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    assert got.next_bodies(100) == list(range(100))
    assert back.next_bodies(100) == [-n for n in range(100)]
    for peer in (shop, billing):
        stats = peer.stats()
        assert [stats[each] for each in ("connections_refused", "impostors", "unheard_frames")] == [0, 0, 0]


def test_both_dial_each_other(net: Net, keyring: Keyring) -> None:
    keyring.introduce("shop", "billing")
    got = Got()
    billing = net.peer("billing", "shop", keys=keyring.of("billing")).start()
    billing.handler()(got)
    shop = net.peer("shop", "billing", keys=keyring.of("shop")).start()
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
    assert got.next().sender == "shop"


def test_accept_any_takes_everybody_who_has_a_key_file(net: Net, keyring: Keyring) -> None:
    keyring.introduce("shop", "billing")
    got = Got()
    billing = net.peer("billing", keys=keyring.of("billing"), accept="any")
    billing.handler()(got)
    billing.start()
    shop = net.sender(keys=keyring.of("shop"))
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED


def test_with_keys_any_endpoint_may_be_bound(keyring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    with Peer("a", zmqrel.MEMORY, bind="tcp://0.0.0.0:*", keys=keyring.of("a")) as peer:
        assert peer.endpoints[0].startswith("tcp://0.0.0.0:")
    assert "insecure" not in caplog.text


def test_insecure_is_followed_by_a_warning_that_says_what_it_means(caplog: pytest.LogCaptureFixture) -> None:
    with Peer("a", zmqrel.MEMORY, bind=["tcp://0.0.0.0:*", "tcp://127.0.0.1:*"], insecure=True) as peer:
        assert len(peer.endpoints) == 2
    (warning,) = [record.getMessage() for record in caplog.records if "insecure" in record.getMessage()]
    assert "tcp://0.0.0.0:*" in warning
    assert "127.0.0.1" not in warning
    for word in ("encrypted", "read", "recall"):
        assert word in warning


# -------------------------------------------------------------------------------------------- who does not belong


@pytest.mark.parametrize("accept", ["listed", "any"])
@pytest.mark.parametrize(
    "kind", ["null", "plain", "unknown key", "another server's key", "a secret that is not its own"]
)
def test_a_stranger_does_not_get_in(net: Net, keyring: Keyring, kind: str, accept: str) -> None:
    """Next to an honest pair, which goes on."""
    shop, billing, got = pair(net, keyring, accept=accept)
    before = billing.stats()
    server = keyring.public("mallory" if kind.startswith("another") else "billing")
    with ExitStack() as stack:
        if kind in ("null", "plain"):
            stranger = Stranger(billing.endpoints[0], kind)
        else:
            public = keyring.public("shop" if kind.startswith("a secret") else "mallory")
            own = {"public": public, "secret": keyring.secret("mallory")}
            stranger = Stranger(billing.endpoints[0], "curve", server=server, **own)
        stack.enter_context(stranger)
        for _ in range(3):
            stranger.hello("shop")
        until(lambda: billing.stats()["connections_refused"] > before["connections_refused"])
        assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
        assert not stranger.socket.poll(0)
    after = billing.stats()
    assert [after[each] for each in ("received", "sessions", "malformed")] == [1, before["sessions"], 0]
    assert got.next_bodies(1) == [1]
    assert got.rest() == []


@pytest.mark.parametrize("kind", ["none", "another's"])
def test_a_peer_with_keys_does_not_talk_to_who_has_not_the_right_one(net: Net, keyring: Keyring, kind: str) -> None:
    """Somebody else sits at the endpoint."""
    keyring.introduce("shop", "billing")
    keyring.introduce("shop", "mallory")
    got = Got()
    options: dict[str, Any] = {} if kind == "none" else {"keys": keyring.of("mallory")}
    if kind != "none":
        keyring.give("mallory", "shop")
    false = net.peer("billing", hears="shop", accept="any", **options)
    false.handler()(got)
    false.start()
    shop = net.sender(keys=keyring.of("shop"))
    receipt = shop.send("billing", "the secret plan")
    until(lambda: shop.stats()["connections_failed"] >= 2)  # it tries again and again
    net.log.wait("dialling billing failed", "no keys" if kind == "none" else "")
    assert receipt.state is State.STORED
    assert false.stats()["sessions"] == 0
    assert got.rest() == []


SHOPS = {
    "without keys": None,
    "who knows billing": "billing",
    "who takes another key for billing's": "mallory",
}
BILLINGS = {
    "without keys": None,
    "who knows shop": "shop",
    "who takes another key for shop's": "mallory",
    "who does not know shop": "",
}


@pytest.mark.parametrize("billings", BILLINGS)
@pytest.mark.parametrize("shops", SHOPS)
def test_every_combination_of_keys(net: Net, keyring: Keyring, shops: str, billings: str) -> None:
    """Of two peers, of which shop dials billing."""
    billing_knows, shop_knows = BILLINGS[billings], SHOPS[shops]
    options: dict[str, dict[str, Any]] = {"shop": {}, "billing": {}}
    for name, other, known in (("shop", "billing", shop_knows), ("billing", "shop", billing_knows)):
        if known is not None:
            options[name]["keys"] = keyring.of(name)
        if known:
            keyring.give(name, other, key_of=known)
    got = Got()
    billing = net.receiver(**options["billing"])
    billing.handler()(got)
    billing.start()
    shop = net.sender(**options["shop"])
    receipt = shop.send("billing", "from shop")
    if (shop_knows, billing_knows) in ((None, None), ("billing", "shop")):
        assert receipt.wait(LIMIT_S) is Outcome.HANDLED
        return
    if billing_knows is not None:
        until(lambda: billing.stats()["connections_refused"])
    if shop_knows is not None:
        until(lambda: shop.stats()["connections_failed"])
    assert receipt.outcome is None
    for peer in (shop, billing):
        assert [peer.stats()[each] for each in ("sessions", "received")] == [0, 0]
    assert got.rest() == []


# -------------------------------------------------------------------------------- who belongs, and plays somebody else


def knows(peer: Peer, name: str) -> bool:
    """Whether a running peer has the key of another one."""
    assert peer._loop is not None
    assert peer._loop._admission.keys is not None
    return peer._loop._admission.keys.of(name) is not None


def mallory(net: Net, keyring: Keyring, billing: Peer, **options: Any) -> Stranger:
    """One who has a key of his own that billing knows, on a raw socket."""
    keyring.give("billing", "mallory")
    until(lambda: knows(billing, "mallory"))
    own = {"public": keyring.public("mallory"), "secret": keyring.secret("mallory")}
    return Stranger(billing.endpoints[0], "curve", server=keyring.public("billing"), **own, **options)


def test_a_name_is_not_stolen_with_another_key(net: Net, keyring: Keyring) -> None:
    """Also not when the one whose name it is has gone."""
    shop, billing, got = pair(net, keyring, accept="any")
    with mallory(net, keyring, billing) as thief:
        thief.hello("shop")
        assert "not that of your key" in thief.heard_of(BYE)[4]
        until(lambda: billing.stats()["impostors"] == 1)
        assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
        shop.close()
        until(lambda: billing.stats()["peers_connected"] == 0)
        thief.hello("shop")
        assert "not that of your key" in thief.heard_of(BYE)[4]
        for name in ("billing", "nobody"):
            thief.hello(name)
            thief.heard_of(BYE)
        thief.open("mallory")  # under his own he is welcome
        assert billing.stats()["impostors"] == 4
    assert got.next_bodies(1) == [1]


def test_what_was_said_by_another_is_not_believed_when_it_is_said_again(net: Net, keyring: Keyring) -> None:
    """Every frame of shop's session, word for word, over another connection with a good key: nobody is the wiser.

    Nobody can read them on the wire; this is about who could all the same.
    """
    said: list[list[bytes]] = []
    shop, billing, got = pair(net, keyring, accept="any")
    loop = shop._loop
    assert loop is not None
    send = loop._wire.send

    def tap(link: int, *frames: list[bytes]) -> bool:
        said.extend(frames)
        return send(link, *frames)

    loop._wire.send = tap  # type: ignore[method-assign]
    billing_says = billing.send("shop", "for shop only")
    shop.connect("billing", net.endpoint("billing"))  # a new session, so that the handshake is among what was said
    receipts = [shop.send("billing", n, queue="default") for n in range(5)]
    assert {receipt.wait(LIMIT_S) for receipt in receipts} == {Outcome.HANDLED}
    later = shop.send("billing", "later", delay=3600)
    assert later.wait_received(LIMIT_S)
    assert {msgpack.unpackb(frame[0])[0] for frame in said} >= {HELLO, OPEN, DATA, ACK}
    before = billing.stats()
    with mallory(net, keyring, billing) as thief:
        for own in (False, True):
            if own:
                thief.open("mallory")
            for frame in said:
                thief.say(*frame)
        thief.hello("nobody")  # answered when all before was read
        while "not that of your key" not in str(thief.heard_of(BYE)[4]):
            pass
        until(lambda: billing.stats()["impostors"] > before["impostors"])
        until(lambda: billing.stats()["stale_frames"] >= before["stale_frames"] + 2 * len(said) - 10)
    after = billing.stats()
    same = ("received", "handled", "inbox_messages", "settled", "recalled", "peer_store_gone", "peer_old_copy")
    assert [after[each] for each in same] == [before[each] for each in same]
    assert later.state is State.RECEIVED
    assert billing_says.state in (State.SENT, State.RECEIVED)
    assert shop.recall(later, timeout=LIMIT_S).verdict is Verdict.RECALLED
    assert shop.send("billing", "and on it goes").wait(LIMIT_S) is Outcome.HANDLED
    assert got.next_bodies(6) == [*range(5), "and on it goes"]


def test_a_session_is_no_use_to_one_who_knows_its_id(net: Net, keyring: Keyring) -> None:
    """The id of shop's session, and the lanes of both, in frames of somebody else."""
    shop, billing, _ = pair(net, keyring, accept="any")
    held = billing.send("shop", "for shop")  # which does not receive from this queue
    assert held.wait_received(LIMIT_S)
    waiting = shop.send("billing", "in an hour", delay=3600)
    other = shop.send("billing", "in an hour, too", delay=3600)
    assert waiting.wait_received(LIMIT_S)
    assert other.wait_received(LIMIT_S)
    assert shop.recall(other, timeout=LIMIT_S).verdict is Verdict.RECALLED  # there is a control lane
    assert billing._loop is not None
    engine = billing._loop.engine
    (session,) = engine.channels["shop"].sessions.open.values()
    (lane,) = (lane for lane in engine.channels["shop"].theirs.values() if lane.kind == DELAYED)
    (control,) = (lane for lane in engine.channels["shop"].theirs.values() if lane.kind == CONTROL)
    own = [lane for lane in engine.channels["shop"].own.values() if lane.kind == DATA_LANE]
    theirs = engine.channels["shop"].their_store
    withdraw = encode_control(Withdraw(theirs, lane.id, DELAYED, "default", [(1, 1)], Cause.RECALL))
    outcome = encode_control(Settle(engine.shared.ledger.store_id, own[0].id, [settled(1, Outcome.REJECTED)]))
    with mallory(net, keyring, billing) as thief:
        his = thief.open("mallory")
        before = billing.stats()
        for name in (session.id, his):
            instance = session.instance if name == session.id else 1
            for first in (control.floor + 1, 1):
                for record in (withdraw, outcome):
                    thief.say(*control_frame(name, instance, control.id, first, record))
            thief.say(msgpack.packb([ACK, name, instance, 9, [[own[0].id, 1, 2**40, 2**40, True]]]))
            thief.say(msgpack.packb([BYE, name, instance, 9, "go away"]))
        thief.hello("nobody")
        thief.heard_of(BYE)
        until(lambda: billing.stats()["impostors"] > before["impostors"])
    assert waiting.state is State.RECEIVED
    assert held.state is State.RECEIVED
    assert held.outcome is None
    assert [message.id for message in billing.inbox()] == [waiting.id]
    assert billing.stats()["peers_connected"] >= 1
    assert shop.recall(waiting, timeout=LIMIT_S).verdict is Verdict.RECALLED
    with shop.receive(timeout=LIMIT_S) as message:
        assert message.body == "for shop"
    assert held.wait(LIMIT_S) is Outcome.HANDLED


def test_a_routing_id_that_others_could_guess_is_not_heard(net: Net, keyring: Keyring) -> None:
    """The ROUTER sends to whoever has the id of a connection."""
    _, billing, _ = pair(net, keyring, accept="any")
    for number, routing_id in enumerate([b"", b"mallory", b"\x01" + bytes(15), b"\x01" + bytes(17)]):
        with mallory(net, keyring, billing, routing_id=routing_id) as stranger:
            stranger.hello("mallory")
            until(lambda expected=number + 1: billing.stats()["unheard_frames"] == expected)  # type: ignore[misc]
            assert not stranger.socket.poll(0)


def test_a_routing_id_cannot_be_taken_from_who_has_it(net: Net, keyring: Keyring) -> None:
    """Nor is it known to others; and who knew it would be given nothing as long as the other is there."""
    shop, billing, _ = pair(net, keyring, accept="any")
    assert billing._loop is not None
    (routing_id,) = billing._loop._wire._routing_ids.values()
    with mallory(net, keyring, billing, routing_id=routing_id) as thief:
        receipt = billing.send("shop", "for shop only")
        thief.hello("mallory")
        with shop.receive(timeout=LIMIT_S) as message:
            assert message.body == "for shop only"
        assert receipt.wait(LIMIT_S) is Outcome.HANDLED
        assert not thief.socket.poll(0)


# -------------------------------------------------------------------------------------------------- while they run


def test_a_key_that_is_removed_ends_what_goes_on_at_once(net: Net, keyring: Keyring) -> None:
    shop, billing, got = pair(net, keyring)
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED
    keyring.take("billing", "shop")
    until(lambda: billing.stats()["revoked"] == 1)
    assert billing.stats()["peers_connected"] == 0
    receipts = [shop.send("billing", 2), billing.send("shop", "waits")]
    until(lambda: billing.stats()["connections_refused"] >= 2)  # shop tries again and again
    assert [receipt.outcome for receipt in receipts] == [None, None]
    assert got.next_bodies(1) == [1]
    assert got.rest() == []
    net.log.wait("dialling billing failed", "does not know our key")
    keyring.give("billing", "shop")
    assert receipts[0].wait(LIMIT_S) is Outcome.HANDLED
    with shop.receive(timeout=LIMIT_S) as message:
        assert message.body == "waits"


def test_a_key_that_is_removed_where_its_peer_is_dialled(net: Net, keyring: Keyring) -> None:
    shop, billing, _ = pair(net, keyring)
    keyring.take("shop", "billing")
    until(lambda: shop.stats()["revoked"] == 1)
    until(lambda: billing.stats()["peers_connected"] == 0)
    receipt = shop.send("billing", 1)
    assert receipt.state is State.STORED
    keyring.give("shop", "billing")
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED


def test_frames_over_a_connection_whose_key_was_removed(net: Net, keyring: Keyring) -> None:
    """It was silent until then, so that nobody had seen its key; and its connection is ended."""
    _, billing, _ = pair(net, keyring, accept="any")
    with mallory(net, keyring, billing) as silent, mallory(net, keyring, billing) as speaking:
        monitors = [each.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for each in (silent, speaking)]
        speaking.open("mallory")
        keyring.take("billing", "mallory")
        until(lambda: billing.stats()["revoked"] == 1)
        assert monitors[1].poll(LIMIT_S * 1000)
        silent.hello("mallory")
        until(lambda: billing.stats()["unheard_frames"] >= 1 or billing.stats()["connections_refused"] >= 1)
        assert monitors[0].poll(LIMIT_S * 1000)
        for each, monitor in zip((silent, speaking), monitors, strict=True):
            each.socket.disable_monitor()
            monitor.close()
    assert billing.stats()["peers_connected"] == 1


def test_a_key_that_is_replaced(net: Net, keyring: Keyring) -> None:
    """The peer of the new one is let in under the name, that of the old one is not, on its open connection either."""
    shop, billing, got = pair(net, keyring)
    keyring.give("billing", "shop", key_of="mallory")
    until(lambda: billing.stats()["revoked"] == 1)
    receipt = shop.send("billing", "old key")
    until(lambda: billing.stats()["connections_refused"] >= 1)
    own = {"public": keyring.public("mallory"), "secret": keyring.secret("mallory")}
    with Stranger(billing.endpoints[0], "curve", server=keyring.public("billing"), **own) as new:
        new.open("shop")
    assert receipt.outcome is None
    assert got.rest() == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no key"),
        (b"\xff\xfe\x00garbage", "holds no key"),
        (b"a" * 39 + b"\n", "holds no key"),
        (b"%" * 40 + b"\n", "holds no key"),  # more than 32 bits in five characters
        (b"a" * 40 + b"\n" + b"b" * 40 + b"\n", "holds no key"),
        (bytes(10_000), "more than 4096 bytes"),
        ("secret", "a secret key"),
        ("own", "own key"),
        ("shop", "the key of 'shop' too"),
        ("directory", "no file"),
    ],
)
def test_a_file_that_is_no_key_is_named_once_and_the_others_stay(
    local: Net, keyring: Keyring, content: bytes | str, why: str
) -> None:
    shop, billing, _ = pair(local, keyring)
    place = keyring.of("billing") / keys.PEERS / "till"
    if content == "directory":
        place.mkdir()
    elif isinstance(content, bytes):
        place.write_bytes(content)
    else:
        files = {
            "secret": keyring.of("mallory") / keys.SECRET,
            "own": keyring.of("billing") / keys.PUBLIC,
            "shop": keyring.of("shop") / keys.PUBLIC,
        }
        place.write_bytes(files[content].read_bytes())
    local.log.wait("the key file of till is not used", why)
    for n in range(3):
        assert shop.send("billing", n).wait(LIMIT_S) is Outcome.HANDLED
    keyring.give("billing", "till") if content != "directory" else place.rmdir()
    until(lambda: knows(billing, "till") == place.exists())
    assert sum("till is not used" in line for line in local.log.lines) == 1
    assert billing.stats()["revoked"] == 0


def test_a_directory_that_is_gone_lets_nobody_in_and_one_that_is_back_does(local: Net, keyring: Keyring) -> None:
    shop, billing, _ = pair(local, keyring)
    place = keyring.of("billing") / keys.PEERS
    place.rename(place.with_name("away"))
    until(lambda: billing.stats()["revoked"] == 1)
    receipt = shop.send("billing", 1)
    until(lambda: billing.stats()["connections_refused"] >= 1)
    assert receipt.outcome is None
    place.with_name("away").rename(place)
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED


def test_a_process_that_goes_elsewhere_keeps_its_keys(
    local: Net, keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.introduce("shop", "billing", "till")
    monkeypatch.chdir(keyring.of("billing").parent)
    billing = local.receiver(keys=keyring.of("billing").name)
    billing.handler()(lambda _: None)
    billing.start()
    shop = local.sender(keys=keyring.of("shop"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    keyring.take("billing", "till")
    until(lambda: not knows(billing, "till"))
    assert knows(billing, "shop")
    assert shop.send("billing", 1).wait(LIMIT_S) is Outcome.HANDLED


def test_a_peer_is_connected_to_while_it_runs_if_there_is_its_key(local: Net, keyring: Keyring) -> None:
    _, billing, _ = pair(local, keyring)
    third = local.peer("till", hears="billing", keys=keyring.of("till"))
    third.handler()(lambda _: None)
    third.start()
    with pytest.raises(ConfigError, match="peers/till is to hold the public key of peer 'till'"):
        billing.connect("till", local.endpoint("till"))
    with pytest.raises(UnknownPeer):
        billing.send("till", 1)
    keyring.introduce("till", "billing")
    billing.connect("till", local.endpoint("till"))  # the file was put there just now
    assert billing.send("till", 1).wait(LIMIT_S) is Outcome.HANDLED


@pytest.mark.parametrize("place", [".", "peers"])
def test_a_directory_that_is_opened_to_others_lets_nobody_in(tmp_path: Path, place: str) -> None:
    keys.generate(tmp_path / "own")
    keys.generate(tmp_path / "shop")
    keys.authorise(tmp_path / "own", "shop", keys.read_public(tmp_path / "shop" / "public.key"))
    directory = keys.KeyDirectory(tmp_path / "own")
    directory.look(now=True)
    assert directory.of("shop") is not None
    (tmp_path / "own" / place).chmod(0o775)
    changes = directory.look(now=True)
    assert changes is not None
    assert changes.gone == ["shop"]
    [(name, why)] = changes.broken
    assert name == "shop"
    assert "others may write to it: chmod go-w" in why
    (tmp_path / "own" / place).chmod(0o700)
    changes = directory.look(now=True)
    assert changes is not None
    assert changes.come == ["shop"]


# ---------------------------------------------------------------------------------------------------- at the start


def test_a_peer_that_is_dialled_needs_a_key_file(local: Net, keyring: Keyring) -> None:
    keyring.give("billing", "shop")
    shop = local.peer("shop", "billing", keys=keyring.of("shop"))
    with pytest.raises(ConfigError, match=r"shop.keys/peers/billing is to hold the public key of peer 'billing'"):
        shop.start()


def test_a_peer_that_is_only_listed_and_has_no_key_is_told_of(local: Net, keyring: Keyring) -> None:
    local.peer("billing", hears="shop", keys=keyring.of("billing")).start()
    assert "peers/shop" in local.log.wait("shop cannot connect")


def test_a_key_file_that_is_not_used_is_not_said_to_be_missing(local: Net, keyring: Keyring) -> None:
    directory = keyring.of("billing")
    (directory / "peers" / "shop").write_text("no key\n")
    local.peer("billing", hears="shop", keys=directory).start()
    local.log.wait("the key file of shop is not used: it holds no key")
    assert not any("cannot connect" in line for line in local.log.lines)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda directory: (directory / "secret.key").chmod(0o640), "others may read or write it: chmod 600"),
        (lambda directory: (directory / "secret.key").chmod(0o604), "others may read or write it: chmod 600"),
        (lambda directory: (directory / "secret.key").chmod(0o620), "others may read or write it: chmod 600"),
        (lambda directory: (directory / "secret.key").unlink(), "secret.key is not there; zmqrel keygen"),
        (lambda directory: (directory / "secret.key").write_text("secret"), "secret.key: it holds no key"),
        (lambda directory: (directory / "public.key").write_text("a" * 40), "it is not the public key of secret.key"),
        (lambda directory: directory.chmod(0o770), "others may write to it: chmod go-w"),
        (lambda directory: directory.chmod(0o702), "others may write to it: chmod go-w"),
        (lambda directory: (directory / "peers").chmod(0o770), "peers: others may write to it: chmod go-w"),
        (lambda directory: directory.rename(directory.with_name("away")), "is no directory; zmqrel keygen"),
    ],
)  # fmt: skip
def test_a_directory_of_keys_that_is_no_good(keyring: Keyring, spoil: Callable[[Path], object], why: str) -> None:
    directory = keyring.of("a")
    spoil(directory)
    with pytest.raises(ConfigError, match=re.escape(why)) as raised:
        Peer("a", zmqrel.MEMORY, keys=directory).start()
    assert str(directory) in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_keys_of_somebody_else(keyring: Keyring) -> None:
    for file in ("secret.key", ""):
        directory = keyring.of(f"a{len(file)}")
        os.chown(directory / file, 12345, 12345)
        with pytest.raises(ConfigError, match="belongs to user 12345, and this process runs as 0"):
            Peer("a", zmqrel.MEMORY, keys=directory).start()


def test_a_key_file_that_others_may_write_to_is_not_used(keyring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    """Unless nobody else can come near it."""
    keyring.give("a", "b")
    directory = keyring.of("a")
    (directory / "peers" / "b").chmod(0o666)
    assert keys.KeyDirectory(directory).look(now=True) == keys.Changes([], ["b"], [])
    directory.chmod(0o755)
    changes = keys.KeyDirectory(directory).look(now=True)
    assert changes is not None
    assert changes.broken == [("b", "others may write to it: chmod go-w")]


# ------------------------------------------------------------------------------------------- files that are odd


def looked_at(keyring: Keyring, spoil: Callable[[Path], object]) -> tuple[keys.KeyDirectory, keys.Changes | None]:
    """A directory that has the keys of b and c, and what is found once it was spoilt."""
    keyring.give("a", "b")
    keyring.give("a", "c")
    known = keys.KeyDirectory(keyring.of("a"))
    known.look(now=True)
    spoil(keyring.of("a") / keys.PEERS)
    return known, known.look(now=True)


def in_circles(place: Path) -> None:
    (place / "odd").symlink_to("odd")


def behind_a_file(place: Path) -> None:
    (place / "odd").symlink_to("b/odd")


def too_long(place: Path) -> None:
    (place / "odd").symlink_to("x" * 300)


@pytest.mark.parametrize("odd", [in_circles, behind_a_file, too_long])
def test_a_file_that_cannot_be_looked_at_is_no_matter_to_the_others(
    keyring: Keyring, odd: Callable[[Path], None]
) -> None:
    """Nor does it keep a key that is removed alive."""
    known, changes = looked_at(keyring, odd)
    assert known.of("b")
    assert known.of("c")
    assert changes is not None
    assert [name for name, _ in changes.broken] == ["odd"]
    (keyring.of("a") / keys.PEERS / "c").unlink()
    assert known.look(now=True) == keys.Changes(["c"], [], [])


def test_a_file_that_goes_while_it_is_looked_at_is_no_matter_to_the_others(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is put in place under another name first, say."""
    read = keys.read_public

    def gone_meanwhile(path: Path) -> bytes:
        if path.name == "odd":
            path.unlink()
        return read(path)

    monkeypatch.setattr(keys, "read_public", gone_meanwhile)
    known, changes = looked_at(keyring, lambda place: (place / "odd").write_text("new"))
    assert known.of("b")
    assert changes is None
    assert known.look(now=True) is None


def test_a_link_out_of_a_closed_directory_is_no_closed_place(keyring: Keyring, tmp_path: Path) -> None:
    """What it leads to is elsewhere, where others may write."""
    target = tmp_path / "shared.key"
    target.write_bytes((keyring.of("b") / keys.PUBLIC).read_bytes())
    target.chmod(0o666)
    _, changes = looked_at(keyring, lambda place: (place / "odd").symlink_to(target))
    assert changes == keys.Changes([], [], [("odd", "others may write to it: chmod go-w")])
    away = tmp_path / "peers"
    (keyring.of("a") / keys.PEERS).rename(away)
    (keyring.of("a") / keys.PEERS).symlink_to(away)
    (away / "c").chmod(0o666)
    found = keys.KeyDirectory(keyring.of("a")).look(now=True)
    assert found is not None
    assert found.come == ["b"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_key_file_of_somebody_else_is_not_used(keyring: Keyring) -> None:
    keyring.of("a").chmod(0o755)
    _, changes = looked_at(keyring, lambda place: os.chown(place / "c", 12345, 12345))
    assert changes == keys.Changes(["c"], [], [("c", "it belongs to user 12345, and this process runs as 0")])


# ------------------------------------------------------------------------------------------------ in bad circumstances


def test_who_connects_while_the_other_is_at_a_stand_gets_in_later(local: Net, keyring: Keyring) -> None:
    """Longer than a handshake may take: the same thread says who gets in."""
    keyring.introduce("shop", "billing")
    got = Got()
    billing = local.receiver(keys=keyring.of("billing"))
    billing.handler()(got)
    billing.start()
    assert billing._loop is not None
    go_on = threading.Event()
    stands = billing._loop.post(lambda: go_on.wait(LIMIT_S))
    shop = local.sender(keys=keyring.of("shop"))
    receipt = shop.send("billing", 1)
    until(lambda: shop.stats()["connections_failed"])
    go_on.set()
    stands.result()
    assert receipt.wait(LIMIT_S) is Outcome.HANDLED


class Relay:
    """Passes on what goes to an endpoint, until it breaks off at one end only, as a NAT that restarts does."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in chain.from_iterable(self._pairs):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (*chain.from_iterable(self._pairs), self._listening):
            end.close()

    def _accept(self) -> None:
        host, port = self._to.removeprefix("tcp://").split(":")
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection((host, int(port)))
            self._pairs.append((near, far))
            for ends in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._pass, args=ends))
                self._threads[-1].start()

    @staticmethod
    def _pass(source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                to.sendall(data)

    def break_off(self) -> int:
        """Who connected is cut off; those to whom it was passed on do not hear of it. Returns how many there were."""
        for near, _ in self._pairs:
            with suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
        return len(self._pairs)


def cut_all(peer: Peer) -> None:
    """End every connection that was made to a peer."""
    loop = peer._loop
    assert loop is not None
    for known in loop.post(lambda: list(loop._wire._known.values())).result():
        cut(known.descriptor, loop._wire._places)


@pytest.mark.parametrize("half", [False, True], ids=["both ends see it", "one end sees it"])
def test_a_connection_that_breaks_is_made_again(lasting: Net, keyring: Keyring, half: bool) -> None:
    """By libzmq, with the same routing id: where the old one is still believed in, the new one is deaf at first."""
    keyring.introduce("shop", "billing")
    got = Got()
    options: dict[str, Any] = {"heartbeat_s": 0.2, "liveness_s": 1.0}
    billing = lasting.receiver(keys=keyring.of("billing"), **options)
    billing.handler()(got)
    billing.start()
    with Relay(billing.endpoints[0]) as relay:
        shop = lasting.peer("shop", bind=False, keys=keyring.of("shop"), **options).start()
        shop.connect("billing", relay.endpoint)
        assert shop.send("billing", 0).wait(LIMIT_S) is Outcome.HANDLED
        for n in range(1, 4):
            if half:
                assert relay.break_off()
            else:
                cut_all(billing)
            assert shop.send("billing", n).wait(LIMIT_S) is Outcome.HANDLED
            assert billing.send("shop", n).wait_received(LIMIT_S)
        shop.close()
    assert got.next_bodies(4) == [0, 1, 2, 3]
