"""What `zmqrel show` makes of what two stores remember of one message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zmqrel
from tests.cli.commands import command, one
from tests.cli.launching import environment
from tests.real.net import LIMIT_S, until
from zmqrel.cli.life import life

CRASHING = """
import os, sys, zmqrel
worker = zmqrel.Peer("worker", sys.argv[1], bind=sys.argv[2], peers={"boss": None})
@worker.handler("default", retry=zmqrel.Retry.fixed(0, max_attempts=3))
def die(message):
    os._exit(9)
worker.start()
sys.stdin.read()
worker.close()
"""


def at(minute: int) -> str:
    return f"2026-01-31T12:{minute:02}:00.000000+00:00"


def event(minute: int | None, what: str, detail: str | None = None) -> dict[str, Any]:
    return {"at": None if minute is None else at(minute), "what": what, "detail": detail}


def end(peer: str, **known: Any) -> dict[str, Any]:
    return {"peer": peer, "sent": None, "received": [], "dead": [], "successors": []} | known


def sent(state: str, *history: dict[str, Any], **known: Any) -> dict[str, Any]:
    ended = {"outcome": None, "attempts": 0, "handed_over_at": None}
    return {"to": "worker", "state": state, "history": list(history)} | ended | known


def told(*ends: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Who, what, and the minute."""
    return [(each["peer"], each["what"], each["at"] and each["at"][14:16]) for each in life(ends)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("QUEUED", []),
        ("STORED", ["stored"]),
        ("SENT", ["stored", "sent"]),
        ("RECALLING", ["stored", "sent"]),
        ("EXPIRING", ["stored", "sent"]),
        ("RECEIVED", ["stored", "sent", "received"]),
    ],
)
def test_what_the_state_says_has_happened(state: str, expected: list[str]) -> None:
    assert [what for _, what, _ in told(end("boss", sent=sent(state)))] == expected


@pytest.mark.parametrize(
    ("outcome", "attempts", "handed", "expected"),
    [
        ("HANDLED", 1, at(5), ["stored", "sent", "received", "handed over", "settled"]),
        ("EXHAUSTED", 2, None, ["stored", "sent", "received", "handed over", "settled"]),
        ("EXHAUSTED", 0, None, ["stored", "settled"]),
        ("RECALLED", 0, None, ["stored", "settled"]),
        ("UNCERTAIN", 0, None, ["stored", "settled"]),
    ],
)
def test_what_the_outcome_says_has_happened(
    outcome: str, attempts: int, handed: str | None, expected: list[str]
) -> None:
    known = [event(5, "handed over", "attempt 1")] if handed else []
    of = sent(
        "SETTLED", *known, event(6, "settled", outcome), outcome=outcome, attempts=attempts, handed_over_at=handed
    )
    found = told(end("boss", sent=of))
    assert [what for _, what, _ in found] == expected
    assert [peer for peer, what, _ in found if what == "handed over"] == ["worker"] * ("handed over" in expected)


def test_a_delayed_message_was_sent_and_received_though_nobody_kept_when() -> None:
    waiting = {"sender": "boss", "history": [event(1, "stored")]}
    assert told(end("worker", received=[waiting])) == [
        ("boss", "stored", "01"),
        ("boss", "sent", None),
        ("worker", "received", None),
    ]


