"""With keys a link speaks for the peer whose key it was made with, and for nobody else."""

from __future__ import annotations

from typing import Any

from tests.core.pump import Host, Time
from tests.core.puppet import LINK, PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import frames

OTHER = LINK + 1


def keyed(names: dict[int, str], **options: Any) -> Host:
    """A host that is told whose key each link was made with."""
    return Host("b", Time(), name_of=names.get, **PATIENT, **options)


def said(puppet: Puppet) -> list[str]:
    """The reasons of the BYEs that it heard."""
    puppet.listen()
    return [frame.fields[0] for frame in puppet.heard if frame.type == frames.BYE]


def test_the_name_of_the_key_is_welcome() -> None:
    host = keyed({LINK: "puppet"})
    Puppet(host)
    assert host.engine.has_session(LINK)


def test_another_name_is_refused_and_counted_whatever_is_known_of_it() -> None:
    host = keyed({LINK: "mallory"}, accept="any")
    for name in ("puppet", "nobody", "b"):
        puppet = Puppet(host, name if name != "b" else "x", dial=False)
        puppet.name = name
        puppet.hello()
        assert said(puppet) == ["the name is not that of your key"]
    assert host.engine.stats()["impostors"] == 3
    assert not host.engine.has_session(LINK)
    assert "nobody" not in host.engine.channels or not host.engine.channels["nobody"].sessions.open
    assert {event.kind for event in host.events} == {"impostors"}


def test_a_link_of_nobody_is_refused() -> None:
    host = keyed({}, accept="any")
    puppet = Puppet(host, dial=False)
    puppet.hello()
    assert said(puppet) == ["the name is not that of your key"]


def test_a_session_does_not_move_to_the_link_of_another_key() -> None:
    host = keyed({LINK: "puppet", OTHER: "mallory"}, accept="any")
    puppet = Puppet(host)
    before = host.engine.stats()["stale_frames"]
    puppet.link = OTHER
    for kind, fields in ((frames.PING, [5]), (frames.OPEN, None), (frames.BYE, ["away"])):
        if fields is None:
            puppet.open()
        else:
            puppet.say(kind, *fields)
    assert host.engine.stats()["stale_frames"] == before + 3
    assert host.engine.has_session(LINK)
    assert not host.engine.has_session(OTHER)


def test_a_key_that_is_revoked_ends_every_session_of_its_peer_and_what_was_offered() -> None:
    names = {LINK: "puppet", OTHER: "puppet"}
    host = keyed(names)
    puppet = Puppet(host)
    puppet.link, puppet.session = OTHER, b"second__"
    puppet.hello()
    puppet.session = puppet.last(frames.WELCOME).session
    names.clear()
    host.turn([], c.Revoke("puppet"))
    assert not host.engine.has_session(LINK)
    assert sorted(host.hung_up) == [LINK]
    puppet.open()
    assert not host.engine.has_session(OTHER)
    puppet.session = b"third___"
    puppet.hello()
    assert host.engine.stats()["impostors"] == 1
    assert host.engine.stats()["revoked"] == 1


def test_a_dialled_peer_is_hung_up_when_its_key_goes_and_dialled_when_there_is_one() -> None:
    host = keyed({LINK: "puppet"})
    host.turn([], c.Connect("puppet", "tcp://somewhere:1"))
    host.engine.dialled("puppet", LINK)
    host.turn()
    host.dial.clear()
    host.turn([], c.Authorise("puppet"))  # it is dialled already
    assert host.dial == []
    host.turn([], c.Revoke("puppet"))
    assert host.hung_up[-1] == LINK
    host.time.pass_s(100)
    host.turn()
    assert host.dial == []
    host.turn([], c.Authorise("puppet"))
    assert host.dial == ["puppet"]


def test_keys_of_peers_that_nobody_knows_here_are_no_matter() -> None:
    host = keyed({})
    host.turn([], c.Revoke("stranger"))
    host.turn([], c.Authorise("stranger"))
    Puppet(host, dial=False)  # known, and it dials us
    host.turn([], c.Authorise("puppet"))
    assert host.dial == []
    assert host.engine.stats()["revoked"] == 0
