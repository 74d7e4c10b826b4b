"""The commands that look into stores, beside running peers and on stopped ones: real processes, real stores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import pytest

import zmqrel
from tests.cli.commands import assert_one_line, called, command, objects, one
from tests.cli.launching import environment
from tests.real.net import LIMIT_S, until

TERMINAL_POISON = "\x1b[31m\u202eevil\x07\n"


@dataclass
class Scene:
    """A shop and its billing, in the middle of their work."""

    shop: Path
    billing: Path
    running: bool
    peers: list[zmqrel.Peer] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)

    def stop(self) -> None:
        for peer in self.peers:
            peer.close()
        self.peers.clear()
        self.running = False


@pytest.fixture(params=[True, False], ids=["running", "stopped"])
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(tmp_path / "shop", tmp_path / "billing", request.param)
    billing = zmqrel.Peer("billing", made.billing, bind=f"ipc://{tmp_path}/b", peers={"shop": None})

    @billing.handler("good")
    def handle(message: zmqrel.Message) -> None:
        pass

    @billing.handler("bad")
    def refuse(message: zmqrel.Message) -> None:
        raise zmqrel.Reject(f"no {TERMINAL_POISON}")

    peers = {"billing": f"ipc://{tmp_path}/b", "absent": None}
    shop = zmqrel.Peer("shop", made.shop, peers=peers)
    made.peers = [shop, billing]
    try:
        billing.start()
        shop.start()
        receipts = {
            "handled": shop.send("billing", 1, queue="good", id="handled"),
            "rejected": shop.send("billing", {"n": [1, b"x"]}, queue="bad", key="k", headers={"h": TERMINAL_POISON}),
            "waiting": shop.send("billing", TERMINAL_POISON, queue="slow", id="waiting"),
            "made": shop.send("billing", "made", queue="slow"),
            "unsent": shop.send("absent", b"\xff", deadline=4_000_000_000),
        }
        made.ids = {name: receipt.id for name, receipt in receipts.items()}
        assert receipts["handled"].wait(LIMIT_S) is zmqrel.Outcome.HANDLED
        assert receipts["rejected"].wait(LIMIT_S) is zmqrel.Outcome.REJECTED
        assert receipts["waiting"].wait_received(LIMIT_S)
        assert receipts["made"].wait_received(LIMIT_S)
        if not made.running:
            made.stop()
        yield made
    finally:
        made.stop()


def test_status(scene: Scene) -> None:
    found = one("status", "status", scene.shop)
    assert (found["peer"], found["running"], found["store"]) == ("shop", scene.running, str(scene.shop))
    assert found["pid"] == (os.getpid() if scene.running else None)
    assert found["last_life"] == (None if scene.running else "clean")
    assert found["stats"]["outbox_messages"] == 3
    assert found["stats"]["settled"] == (2 if scene.running else 0)
    peers = {each["name"]: each for each in found["peers"]}
    assert peers["absent"]["unsent"] == 1
    assert peers["billing"]["connected"] == scene.running
    queues = {each["name"]: each for each in one("status", "status", scene.billing)["queues"]}
    assert (queues["slow"]["messages"], queues["slow"]["served"]) == (2, None)
    assert queues["good"]["served"] == ("push" if scene.running else None)
    text = command("status", scene.billing)
    assert text.returncode == 0
    assert text.stdout.startswith(
        "billing: running, process" if scene.running else "billing: not running, closed cleanly"
    )


def test_ls(scene: Scene) -> None:
    sent = objects("outgoing", "ls", scene.shop, "outbox")
    assert [item["id"] for item in sent] == [scene.ids[name] for name in ("waiting", "made", "unsent")]
    assert [item["state"] for item in sent] == ["RECEIVED", "RECEIVED", "STORED"]
    assert [
        item["id"] for item in objects("outgoing", "ls", scene.shop, "outbox", "--queue", "slow", "--limit", 1)
    ] == ["waiting"]
    received = objects("incoming", "ls", scene.billing, "inbox")
    assert [(item["id"], item["sender"], item["queue"]) for item in received] == [
        ("waiting", "shop", "slow"),
        (scene.ids["made"], "shop", "slow"),
    ]
    assert objects("incoming", "ls", scene.billing, "inbox", "--queue", "good") == []
    (letter,) = objects("dead", "ls", scene.billing, "dead")
    assert (letter["id"], letter["cause"], letter["key"]) == (scene.ids["rejected"], "rejected", "k")


def happened(found: Any) -> list[tuple[str, str]]:
    return [(event["peer"], event["what"]) for event in found["history"]]


def test_show_tells_both_ends(scene: Scene) -> None:
    found = one("show", "show", scene.shop, "waiting")
    assert [(end["peer"], end["running"]) for end in found["ends"]] == [
        ("shop", scene.running),
        ("billing", scene.running),
    ]
    assert [(place["peer"], place["place"], place["detail"]) for place in found["where"]] == [
        ("shop", "outbox", "RECEIVED"),
        ("billing", "inbox", "queue slow, attempts 0"),
    ]
    assert happened(found) == [("shop", "stored"), ("shop", "sent"), ("billing", "received")]
    times = [event["at"] for event in found["history"]]
    assert [bool(at) for at in times] == [True, scene.running, True]  # when it was sent is known in that life only
    assert found["ends"][0]["sent"]["body"] == {"value": TERMINAL_POISON}
    # The same from the other side, and of an id that zmqrel made.
    assert {place["peer"] for place in one("show", "show", scene.billing, scene.ids["made"])["where"]} == {
        "shop",
        "billing",
    }


def test_show_of_what_has_ended(scene: Scene) -> None:
    found = one("show", "show", scene.shop, scene.ids["rejected"])
    assert [(place["peer"], place["place"]) for place in found["where"]] == [
        ("shop", "outcomes"),
        ("billing", "dead letters"),
    ]
    assert found["where"][0]["detail"].startswith("REJECTED: no ")
    assert found["ends"][1]["dead"][0]["body"] == {"value": {"n": [1, {"base64": "eA=="}]}}
    assert happened(found) == [
        ("shop", "stored"),
        ("shop", "sent"),
        ("billing", "received"),
        ("billing", "handed over"),
        ("billing", "settled"),
        ("shop", "settled"),
    ]
    assert found["history"][-1]["detail"].startswith("learnt: REJECTED: no ")
    alone = one("show", "show", scene.shop, "handled")
    assert [place["detail"] for place in alone["where"]] == ["HANDLED"]
    assert happened(alone) == [
        ("shop", "stored"),
        ("shop", "sent"),
        ("billing", "received"),
        ("billing", "handed over"),
        ("shop", "settled"),
    ]
    assert alone["history"][-1]["detail"] == "HANDLED"


def test_show_at_the_receiver_of_what_it_has_settled_and_forgotten(scene: Scene) -> None:
    found = one("show", "show", scene.shop, "handled")
    made = f"{found['ends'][0]['sent']['lane']}-{found['ends'][0]['sent']['number']}"
    at_billing = one("show", "show", scene.billing, made)
    assert [(place["peer"], place["place"], place["detail"]) for place in at_billing["where"]] == [
        ("billing", "settled", "shop knows the outcome"),
        ("shop", "outcomes", "HANDLED"),
    ]
    assert command("show", scene.billing, made[:-1] + "9").returncode == 1


def test_what_comes_from_a_peer_does_not_steer_the_terminal(scene: Scene) -> None:
    for arguments in (
        ["show", scene.shop, "waiting"],
        ["show", scene.shop, scene.ids["rejected"]],
        ["ls", scene.billing, "dead"],
    ):
        ended = command(*arguments)
        assert ended.returncode == 0, ended.stderr
        assert not {"\x1b", "\x07", "\u202e"} & set(ended.stdout)
    assert "no \\x1b[31m\\u202eevil\\x07\\n" in ended.stdout


def test_the_other_end_is_found_beside_whatever_its_directory_is_called(scene: Scene, tmp_path: Path) -> None:
    scene.stop()
    (tmp_path / "no store").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "data.mdb").write_bytes(b"no store of ours")
    with zmqrel.Peer("other", tmp_path / "running"):
        scene.billing.rename(tmp_path / "accounts")
        found = one("show", "show", scene.shop, "waiting")
        assert [(end["peer"], end["store"]) for end in found["ends"]] == [
            ("shop", str(scene.shop)),
            ("billing", str(tmp_path / "accounts")),
        ]
        # The directory with the right name holds another peer's store.
        (tmp_path / "accounts").rename(tmp_path / "kept")
        zmqrel.Peer("stranger", scene.billing).start().close()
        found = one("show", "show", scene.shop, "waiting")
        assert [end["store"] for end in found["ends"]] == [str(scene.shop), str(tmp_path / "kept")]
    with zmqrel.Peer("billing", tmp_path / "kept"):
        found = one("show", "show", scene.shop, "waiting")
        assert [(end["peer"], end["running"]) for end in found["ends"]] == [("shop", False), ("billing", True)]


def test_what_a_dead_letter_was_retried_as_is_found_by_its_old_id(scene: Scene) -> None:
    old = scene.ids["rejected"]
    (retried,) = objects("retried", "dead", scene.billing, "retry", old, "--queue", "slow")
    found = one("show", "show", scene.billing, old)
    (successor,) = found["ends"][0]["successors"]
    assert (successor["id"], successor["cause"], successor["place"]) == (retried["new_id"], "rejected", "inbox")
    assert (found["history"][-1]["peer"], found["history"][-1]["what"]) == ("billing", "made anew")
    assert f"made anew as {retried['new_id']}" in command("show", scene.shop, old).stdout


def test_the_other_end_may_be_elsewhere(scene: Scene, tmp_path: Path) -> None:
    scene.stop()
    (tmp_path / "far").mkdir()
    elsewhere = tmp_path / "far" / "away"
    scene.billing.rename(elsewhere)
    assert [end["peer"] for end in one("show", "show", scene.shop, "waiting")["ends"]] == ["shop"]
    found = one("show", "show", scene.shop, "waiting", "--other", elsewhere)
    assert [end["peer"] for end in found["ends"]] == ["shop", "billing"]
    wrong = command("show", scene.shop, "waiting", "--other", scene.shop)
    assert wrong.returncode == 2
    assert "it is the store of 'shop', not of 'billing'" in wrong.stderr


def test_an_other_end_that_is_damaged_is_said_so(scene: Scene) -> None:
    scene.stop()
    with (
        lmdb.open(str(scene.billing / "data.mdb"), subdir=False, lock=False, lib_version=0) as db,
        db.begin(write=True) as txn,
    ):
        txn.put(b"\x01meta", b"\xc1")
    found = one("show", "show", scene.shop, "waiting")
    assert found["where"][1]["place"] == "not known"
    assert "cannot be read" in found["where"][1]["detail"]


def test_recall_of_what_never_left(scene: Scene) -> None:
    assert one("recall", "recall", scene.shop, scene.ids["unsent"])["verdict"] == "RECALLED"
    assert one("recall", "recall", scene.shop, scene.ids["unsent"])["verdict"] == "RECALLED"
    assert "RECALLED" in command("recall", scene.shop, scene.ids["unsent"]).stdout


def test_recall_of_what_was_received(scene: Scene, tmp_path: Path) -> None:
    found = one("recall", "recall", scene.shop, "waiting", "--timeout", 30)
    if scene.running:
        assert found["verdict"] == "RECALLED"
        return
    assert found["verdict"] == "PENDING"
    assert one("show", "show", scene.shop, "waiting")["where"][0]["detail"] == "RECALLING"
    billing = zmqrel.Peer("billing", scene.billing, bind=f"ipc://{tmp_path}/b", peers={"shop": None})
    with billing, zmqrel.Peer("shop", scene.shop, peers={"billing": f"ipc://{tmp_path}/b"}) as shop:
        assert shop.receipt("waiting").wait(LIMIT_S) is zmqrel.Outcome.RECALLED


def test_recall_that_is_too_late_or_of_nothing(scene: Scene) -> None:
    late = one("recall", "recall", scene.shop, "handled", status=1)
    assert (late["verdict"], late["outcome"]) == ("TOO_LATE", "HANDLED")
    assert late["handed_over_at"] is not None
    unknown = command("recall", scene.shop, "unknown")
    assert unknown.returncode == 1
    assert unknown.stderr == "zmqrel: no message 'unknown' was sent from 'shop', or its outcome is forgotten\n"


def test_dead_letters_are_retried(scene: Scene) -> None:
    (retried,) = objects("retried", "dead", scene.billing, "retry", scene.ids["rejected"], "--queue", "slow")
    assert (retried["id"], retried["queue"]) == (scene.ids["rejected"], "slow")
    assert objects("dead", "ls", scene.billing, "dead") == []
    made = one("show", "show", scene.billing, retried["new_id"])["ends"][0]["received"][0]
    assert (made["origin_id"], made["sender"], made["queue"], made["key"]) == (
        scene.ids["rejected"],
        "billing",
        "slow",
        "k",
    )
    again = command("dead", scene.billing, "retry", scene.ids["rejected"])
    assert again.returncode == 1
    assert "no dead letter of" in again.stderr


def test_dead_letters_are_purged(scene: Scene) -> None:
    assert objects("purged", "dead", scene.billing, "purge", "--before", "2020-01-31") == [{"purged": 0}]
    assert objects("purged", "dead", scene.billing, "purge", scene.ids["rejected"]) == [{"id": scene.ids["rejected"]}]
    assert objects("purged", "dead", scene.billing, "purge", "--all") == [{"purged": 0}]
    assert objects("dead", "ls", scene.billing, "dead") == []


def test_all_dead_letters_at_once(scene: Scene) -> None:
    assert [item["queue"] for item in objects("retried", "dead", scene.billing, "retry", "--all")] == ["bad"]
    if scene.running:
        until(lambda: scene.peers[1].stats()["dead_messages"] == 1)
        assert objects("purged", "dead", scene.billing, "purge", "--all") == [{"purged": 1}]


def test_verify_finds_nothing_in_a_whole_store(scene: Scene) -> None:
    for store in (scene.shop, scene.billing):
        found = one("verify", "verify", store)
        assert found["whole"]
        assert found["rows"] > 5
        assert found["totals_compared"] or scene.running
    assert "whole; " in command("verify", scene.shop).stdout


def damage(store: Path, table: int) -> None:
    """Flip a byte of the last row of a table, as a disk does."""
    with lmdb.open(str(store / "data.mdb"), subdir=False, lock=False, lib_version=0) as db, db.begin(write=True) as txn:
        cursor = txn.cursor()
        assert cursor.set_range(bytes((table + 1,)))
        assert cursor.prev()
        key, value = cursor.item()
        assert key[0] == table
        txn.put(key, value[:-1] + bytes((value[-1] ^ 1,)))


def test_verify_names_what_is_damaged_and_where(scene: Scene) -> None:
    scene.stop()
    damage(scene.billing, 0x20)
    found = one("verify", "verify", scene.billing, status=1)
    (fault,) = found["faults"]
    assert (fault["table"], fault["what"]) == ("INBOX", "its checksum does not match")
    assert "from shop, queue slow, number 2" in fault["where"]
    text = command("verify", scene.billing)
    assert text.returncode == 1
    assert "damaged: 1 fault; " in text.stdout


@pytest.mark.parametrize("how", ["a page", "cut short", "no data", "the ledger"])
def test_verify_of_a_store_that_cannot_be_opened(tmp_path: Path, how: str) -> None:
    with zmqrel.Peer("shop", tmp_path / "shop", peers={"x": None}) as peer:
        peer.send_many("x", [bytes(2000)] * 50)
    data = tmp_path / "shop" / "data.mdb"
    if how == "a page":
        content = bytearray(data.read_bytes())
        content[3 * 4096 : -4096] = bytes(len(content) - 4 * 4096)
        data.write_bytes(content)
    elif how == "cut short":
        with data.open("r+b") as file:
            file.truncate(3 * 4096)
    elif how == "no data":
        data.unlink()
    else:
        with lmdb.open(str(data), subdir=False, lock=False, lib_version=0) as db, db.begin(write=True) as txn:
            txn.put(b"\x01meta", b"\xc1")
    found = one("verify", "verify", tmp_path / "shop", status=1)
    assert found["faults"]
    assert not found["whole"]
    assert found["faults"][0]["table"] == ("META" if how == "the ledger" else "file")
    if how == "the ledger":
        ended = command("status", tmp_path / "shop")
        assert ended.returncode == 1
        assert "cannot be read" in ended.stderr


def test_looking_changes_nothing(scene: Scene) -> None:
    scene.stop()

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in scene.billing.iterdir() if path.name != "lock"}

    before = content()
    for arguments in (["status"], ["ls", "inbox"], ["ls", "dead"], ["show", "waiting"], ["verify"]):
        ended = command(arguments[0], scene.billing, *arguments[1:])
        assert ended.returncode == 0, ended.stderr
    assert content() == before


HOLDER = """
import os, signal, sys, zmqrel
peer = zmqrel.Peer("shop", sys.argv[1], peers={"x": None}, durability=sys.argv[2]).start()
peer.send("x", "kept", id="kept")
@peer.handler("q")
def handle(message): pass
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_the_store_of_a_peer_that_was_killed(tmp_path: Path, durability: str) -> None:
    store = tmp_path / "shop"
    arguments = [sys.executable, "-c", HOLDER, str(store), durability]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert one("status", "status", store)["pid"] == process.pid
        process.kill()
    assert (store / "control").exists()
    found = one("status", "status", store)
    assert (found["running"], found["last_life"]) == (False, "crashed")
    assert one("show", "show", store, "kept")["ends"][0]["sent"]["body"] == {"value": "kept"}
    assert one("verify", "verify", store)["whole"]
    assert one("recall", "recall", store, "kept")["verdict"] == "RECALLED"
    assert one("status", "status", store)["last_life"] == "clean"
    with zmqrel.Peer("shop", store, peers={"x": None}, durability=durability) as shop:
        assert shop.stats()["outbox_messages"] == 0


