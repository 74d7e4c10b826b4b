"""What happens on a path of actions, in words."""

from __future__ import annotations

from collections.abc import Sequence

from zmqrel.core import frames
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.exhaustive.case import MOST_ROUNDS, NAMES, SETTLE, Case, Moves, State

_WORDS = {
    "start": "starts",
    "lose": "is never reached by the next frame",
    "drop": "is never reached by the next frame, though the connection stays",
    "take": "hands the next message over",
    "finish": "has handled its message",
    "frame": "takes a frame",
    "twice": "takes a frame that will come once more",
    "copy": "takes the second copy of a frame",
    "send": "accepts a message",
    "recall": "is told to recall",
    "turn": "does what is due",
    "wait": "does what is due next, time passes",
    "reconnect": "has its connection break and made anew",
    "crash": "dies",
    "late": "has its clock pass the deadline",
}


def told(case: Case, actions: Sequence[str]) -> list[str]:
    """A line for each action: its name, what it is, the frames that it sends and what is seen. Ends where it breaks."""
    moves = Moves(case)
    state = moves.first
    lines: list[str] = []
    for action in actions:
        if action == SETTLE:
            return [*lines, *_settled(moves, state)]
        acts = dict(moves.all(state))
        if action not in acts:
            return [*lines, f"{action}: not possible here; possible are {', '.join(acts)}, {SETTLE}"]
        try:
            after = acts[action]()
        except PromiseBroken as broken:
            return [*lines, f"{action}: {_in_words(action)}: BROKEN: {broken}"]
        lines.append(_line(moves, action, state, after))
        state = after
    return lines


def _settled(moves: Moves, state: State) -> list[str]:
    """A line for each action from here to the end, if nothing goes wrong any more."""
    state = moves.without_faults(state)
    lines: list[str] = []
    while not moves.is_over(state):
        if len(lines) == MOST_ROUNDS:
            return [*lines, f"BROKEN: {moves.what_is_left(state)}"]
        try:
            action, after = moves.next_action(state)
        except PromiseBroken as broken:
            return [*lines, f"BROKEN: {broken}"]
        lines.append(_line(moves, action, state, after))
        state = after
    return lines


def _line(moves: Moves, action: str, before: State, after: State) -> str:
    at_us = max(side.now_us for side in after.sides)
    return f"{at_us / 1000:9.3f} ms  {action}: {_in_words(action)}{_difference(moves, before, after)}"


def _in_words(action: str) -> str:
    name, _, what = action.partition(".")
    kind, _, death = what.partition("/")
    dies = {"": "", "before": ", and dies before its commit", "after": ", commits and dies before anybody hears of it"}
    return f"{name} {_WORDS[kind]}{dies[death]}"


def _difference(moves: Moves, before: State, after: State) -> str:
    said = []
    for at, name in enumerate(NAMES):
        old, new = before.sides[at].end.arrivals, after.sides[at].end.arrivals
        sent = new[len(old) - (len(new) < len(old)) :] if len(new) > len(old) else ()
        for arrival in sent:
            said.append(f"{_frame(moves.steps.frames[arrival.frame])} -> {name}")
    for number, history in enumerate(after.histories):
        if number >= len(before.histories):
            said.append(f"message {number + 1} is accepted")
        elif history != before.histories[number]:
            said.append(f"message {number + 1}: attempts={history.attempts}, outcome={history.outcome or 'none'}")
    return f" [{'; '.join(said)}]" if said else ""


def _frame(parts: tuple[bytes, ...]) -> str:
    frame = frames.decode(list(parts))
    name = frames.FRAME_NAMES[frame.type]
    if frame.type == frames.DATA:
        data: frames.Data = frame.fields[0]
        return f"{name} {data.queue or 'control'} {data.first_seq}.. {data.runs}"
    if frame.type == frames.ACK:
        return f"{name} {', '.join(f'up to {ack.floor}' for ack in frame.fields[0])}"
    return name
