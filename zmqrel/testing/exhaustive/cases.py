"""The small cases that are searched, by name."""

from __future__ import annotations

from zmqrel.testing.exhaustive.case import B, Budget, Case

_CALM = Budget(0, 0, 0, 0)
_WIRE = Budget(drops=1, duplicates=1, reconnects=1, crashes=0)
_CRASH = Budget(0, 0, 0, crashes=1)

_EACH = Budget(drops=1, duplicates=1, reconnects=1, crashes=1)
_ALL_FAULTS = 8

CASES: dict[str, tuple[str, Case]] = {
    "one": ("one message that is recalled and expires, one fault of any kind", Case(messages=1, faults=1)),
    "one-b": ("the same, but the receiver dials", Case(messages=1, faults=1, dialler=B)),
    "one-from-start": (
        "one message that is recalled and expires, from the first HELLO on, one fault of any kind",
        Case(messages=1, faults=1, connected=False),
    ),
    "two-same": (
        "two messages, the second one is recalled and expires; no faults",
        Case(recalled=1, faults=0),
    ),
    "two-wire": (
        "two messages, the first one is recalled, the second one expires; a frame is lost or comes twice, or the "
        "connection is made anew",
        Case(faults=1, budgets=(_WIRE, _WIRE)),
    ),
    "two-crash-a": ("the same two messages; their sender crashes", Case(faults=1, budgets=(_CRASH, _CALM))),
    "two-crash-b": ("the same two messages; their receiver crashes", Case(faults=1, budgets=(_CALM, _CRASH))),
    "one-twice": ("one message that is recalled and expires, two faults of any kind", Case(messages=1, faults=2)),
    "two-crashes": (
        "two messages, the first one is recalled, the second one expires; each side crashes",
        Case(faults=2, budgets=(_CRASH, _CRASH)),
    ),
    "all": (
        "the same two messages; each side may crash, lose a frame, see one twice, and connect anew, in one run",
        Case(faults=_ALL_FAULTS, budgets=(_EACH, _EACH)),
    ),
}
"""Name -> what it is, and the case."""