@pytest.mark.parametrize("minutes_behind", [0, 9], ids=["one clock", "a receiver that is behind"])
def test_each_event_is_told_of_the_peer_where_it_happened_cause_before_effect(minutes_behind: int) -> None:
    behind = minutes_behind
    letter = {
        "sender": "boss",
        "to": "worker",
        "history": [
            event(11 - behind, "stored"),
            event(12 - behind, "received"),
            event(14 - behind, "attempt failed", "attempt 1: x"),
            event(16 - behind, "attempt failed", "attempt 2: x"),
            event(15 - behind, "handed over", "attempt 2"),
            event(17 - behind, "settled", "EXHAUSTED: x"),
        ],
    }
    of = sent(
        "SETTLED",
        event(10, "stored"),
        event(11, "sent"),
        event(13, "received"),
        event(14, "handed over", "one of 2 attempts"),
        event(18, "settled", "EXHAUSTED: x"),
        outcome="EXHAUSTED",
        attempts=2,
    )
    found = life([end("worker", dead=[letter]), end("boss", sent=of)])
    assert [(each["peer"], each["what"]) for each in found] == [
        ("boss", "stored"),
        ("boss", "sent"),
        ("worker", "received"),
        ("worker", "attempt failed"),
        ("worker", "handed over"),
        ("worker", "attempt failed"),
        ("worker", "settled"),
        ("boss", "settled"),
    ]
    expected = [10, 11, *(minute - behind for minute in (12, 14, 15, 16, 17)), 18]
    assert [each["at"] for each in found] == [at(minute) for minute in expected]
    assert found[-1]["detail"] == "learnt: EXHAUSTED: x"


def test_what_died_in_the_outbox_and_what_is_its_peers_own() -> None:
    letter = {"sender": "boss", "to": "worker", "history": [event(1, "stored"), event(2, "settled", "EXPIRED")]}
    assert told(end("boss", dead=[letter])) == [("boss", "stored", "01"), ("boss", "settled", "02")]
    own = {"sender": "boss", "history": [event(1, "stored"), event(3, "attempt failed", "attempt 1: x")]}
    assert told(end("boss", received=[own])) == [("boss", "stored", "01"), ("boss", "attempt failed", "03")]


def test_two_messages_of_one_id_are_told_apart() -> None:
    of_two = [{"sender": name, "history": [event(1, "stored"), event(2, "received")]} for name in ("a", "b")]
    assert [peer for peer, what, _ in told(end("worker", received=of_two)) if what == "stored"] == ["a", "b"]
    assert life([{"peer": "a", "store": "/a", "error": "damaged"}]) == []


def test_a_message_whose_handler_killed_its_process_three_times(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/w"
    with zmqrel.Peer("boss", tmp_path / "boss", peers={"worker": address}) as boss:
        receipt = boss.send("worker", "x", id="job-crash")
        worker = [sys.executable, "-c", CRASHING, str(tmp_path / "somewhere"), address]
        for _ in range(3):
            with subprocess.Popen(worker, env=environment(), stdin=subprocess.PIPE) as dying:
                assert dying.wait(LIMIT_S) == 9
        with subprocess.Popen(worker, env=environment(), stdin=subprocess.PIPE) as last:
            until(lambda: receipt.outcome is not None)
            last.communicate(timeout=LIMIT_S)
        assert last.returncode == 0
        assert receipt.outcome is zmqrel.Outcome.EXHAUSTED
        assert [event.detail for event in receipt.history if event.what == "handed over"] == [
            "attempt 1 of 3, at the latest"
        ]
        found = one("show", "show", tmp_path / "boss", "job-crash")
        failures = [("worker", "attempt failed")] * 3
        # Its sender may not have heard that it came before the process died, and have sent it again.
        once = [(each["peer"], each["what"]) for each in found["history"] if each["what"] != "resent"]
        assert once == [
            ("boss", "stored"),
            ("boss", "sent"),
            ("worker", "received"),
            *failures,
            ("worker", "settled"),
            ("boss", "settled"),
        ]
        times = [each["at"] for each in found["history"]]
        assert None not in times
        text = command("show", tmp_path / "boss", "job-crash").stdout
        assert [f"attempt {n} failed" in text for n in (1, 2, 3)] == [True] * 3


def test_a_delayed_message_at_both_ends(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    with (
        zmqrel.Peer("worker", tmp_path / "w", bind=address, peers={"boss": None}),
        zmqrel.Peer("boss", tmp_path / "b", peers={"worker": address}) as boss,
    ):
        receipt = boss.send("worker", "x", id="later", delay=3600)
        assert receipt.wait_received(LIMIT_S)
    for store in ("b", "w"):
        found = one("show", "show", tmp_path / store, "later")
        assert [(each["peer"], each["what"], each["at"] is None) for each in found["history"]] == [
            ("boss", "stored", False),
            ("boss", "sent", True),
            ("worker", "received", True),
        ]
