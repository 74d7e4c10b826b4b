"""Three processes that all send to each other, killed, stopped and cut off; judged by what they recorded.

The run of 300,000 messages is `tox -e soak -- --messages 300000`.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.real.net import Net
from tests.real.processes import Nursery
from tests.real.soak.judge import Judgement, judge
from tests.real.soak.record import Hold
from tests.real.soak.samples import Sample, growth
from tests.real.soak.triangle import NAMES, Plan, Triangle, verify


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


def run(nursery: Nursery, net: Net, plan: Plan) -> tuple[dict[str, Path], list[Hold]]:
    """The records of a run, after which nothing is left in the stores, and when what was stopped."""
    triangle = Triangle(nursery, net, plan)
    triangle.run()
    for name in NAMES:
        assert not any(triangle.finished[name].values()), (name, triangle.finished[name])
        assert verify(net.folder, name) == []
    done = triangle.progress.faults
    assert (done["kills"], done["stops"], done["partitions"]) == (plan.kills, plan.stops, plan.partitions)
    return {name: triangle.record(name) for name in NAMES}, triangle.holds


@pytest.mark.long
@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
def test_kills_stops_and_partitions(nursery: Nursery, durability: str) -> None:
    with Net("tcp") as net:
        plan = Plan(messages=2_000, kills=9, stops=6, partitions=4, seed=7, durability=durability)
        found = judge(*run(nursery, net, plan))
    assert found.broken == []
    assert found.lost == found.late == found.unmarked == 0
    assert found.messages > 5_000  # a deadline may have passed before `send` was called
    for outcome in ("HANDLED", "REJECTED", "EXPIRED", "RECALLED", "EXHAUSTED"):
        assert found.seen[outcome], f"none ended {outcome}"
    print(
        f"{durability}: {found.messages} messages, {found.hand_overs} hand-overs, {found.seen['redelivered']} repeated"
    )


# ----------------------------------------------------------------------------------------------- the judge can fail


class Records:
    """Copies of the records of a quiet run, to plant faults in."""

    def __init__(self, folder: Path) -> None:
        self.paths = {name: folder / f"{name}.db" for name in NAMES}

    def ask(self, node: str, query: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.paths[node])) as database, database:
            return database.execute(query, values).fetchall()

    def find(self, query: str) -> tuple[str, tuple[object, ...]]:
        """The first row of any node's record."""
        return next((node, rows[0]) for node in NAMES if (rows := self.ask(node, query)))

    def somebody(self, outcome: str, of: str = "TRUE") -> tuple[str, str]:
        """A message that ended so, and its receiver; `of` says more about it, as SQL."""
        _, (n, node, recipient) = self.find(
            f"SELECT sent.n, substr(message, 1, 4), recipient FROM sent JOIN event ON message LIKE '%:' || sent.n"
            f" WHERE what = 'outcome' AND json_extract(more, '$.outcome') = '{outcome}' AND {of}"
        )
        return f"{node}:{n}", str(recipient)

    def add(self, node: str, what: str, message: str, more: str) -> None:
        """Something at the end of a node's record, before it was closed."""
        self.ask(node, "UPDATE event SET serial = serial + 1 WHERE what = 'close'")
        self.ask(
            node,
            "INSERT INTO event SELECT serial - 1, at_us, ?, ?, ? FROM event WHERE what = 'close'",
            what, message, more,
        )  # fmt: skip

    def row(self, node: str, what: str, message: str) -> str:
        """What is told of the first such row."""
        query = "SELECT more FROM event WHERE what = ? AND message = ? ORDER BY serial LIMIT 1"
        return str(self.ask(node, query, what, message)[0][0])

    def drop(self, node: str, what: str, message: str) -> None:
        """It was not recorded."""
        self.ask(node, "DELETE FROM event WHERE what = ? AND message = ?", what, message)


