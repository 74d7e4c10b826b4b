"""Permissions over real sockets: what is refused is told to its sender, and a change of the file takes effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

import zmqrel
from zmqrel import ConfigError, Outcome, Peer, Verdict

FILE = """
[peers.shop]
queues = ["invoices", "refunds.*"]
"""
WAIT_S = 30


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "permissions.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def billing(file: Path, tmp_path: Path) -> Iterator[Peer]:
    endpoint = f"ipc://{tmp_path}/b.sock"
    with Peer("billing", zmqrel.MEMORY, bind=endpoint, peers={"shop": None}, permissions=file) as peer:
        yield peer


@pytest.fixture
def shop(billing: Peer) -> Iterator[Peer]:
    with Peer("shop", zmqrel.MEMORY, peers={"billing": billing.endpoints[0]}) as peer:
        yield peer


def test_what_is_not_permitted_ends_rejected_with_the_reason(billing: Peer, shop: Peer) -> None:
    refused = shop.send("billing", "x", queue="audit")
    allowed = shop.send("billing", "y", queue="refunds.eu")
    assert refused.wait(WAIT_S) is Outcome.REJECTED
    assert not refused.wait_received(0), "it lies nowhere at its receiver"
    assert refused.reason == "not permitted: queue 'audit' for peer 'shop'"
    message = billing.receive("refunds.eu", WAIT_S)
    assert message is not None
    message.ack()
    assert allowed.wait(WAIT_S) is Outcome.HANDLED
    assert billing.stats()["not_permitted"] == 1


def test_a_recall_that_is_not_permitted_says_so_and_the_message_goes_on(billing: Peer, shop: Peer) -> None:
    receipt = shop.send("billing", "x", queue="invoices")
    assert receipt.wait_received(WAIT_S)
    recall = receipt.recall(timeout=WAIT_S)
    assert recall.verdict is Verdict.PENDING
    assert recall.reason == "not permitted: recall for peer 'shop'"
    assert receipt.state is zmqrel.State.RECEIVED
    assert "recall for peer 'shop'" in str(receipt.history)
    message = billing.receive("invoices", WAIT_S)
    assert message is not None
    assert not message.withdrawn
    message.ack()
    assert receipt.wait(WAIT_S) is Outcome.HANDLED
    assert (recall.wait(0), recall.outcome) == (Verdict.TOO_LATE, Outcome.HANDLED)


def test_a_change_of_the_file_takes_effect_while_both_run(billing: Peer, shop: Peer, file: Path) -> None:
    assert shop.send("billing", "x", queue="audit").wait(WAIT_S) is Outcome.REJECTED
    file.write_text(FILE + "recall = true\n[default]\nqueues = ['*']\n")
    shop.send("billing", "y", queue="invoices").wait_received(WAIT_S)
    # The peer looks at the file by itself: each try that comes before it does is denied, and says so.
    for _ in range(1000):
        recall = shop.recall(shop.send("billing", "z", queue="invoices"), timeout=WAIT_S)
        if recall.verdict is Verdict.RECALLED:
            break
        assert recall.reason == "not permitted: recall for peer 'shop'"
        recall.receipt._ticket.wait(lambda: False, 0.05)
    assert recall.verdict is Verdict.RECALLED


def test_a_peer_whose_file_is_wrong_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[peers.shop]\nqueues = 'all'\n")
    with pytest.raises(ConfigError, match=r"wrong\.toml: peers\.shop\.queues takes a list"):
        Peer("billing", tmp_path / "store", permissions=file).start()
    assert not (tmp_path / "store").exists()


def test_the_file_is_the_same_wherever_the_process_goes(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    endpoint = f"ipc://{tmp_path}/b.sock"
    with Peer("billing", zmqrel.MEMORY, bind=endpoint, peers={"shop": None}, permissions="permissions.toml") as billing:
        monkeypatch.chdir("elsewhere")
        file.write_text("[default]\nqueues = ['audit']\n")
        with Peer("shop", zmqrel.MEMORY, peers={"billing": endpoint}) as shop:
            # Until the peer has looked at the file again, this is refused.
            give_up_at = monotonic() + WAIT_S
            while not billing.stats()["received"] and monotonic() < give_up_at:
                shop.send("billing", "x", queue="audit").wait_received(WAIT_S)
            assert billing.stats()["received"] == 1
