"""What the two applications may see, judged without any knowledge of the core, in every transition.

The history of a message is a tuple of plain values, for it is part of the state of a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive.process import Observed

NEVER, RUNNING, FINISHED, SETTLED, INTERRUPTED = range(5)
"""Never handed over; with the handler; the handler has returned; and its receiver has committed that; or its receiver's
process died before it did."""


class History(NamedTuple):
    """What was seen of an accepted message."""

    deadline_us: int
    """0 without one."""
    outcome: str = ""
    """As `receipt(id)` tells it, "" as long as there is none."""
    attempts: int = 0
    """Hand-overs."""
    phase: int = NEVER


Histories = tuple[History, ...]
"""Of the messages in the order of their acceptance."""


def judge(histories: Histories, observed: Sequence[Observed], now_us: int) -> Histories:
    """Return the histories with what was observed. Raises PromiseBroken."""
    for what, number, detail in observed:
        if what == "accepted":
            if number != len(histories):
                raise _broken(number, "is accepted out of order")
            histories = (*histories, History(*detail))
            continue
        history = histories[number]
        if what == "handed over":
            history = _handed_over(histories, number, now_us, *detail)
        elif what == "finished":
            history = history._replace(phase=FINISHED)
        elif what == "settled" and history.phase == FINISHED:
            history = history._replace(phase=SETTLED)
        histories = (*histories[:number], history, *histories[number + 1 :])
    return histories


def _handed_over(
    histories: Histories, number: int, now_us: int, attempt: int, redelivered: bool, clock_error_us: int
) -> History:
    """Promises 4, 5, 7 and 8."""
    history = histories[number]
    if history.outcome:
        raise _broken(number, f"is handed over after it ended {history.outcome}")
    if history.phase not in (NEVER, INTERRUPTED):
        raise _broken(number, "is handed over a second time though its receiver did not die")
    if redelivered != (history.phase == INTERRUPTED):
        raise _broken(number, f"is handed over with redelivered={redelivered}, after {history.attempts} hand-overs")
    if attempt != history.attempts + 1:
        raise _broken(number, f"is handed over as attempt {attempt}, after {history.attempts} hand-overs")
    if history.deadline_us and now_us > history.deadline_us + clock_error_us:
        raise _broken(number, f"is handed over {now_us - history.deadline_us} us after its deadline")
    if not history.attempts and any(later.attempts for later in histories[number + 1 :]):
        raise _broken(number, "is handed over for the first time behind a message that was sent after it")
    return history._replace(attempts=attempt, phase=RUNNING)


def receiver_died(histories: Histories) -> Histories:
    """Return the histories after the receiver's process died."""
    return tuple(
        history._replace(phase=INTERRUPTED) if history.phase in (RUNNING, FINISHED) else history
        for history in histories
    )


def judge_outcomes(histories: Histories, outcomes: Sequence[str], recalled: int, now_us: int) -> Histories:
    """Return the histories with what `receipt(id)` says now.

    `recalled` is the number of the message whose recall was committed, -1 if there is none. Raises PromiseBroken.
    """
    judged = list(histories)
    for number, (history, outcome) in enumerate(zip(histories, outcomes, strict=False)):
        if outcome == history.outcome:
            continue
        if history.outcome:
            raise _broken(number, f"ended {history.outcome} and is {outcome or 'not ended'} now")
        _check_outcome(number, history, outcome, recalled == number, now_us)
        judged[number] = history._replace(outcome=outcome)
    return tuple(judged)


def _check_outcome(number: int, history: History, outcome: str, recalled: bool, now_us: int) -> None:
    """Promises 2, 6, 7 and 8."""
    late = bool(history.deadline_us) and now_us > history.deadline_us
    if outcome in ("RECALLED", "EXPIRED") and history.attempts:
        raise _broken(number, f"ends {outcome} though it was handed over")
    if outcome == "HANDLED" and history.phase != SETTLED:
        raise _broken(number, "ends HANDLED though no acknowledgement of its handler was committed")
    if outcome == "RECALLED" and not recalled:
        raise _broken(number, "ends RECALLED though nobody recalled it")
    if outcome == "EXPIRED" and not late:
        raise _broken(number, "ends EXPIRED before its deadline")
    if outcome == "EXHAUSTED" and not (history.attempts and (recalled or late)):
        raise _broken(number, "ends EXHAUSTED though no attempt failed")
    if outcome in ("REJECTED", "UNCERTAIN"):
        raise _broken(number, f"ends {outcome} though nobody refused it and no store was lost")


def _broken(number: int, what: str) -> PromiseBroken:
    return PromiseBroken(f"message {number + 1} {what}")