@pytest.fixture(scope="module")
def quiet(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quiet")
    with Net("tcp") as net:
        for path in run(nursery, net, Plan(messages=250))[0].values():
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def records(quiet: Path, tmp_path: Path) -> Records:
    for path in quiet.iterdir():
        shutil.copy(path, tmp_path)
    return Records(tmp_path)


def handed_over_after_recalled(records: Records) -> str:
    message, receiver = records.somebody("RECALLED")
    handled, by = records.somebody("HANDLED")
    records.add(receiver, "handed over", message, records.row(by, "handed over", handled))
    return message


def handed_over_after_expired(records: Records) -> str:
    message, receiver = records.somebody("EXPIRED")
    handled, by = records.somebody("HANDLED")
    records.add(receiver, "handed over", message, records.row(by, "handed over", handled))
    return message


def lost(records: Records) -> str:
    message, _ = records.somebody("HANDLED")
    for what in ("outcome", "found"):
        records.drop(message[:4], what, message)
    return message


def forgotten(records: Records) -> str:
    message, _ = records.somebody("HANDLED")
    records.ask(
        message[:4], "UPDATE event SET more = '{\"outcome\": null}' WHERE what = 'found' AND message = ?", message
    )
    return message


def not_told(records: Records) -> str:
    message, _ = records.somebody("REJECTED")
    records.drop(message[:4], "outcome", message)
    return message


def doubled(records: Records) -> str:
    message, receiver = records.somebody("HANDLED")
    records.add(receiver, "handed over", message, records.row(receiver, "handed over", message))
    return message


def doubled_and_marked(records: Records) -> str:
    """It says so, but no process died."""
    message, receiver = records.somebody("HANDLED")
    more = records.row(receiver, "handed over", message).replace('"redelivered": false', '"redelivered": true')
    records.add(receiver, "handed over", message, more)
    return message


def two_outcomes(records: Records) -> str:
    message, _ = records.somebody("HANDLED")
    records.add(message[:4], "outcome", message, '{"outcome": "REJECTED", "reason": "no", "attempts": 1}')
    return message


def recalled_and_handled(records: Records) -> str:
    message, _ = records.somebody("HANDLED")
    records.add(message[:4], "verdict", message, '{"verdict": "RECALLED", "handed_over": false}')
    return message


def never_acknowledged(records: Records) -> str:
    message, receiver = records.somebody("HANDLED")
    query = "UPDATE event SET more = json_set(more, '$.result', 'failed') WHERE what = 'finished' AND message = ?"
    records.ask(receiver, query, message)
    return message


def ended_while_at_work(records: Records) -> str:
    message, receiver = records.somebody("HANDLED", "key IS NULL")
    records.drop(receiver, "finished", message)
    return message


def never_recalled(records: Records) -> str:
    message, _ = records.somebody("RECALLED", "key IS NULL")
    for node in NAMES:
        records.drop(node, "recalling", message)
        records.ask(node, "DELETE FROM event WHERE what = 'recalling where'")
    return message


def late(records: Records) -> str:
    message, receiver = records.somebody("HANDLED", "deadline_us > 0")
    (deadline_us,) = records.ask(message[:4], "SELECT deadline_us FROM sent WHERE n = ?", message[5:])[0]
    records.ask(
        receiver,
        "UPDATE event SET more = json_set(more, '$.after_us', ?) WHERE what = 'handed over' AND message = ?",
        int(str(deadline_us)) + 10_000_000, message,
    )  # fmt: skip
    return message


def too_early(records: Records) -> str:
    node, (n, recipient) = records.find("SELECT n, recipient FROM sent WHERE not_before_us > 0 AND deadline_us = 0")
    message = f"{node}:{n}"
    records.ask(node, "UPDATE sent SET not_before_us = not_before_us + 100000000 WHERE n = ?", n)
    assert records.row(str(recipient), "handed over", message)
    return message


def out_of_order(records: Records) -> str:
    """Two of one sender, in the queue of one worker, change places."""
    plain = (
        "SELECT e.serial, message FROM event e WHERE what = 'handed over' AND message LIKE 'anna%'"
        " AND json_extract(more, '$.queue') = 'line' AND json_extract(more, '$.key') IS NULL"
        " AND json_extract(more, '$.attempt') = 1 ORDER BY e.serial"
    )
    delayed = {f"anna:{n}" for (n,) in records.ask("anna", "SELECT n FROM sent WHERE not_before_us > 0")}
    first, second, *_ = (str(message) for _, message in records.ask("bert", plain) if message not in delayed)
    for one, other in ((first, "x"), (second, first), ("x", second)):
        what = "message = ? AND what IN ('handed over', 'finished')"
        records.ask("bert", f"UPDATE event SET message = ? WHERE {what}", other, one)
    return first


def from_nobody(records: Records) -> str:
    handled, receiver = records.somebody("HANDLED")
    records.add(receiver, "handed over", "anna:999999", records.row(receiver, "handed over", handled))
    return "anna:999999"


PLANTED: dict[Callable[[Records], str], str] = {
    handed_over_after_recalled: "handed over after Outcome.RECALLED was told",
    handed_over_after_expired: "handed over after Outcome.EXPIRED was told",
    lost: "it has no outcome",
    forgotten: "it has no outcome",
    not_told: "no callback was told its outcome",
    doubled: "handed over again without saying so",
    doubled_and_marked: "handed over again, and nothing was wrong with the first time",
    two_outcomes: "Outcome.REJECTED was told after Outcome.HANDLED",
    recalled_and_handled: "Outcome.RECALLED was told after Outcome.HANDLED",
    never_acknowledged: "HANDLED was told, but no handler acknowledged it",
    ended_while_at_work: "Outcome.HANDLED was told while a handler has it",
    never_recalled: "Outcome.RECALLED was told, but nobody recalled it",
    late: "after its deadline",
    too_early: "too early",
    out_of_order: "which was sent later",
    from_nobody: "nobody sent it",
}


def test_a_quiet_run_is_sound(records: Records) -> None:
    found = judge(records.paths)
    assert found.broken == []
    refused = sum(len(records.ask(name, "SELECT 1 FROM event WHERE what = 'not accepted'")) for name in NAMES)
    assert found.messages + refused == 750
    assert found.seen["redelivered"] == 0


@pytest.mark.parametrize(("plant", "said"), PLANTED.items(), ids=[plant.__name__ for plant in PLANTED])
def test_a_planted_fault_is_found(plant: Callable[[Records], str], said: str, records: Records) -> None:
    message = plant(records)
    found: Judgement = judge(records.paths)
    assert any(said in line and f"'{message}'" in line for line in found.broken), (message, found.broken)


def test_what_a_killed_process_did_not_record_is_no_fault(records: Records) -> None:
    """A hand-over whose record was lost with its process; without a death it is one too many."""
    message, receiver = records.somebody("HANDLED")
    for what in ("handed over", "finished"):
        records.ask(
            receiver,
            "UPDATE event SET more = json_set(more, '$.attempt', 2, '$.redelivered', json('true'))"
            " WHERE what = ? AND message = ?",
            what, message,
        )  # fmt: skip
    for what in ("outcome", "found"):
        query = "UPDATE event SET more = json_set(more, '$.attempts', 2) WHERE what = ? AND message = ?"
        records.ask(message[:4], query, what, message)
    assert [line for line in judge(records.paths).broken if f"'{message}'" in line]
    # The process died after the message was sent, and before it was handed over.
    serial = records.ask(receiver, "SELECT min(serial) FROM event WHERE what = 'handed over' AND message = ?", message)
    records.ask(receiver, "UPDATE sent SET serial = -serial")
    records.ask(receiver, "UPDATE event SET serial = -serial")
    records.ask(receiver, "UPDATE sent SET serial = CASE WHEN -serial >= ? THEN 1 ELSE 0 END - serial", *serial[0])
    records.ask(receiver, "UPDATE event SET serial = CASE WHEN -serial >= ? THEN 1 ELSE 0 END - serial", *serial[0])
    records.ask(
        receiver,
        "INSERT INTO event SELECT ?, at_us, 'start', NULL, (SELECT more FROM event WHERE what = 'start') FROM event"
        " WHERE serial = ? + 1",
        *serial[0], *serial[0],
    )  # fmt: skip
    assert not [line for line in judge(records.paths).broken if f"'{message}'" in line]


# ------------------------------------------------------------------------------------------------------- growth


def test_what_grows_through_a_run_is_found() -> None:
    """Memory that goes up and down does not; one that leaks half a megabyte a minute does, and so do descriptors."""

    def samples(node: str, leak_bytes: int, leak_descriptors: float) -> list[Sample]:
        found = []
        for at_s in range(0, 7200, 10):
            rss_bytes = (30 << 20) + at_s % 60 * 1000 + at_s * leak_bytes // 60
            store_bytes = (5 << 20) + at_s % 300 * 1000
            found.append(Sample(at_s, node, rss_bytes, 30 + int(at_s * leak_descriptors), store_bytes, at_s))
        return found

    found = growth(samples("sound", 0, 0) + samples("leaks", 1 << 19, 0.01))
    assert {(each.node, each.figure) for each in found if each.is_too_much} == {
        ("leaks", "rss_bytes"), ("leaks", "descriptors"),
    }  # fmt: skip
