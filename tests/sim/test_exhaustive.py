"""The exhaustive search: it goes through the sound core without finding anything, and finds deliberate bugs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.sim.mutants import ROOT
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive import oracle, snapshot
from zmqrel.testing.exhaustive.__main__ import main
from zmqrel.testing.exhaustive.case import Case, Moves
from zmqrel.testing.exhaustive.cases import CASES
from zmqrel.testing.exhaustive.oracle import History
from zmqrel.testing.exhaustive.process import Observed
from zmqrel.testing.exhaustive.search import Search

WITH_A_BUG = (
    "import sys; from tests.sim.mutants import MUTANTS, infect; infect(MUTANTS[sys.argv[1]]); "
    "from zmqrel.testing.exhaustive.__main__ import main; sys.exit(main(sys.argv[2:]))"
)


@pytest.mark.parametrize("name", CASES)
def test_the_beginning_of_each_case_breaks_no_promise(name: str) -> None:
    found = Search(CASES[name][1], limit=1_500, settle_every=20).run()
    assert found.broken is None, f"{found.broken}: {' '.join(found.path)}"
    assert found.states >= 1_500


def test_one_message_without_faults_in_every_order() -> None:
    found = Search(Case(messages=1, faults=0), settle_every=5).run()
    assert found.broken is None, f"{found.broken}: {' '.join(found.path)}"
    assert found.complete
    assert found.settled == found.quiet // 5 > 20
    assert set(found.outcomes) == {"HANDLED", "EXPIRED", "RECALLED"}


@pytest.mark.parametrize("case", [Case(messages=1, faults=0), Case(messages=1, faults=0, dialler=1)])
def test_orders_that_are_not_looked_at_show_nothing_else(case: Case) -> None:
    none = 10**9  # what follows from quiet states is not compared: there are more of them in every order
    reduced, every = (Search(case, reduce=reduce, settle_every=none).run() for reduce in (True, False))
    assert reduced.complete
    assert every.complete
    assert reduced.states < every.states
    # Each process goes through the same states, for the same reasons.
    assert (reduced.process_states, reduced.core_runs) == (every.process_states, every.core_runs)


@pytest.mark.parametrize(
    "bug",
    [
        "sent_upto is not kept (F1)",
        "the floor is one too high",
        "the floor is not committed with the entries",
        "the sender decides about what it has sent",
        "a session begins behind the first entry that matters",
        "a crash does not count as an attempt (F9)",
        "nothing is sent again",
    ],
)
def test_a_bug_is_found_on_a_short_path_that_can_be_replayed(bug: str) -> None:
    said = _run(bug, "one", "--jobs", "1", "--limit", "20000")
    assert said.returncode == 1, said.stdout + said.stderr
    replay = re.search(r"replay: python -m zmqrel.testing.exhaustive (\S+) --replay '(.+)'", said.stdout)
    assert replay is not None, said.stdout
    assert len(replay[2].split()) <= 10
    again = _run(bug, replay[1], "--replay", replay[2])
    assert again.returncode == 1
    assert "BROKEN" in again.stdout
    assert main([replay[1], "--replay", replay[2]]) == 0  # the sound core does nothing wrong there


def _run(bug: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITH_A_BUG, bug, *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def test_a_state_can_be_gone_back_to() -> None:
    moves = Moves(Case(messages=1))
    state = moves.first
    for action in ("a.send", "b.frame", "b.take", "b.finish"):
        before = dict(moves.all(state))
        state = before[action]()
        assert before[action]() == state
    # A copy goes on for itself: what it does is not seen in the one that it was made from.
    process = snapshot.restore(moves.steps._snapshots[state.sides[1].process])
    as_it_was = snapshot.digest(process)
    copy = snapshot.restore(snapshot.take(process))
    assert snapshot.digest(copy) == as_it_was
    copy.turn(0)
    assert snapshot.digest(copy) != as_it_was
    assert snapshot.digest(process) == as_it_was


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one", "two-same", "--limit", "300", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^6\d\d distinct states, .*: no promise is broken; 2 searches ended at the limit$", said, re.M)
    assert main(["one", "--limit", "50", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 case, 1 at a time\n")
    assert said.endswith("; 1 search ended at the limit\n")
    assert main(["one", "--replay", "a.send b.frame b.take b.crash b.start settle"]) == 0
    assert "message 1: attempts=2" in capsys.readouterr().out
    assert main(["one", "--replay", "b.take"]) == 2
    assert "b.take: not possible here" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["--jobs", "0"], ["--limit", "x"], ["one", "two-same", "--replay", "a.send"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "_positive" not in said


HANDED = Observed("handed over", 0, (1, False, 0))
AGAIN = Observed("handed over", 0, (2, True, 0))
ACCEPTED = Observed("accepted", 0, (10,))
FINISHED, SETTLED = Observed("finished", 0), Observed("settled", 0)


@pytest.mark.parametrize(
    ("observed", "now_us", "broken"),
    [
        ([HANDED], 10, None),
        ([HANDED], 11, "1 us after its deadline"),
        ([HANDED, HANDED], 0, "a second time"),
        ([HANDED, FINISHED, AGAIN], 0, "a second time"),
        ([AGAIN], 0, "redelivered=True, after 0"),
        ([Observed("handed over", 0, (2, False, 0))], 0, "as attempt 2, after 0"),
        ([Observed("accepted", 1, (0,)), Observed("handed over", 1, (1, False, 0)), HANDED], 0, "behind a message"),
    ],
)
def test_hand_overs_are_judged(observed: list[Observed], now_us: int, broken: str | None) -> None:
    if broken is None:
        oracle.judge((), [ACCEPTED, *observed], now_us)
        return
    with pytest.raises(PromiseBroken, match=broken):
        oracle.judge((), [ACCEPTED, *observed], now_us)


def test_what_died_with_its_process_comes_again() -> None:
    histories = oracle.receiver_died(oracle.judge((), [ACCEPTED, HANDED, FINISHED], 0))
    assert oracle.judge(histories, [AGAIN], 0)[0].attempts == 2
    settled = oracle.receiver_died(oracle.judge((), [ACCEPTED, HANDED, FINISHED, SETTLED], 0))
    with pytest.raises(PromiseBroken, match="a second time"):
        oracle.judge(settled, [AGAIN], 0)


@pytest.mark.parametrize(
    ("history", "outcome", "recalled", "now_us", "broken"),
    [
        (History(10), "EXPIRED", -1, 11, None),
        (History(10), "EXPIRED", -1, 10, "before its deadline"),
        (History(0), "EXPIRED", -1, 11, "before its deadline"),
        (History(0), "RECALLED", 0, 0, None),
        (History(0), "RECALLED", -1, 0, "nobody recalled it"),
        (History(0, attempts=1, phase=oracle.RUNNING), "RECALLED", 0, 0, "was handed over"),
        (History(10, attempts=1, phase=oracle.RUNNING), "EXPIRED", 0, 11, "was handed over"),
        (History(0, attempts=1, phase=oracle.SETTLED), "HANDLED", -1, 0, None),
        (History(0, attempts=1, phase=oracle.FINISHED), "HANDLED", -1, 0, "no acknowledgement"),
        (History(0, attempts=1, phase=oracle.INTERRUPTED), "EXHAUSTED", 0, 0, None),
        (History(0, attempts=1, phase=oracle.INTERRUPTED), "EXHAUSTED", -1, 0, "no attempt failed"),
        (History(0), "UNCERTAIN", 0, 0, "no store was lost"),
        (History(0, outcome="RECALLED"), "HANDLED", 0, 0, "ended RECALLED and is HANDLED"),
        (History(0, outcome="RECALLED"), "", 0, 0, "ended RECALLED and is not ended"),
    ],
)
def test_outcomes_are_judged(history: History, outcome: str, recalled: int, now_us: int, broken: str | None) -> None:
    if broken is None:
        assert oracle.judge_outcomes((history,), (outcome,), recalled, now_us)[0].outcome == outcome
        return
    with pytest.raises(PromiseBroken, match=broken):
        oracle.judge_outcomes((history,), (outcome,), recalled, now_us)


def test_nothing_is_handed_over_after_its_end() -> None:
    histories = oracle.judge_outcomes((History(0),), ("RECALLED",), 0, 0)
    with pytest.raises(PromiseBroken, match="after it ended RECALLED"):
        oracle.judge(histories, [HANDED], 0)
