"""Permissions: who may send where, and that every mistake in them is told with its place and what is allowed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.pump import Host, Time
from zmqrel import ConfigError, Options, Outcome, Verdict
from zmqrel.permissions import NOTHING, Permission, Permissions
from zmqrel.runtime import permission_file
from zmqrel.runtime.permission_file import PermissionFile, read_permissions
from zmqrel.testing import Network

NAMES = st.text("ab.*-_9", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("queues", "queue", "may"),
    [
        (["invoices"], "invoices", True),
        (["invoices"], "invoices2", False),
        (["invoices"], "an-invoices", False),
        (["refunds.*"], "refunds.eu", True),
        (["refunds.*"], "refunds.", True),
        (["refunds.*"], "refunds", False),
        (["refunds.*"], "refundsxeu", False),
        (["*"], "anything", True),
        (["*.eu"], "a.b.eu", True),
        (["a*c*e"], "abcde", True),
        (["a*c*e"], "abde", False),
        ([], "default", False),
        ([], "", False),
        (["a", "b"], "b", True),
    ],
)
def test_patterns(queues: list[str], queue: str, may: bool) -> None:
    assert Permission(tuple(queues)).covers(queue) is may


@given(NAMES, NAMES.map(lambda name: name.replace("*", "x")))
def test_a_star_alone_stands_for_others(pattern: str, queue: str) -> None:
    """Compared with the definition: what lies between the stars comes in order, the ends at the ends."""

    def matches(pattern: str, queue: str) -> bool:
        if "*" not in pattern:
            return pattern == queue
        head, _, tail = pattern.partition("*")
        return queue.startswith(head) and any(matches(tail, queue[at:]) for at in range(len(head), len(queue) + 1))

    assert Permission((pattern,)).covers(queue) == matches(pattern, queue)


def test_who_is_not_named_may_do_what_default_says() -> None:
    permissions = Permissions.parse(
        {"peers": {"shop": {"queues": ["a"], "recall": True}}, "default": {"queues": ["b"]}}
    )
    assert permissions.of("shop") == Permission(("a",), True)
    assert permissions.of("bank") == Permission(("b",), False)
    assert Permissions.parse({}).of("shop") == NOTHING


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[peer.shop]\nqueues = []", "there is no key 'peer'; did you mean peers?"),
        ("x = 1", "there is no key 'x'; there are peers and default"),
        ("peers = 3", "peers takes a table for each peer, not 3"),
        ("[peers]\nshop = 3", "peers.shop takes a table with queues and recall, not 3"),
        ("[peers.shop]\nqueue = []", "peers.shop: there is no key 'queue'; did you mean queues?"),
        ("[peers.shop.eu]\nqueues = []", "peers.shop: there is no key 'eu'; .*a dot is written in quotes"),
        ("[peers.shop]\nrecall = true", "peers.shop: queues is missing; it takes a list of .*or \\[\\] for none"),
        ("[peers.shop]\nqueues = 'a'", "peers.shop.queues takes a list of names .*not 'a'"),
        ("[peers.shop]\nqueues = [1]", r"peers.shop.queues\[0\] takes names of queues, .*not 1"),
        ("[peers.shop]\nqueues = ['a', 'b c']", r"peers.shop.queues\[1\] takes names of queues, .*not 'b c'"),
        ("[peers.shop]\nqueues = ['']", r"peers.shop.queues\[0\] takes"),
        ("[peers.shop]\nqueues = ['a', 'b', 'a']", r"peers.shop.queues\[2\]: 'a' is named twice"),
        ("[peers.shop]\nqueues = []\nrecall = 1", "peers.shop.recall takes true or false, not 1"),
        ("[peers.'a b']\nqueues = []", "a name in peers takes a str of 1 to 64 of .*not 'a b'"),
        ("[default]\nqueues = [\n]\nrecall = 'yes'", "default.recall takes true or false, not 'yes'"),
        ("[default]", "default: queues is missing"),
        ("[peers.shop\nqueues = []", "this is no TOML: .*line 1"),
        ("[peers.shop]\nqueues = []\n[peers.shop]", "this is no TOML: .*line 3"),
        ("\u00e9".encode("latin-1"), "this is no TOML: .*utf-8"),
        ("x = " + "[" * 5000, "this is no TOML|nested too deep"),
    ],
)
def test_a_mistake_is_told_with_file_place_and_what_is_allowed(
    tmp_path: Path, text: str | bytes, complaint: str
) -> None:
    file = tmp_path / "permissions.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=complaint) as refused:
        read_permissions(file)
    assert str(file) in str(refused.value)


def test_a_file_that_cannot_be_read_or_that_anybody_can_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_permissions(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_permissions(tmp_path)
    file = tmp_path / "open.toml"
    file.write_text("[default]\nqueues = []\n")
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by everybody"):
        read_permissions(file)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="more than 4194304 bytes"):
        read_permissions(large)


def test_the_option_takes_a_dict_of_the_same_shape() -> None:
    given = {"peers": {"shop": {"queues": ["a"]}}}
    assert Options(permissions=given).permissions == Permissions.parse(given)
    with pytest.raises(ConfigError, match="^permissions: peers.shop: there is no key 'queue'"):
        Options(permissions={"peers": {"shop": {"queue": []}}})
    for wrong in ("", 3, True, ["shop"]):
        with pytest.raises(ConfigError, match="^permissions takes the path of a TOML file, a dict"):
            Options.parse({"permissions": wrong})


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    now = [0.0]
    monkeypatch.setattr(permission_file, "monotonic", lambda: now[0])

    def passes() -> None:
        now[0] += permission_file.LOOK_S

    return passes


def test_a_change_of_the_file_is_seen_and_a_broken_one_changes_nothing(
    tmp_path: Path, time_passes: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "permissions.toml"
    file.write_text("[default]\nqueues = ['a']\n")
    watched = PermissionFile("b", file)
    time_passes()
    assert not watched.look()
    file.write_text("[default]\nqueues = ['b', 'c']\n")
    assert not watched.look(), "it is not time"
    assert 0 < watched.timeout_s() <= permission_file.LOOK_S
    time_passes()
    assert watched.look()
    assert watched.permissions.default.queues == ("b", "c")

    with caplog.at_level(logging.ERROR, "zmqrel"):
        for broken in ("[default]\nqueues = [\n", None):
            if broken is None:
                file.unlink()
            else:
                file.write_text(broken)
            for _ in range(3):
                time_passes()
                assert not watched.look()
    assert watched.permissions.default.queues == ("b", "c")
    assert [record.message.count("stay as they were") for record in caplog.records] == [1, 1]

    replacement = tmp_path / "new.toml"
    replacement.write_text("[default]\nqueues = ['d']\n")
    replacement.replace(file)
    time_passes()
    assert watched.look()
    assert watched.permissions.default.queues == ("d",)
    os.utime(file)
    time_passes()
    assert not watched.look(), "it says the same"


@pytest.mark.parametrize("from_file", [True, False])
def test_peers_on_a_simulated_network_are_held_to_them(tmp_path: Path, from_file: bool) -> None:
    file = tmp_path / "permissions.toml"
    file.write_text("[peers.shop]\nqueues = ['invoices']\n")
    given = file if from_file else {"peers": {"shop": {"queues": ["invoices"]}}}
    with Network(seed=1) as network:
        shop = network.peer("shop", {"billing": True})
        billing = network.peer("billing", {"shop": False}, permissions=given)
        refused = shop.send("billing", 1, queue="audit")
        assert refused.wait(30) is Outcome.REJECTED
        assert not refused.wait_received(0)
        assert refused.reason == "not permitted: queue 'audit' for peer 'shop'"
        order = shop.send("billing", 2, queue="invoices")
        recall = order.recall(timeout=30)
        assert (recall.verdict, recall.reason) == (Verdict.PENDING, "not permitted: recall for peer 'shop'")
        with billing.receive("invoices", 30):  # type: ignore[union-attr]
            pass
        assert order.wait(30) is Outcome.HANDLED
        assert recall.verdict is Verdict.TOO_LATE


def test_until_a_file_is_read_nothing_is_permitted(tmp_path: Path) -> None:
    """Whoever runs the core over options with a path, and does not read it."""
    host = Host("b", Time(), permissions=tmp_path / "permissions.toml")
    assert host.engine.shared.permissions == Permissions()