WRONG_PLACES = {
    "no such directory": ("none", "there is no directory"),
    "a file": ("file", "is a file, a store is a directory"),
    "an empty directory": ("empty", "holds no store of zmqrel"),
    "below a file": ("file/x", "there is no directory"),
}


@pytest.mark.parametrize("case", WRONG_PLACES)
@pytest.mark.parametrize(
    "arguments",
    [["status"], ["ls", "outbox"], ["show", "x"], ["recall", "x"], ["dead", "purge", "--all"], ["verify"]],
    ids=lambda arguments: arguments[0],
)
def test_a_wrong_directory_is_told_in_a_line(tmp_path: Path, case: str, arguments: list[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    place, words = WRONG_PLACES[case]
    ended = called(arguments[0], tmp_path / place, *arguments[1:])
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_unknown_id_is_told_in_a_line(scene: Scene) -> None:
    ended = command("show", scene.shop, "unknown")
    assert ended.returncode == 1
    assert ended.stderr == f"zmqrel: no message 'unknown' is known in {scene.shop}, or its outcome is forgotten\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_store_of_somebody_else(tmp_path: Path) -> None:
    store = tmp_path / "shop"
    with zmqrel.Peer("shop", store):
        pass
    for path in (store, *store.iterdir()):
        os.chown(path, 12345, 12345)
    for path in store.parents:
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(0o755)
    program = f"import os, zmqrel.cli as cli; os.setuid(65534); cli.main(['status', {str(store)!r}])"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=False, cwd="/"
    )
    assert ended.returncode == 2, ended.stderr
    assert "cannot be read" in ended.stderr or "belongs to user 12345" in ended.stderr
    assert "Traceback" not in ended.stderr


MISUSES = {
    "no directory": (["status"], "Missing argument 'DIR'"),
    "no table": (["ls", "{dir}"], "Missing argument"),
    "an unknown table": (["ls", "{dir}", "outbx"], "'outbx' is not one of 'outbox', 'inbox', 'dead'"),
    "a limit": (["ls", "{dir}", "outbox", "--limit", "0"], "takes a whole number from 1, not '0'"),
    "no id": (["show", "{dir}"], "Missing argument 'ID'"),
    "an id that is none": (["show", "{dir}", ""], "id takes"),
    "no letters": (["dead", "{dir}", "retry"], "give IDs of dead letters, or --all"),
    "letters and all": (["dead", "{dir}", "retry", "x", "--all"], "give IDs of dead letters, or --all"),
    "purge into a queue": (["dead", "{dir}", "purge", "--all", "--queue", "q"], "--queue goes with retry"),
    "retry before": (["dead", "{dir}", "retry", "--before", "2020-01-01"], "--queue goes with retry"),
    "a day": (["dead", "{dir}", "purge", "--before", "yesterday"], "does not match the format"),
    "a queue": (["ls", "{dir}", "inbox", "--queue", "a b"], "queue takes"),
    "a wait": (["recall", "{dir}", "x", "--timeout", "-1"], "takes a number of seconds from 0, not '-1'"),
    "a wait of no length": (
        ["recall", "{dir}", "x", "--timeout", "nan"],
        "takes a number of seconds from 0, not 'nan'",
    ),
    "a queue of dead letters": (["ls", "{dir}", "dead", "--queue", "a b"], "queue takes"),
    "a queue to retry into": (["dead", "{dir}", "retry", "--all", "--queue", "a b"], "queue takes"),
    "a queue for an id": (["dead", "{dir}", "retry", "x", "--queue", "a b"], "queue takes"),
    "another store": (["show", "{dir}", "sent", "--other", "{dir}/none"], "--other {dir}/none: store: there is no"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_has_status_2(tmp_path: Path, case: str) -> None:
    with zmqrel.Peer("shop", tmp_path / "shop", peers={"billing": None}) as shop:
        shop.send("billing", 1, id="sent")
    arguments, words = MISUSES[case]
    ended = called(*[argument.format(dir=tmp_path / "shop") for argument in arguments])
    assert ended.returncode == 2, ended.stderr
    assert words.format(dir=tmp_path / "shop") in ended.stderr
    assert_one_line(ended.stderr)


@pytest.mark.parametrize(
    "name", ["launch", "listen", "send", "status", "ls", "show", "recall", "dead", "verify", "bench"]
)
def test_help_has_an_example_and_the_exit_status(name: str) -> None:
    ended = called(name, "--help")
    assert ended.returncode == 0
    assert f"  zmqrel {name} " in ended.stdout
    assert "Exit status: 0 " in ended.stdout
    assert "--json" in ended.stdout
    assert f"  {name} " in called("--help").stdout


def test_completion_works() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from zmqrel.cli import main; main(prog_name='zmqrel')"],
        capture_output=True,
        text=True,
        env={**environment(), "_ZMQREL_COMPLETE": "bash_complete", "COMP_WORDS": "zmqrel st", "COMP_CWORD": "1"},
        check=False,
    )
    assert ended.stdout == "plain,status\n"


def test_nothing_to_retry_or_purge_is_said(tmp_path: Path) -> None:
    with zmqrel.Peer("shop", tmp_path / "shop"):
        for action, words in (("retry", "0 retried\n"), ("purge", "0 purged\n")):
            ended = called("dead", tmp_path / "shop", action, "--all")
            assert (ended.returncode, ended.stdout) == (0, words)


STOPPED = (
    "import os, signal, sys, zmqrel\n"
    "with zmqrel.Peer('shop', sys.argv[1]):\n"
    "    print('up', flush=True)\n"
    "    os.kill(os.getpid(), signal.SIGSTOP)\n"
)


def test_a_peer_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "shop"
    program = [sys.executable, "-c", STOPPED, str(store)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            os.waitpid(process.pid, os.WUNTRACED)
            first = called("status", store)
            assert first.stderr == f"zmqrel: the peer of {store} does not answer within 5 s\n"
            monkeypatch.setattr("zmqrel.control.asking._ANSWER_S", 0.1)
            others = (["ls", store, "outbox"], ["show", store, "x"], ["recall", store, "x"], ["verify", store])
            for ended in [first, *(called(*words) for words in others)]:
                assert (ended.returncode, ended.stdout) == (1, "")
                assert "does not answer within" in ended.stderr
                assert_one_line(ended.stderr)
            purged = called("dead", store, "purge", "x")
            assert purged.returncode == 1
            assert_one_line(purged.stderr)
        finally:
            process.kill()


def test_who_stops_reading_is_no_traceback(scene: Scene) -> None:
    program = [sys.executable, "-m", "zmqrel", "ls", str(scene.shop), "outbox", "--json"]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
