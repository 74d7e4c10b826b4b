"""`zmqrel permissions`, and what else is given such a file."""

from __future__ import annotations

from pathlib import Path

import pytest

import zmqrel
from tests.cli.commands import assert_one_line, called, one
from zmqrel.cli.topology import TopologyError, load

FILE = """
[peers.shop]
queues = ["invoices", "refunds.*"]
recall = true
[peers."edge.7"]
queues = []
"""
NODE = """
[node.billing]
module = "nodes.sink"
options = { permissions = "permissions.toml" }
"""
WAIT_S = 30


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "permissions.toml"
    path.write_text(FILE)
    return path


def test_what_each_peer_may_do_is_told(file: Path) -> None:
    found = one("permissions", "permissions", file)
    assert found["peers"]["shop"] == {"queues": ["invoices", "refunds.*"], "recall": True}
    assert found["default"] == {"queues": [], "recall": False}
    said = called("permissions", file)
    assert (said.returncode, said.stderr) == (0, "")
    assert [line.split() for line in said.stdout.splitlines()] == [
        ["peer", "recall", "queues"],
        ["shop", "yes", "invoices", "refunds.*"],
        ["edge.7", "no", "(none)"],
        ["(others)", "no", "(none)"],
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (FILE + "x = 1", "peers.edge.7: there is no key 'x'; there are queues and recall"),
        ("[peers.shop\n", "this is no TOML"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_in_it_is_told_in_a_line(file: Path, text: str | None, complaint: str) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    ended = called("permissions", file)
    assert ended.returncode == 1
    assert_one_line(ended.stderr)
    assert complaint in ended.stderr
    assert str(file) in ended.stderr


def test_no_file_is_a_misuse() -> None:
    ended = called("permissions")
    assert ended.returncode == 2
    assert_one_line(ended.stderr)


def test_listen_holds_others_to_it(file: Path, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/l.sock"
    with zmqrel.Peer("shop", zmqrel.MEMORY, peers={"billing": endpoint}) as shop:
        refused = shop.send("billing", "no", queue="audit")
        shop.send("billing", "yes", queue="invoices")
        at = ("--bind", endpoint, "--queue", "invoices", "--queue", "audit", "--count", 1)
        said = called("listen", "billing", *at, "--permissions", file)
        assert said.stdout.count("\n") == 1
        assert said.stdout.endswith('shop invoices: "yes"\n')
        assert refused.wait(WAIT_S) is zmqrel.Outcome.REJECTED


def test_a_topology_is_checked_with_the_files_of_its_nodes(file: Path) -> None:
    topology = file.with_name("topology.toml")
    topology.write_text(NODE)
    assert load(topology, file.parent / "data").nodes[0].name == "billing"
    file.write_text("[peers.shop]\nqueue = []\n")
    with pytest.raises(TopologyError, match=r"permissions\.toml: peers\.shop: there is no key 'queue'"):
        load(topology, file.parent / "data")
