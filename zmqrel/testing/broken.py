"""What every checker raises."""

from __future__ import annotations

from typing import Any


class PromiseBroken(AssertionError):
    """A peer did what no peer may do."""

    def __init__(self, what: str, body: Any = None) -> None:
        """`body` is that of the message which was treated so, if it is one."""
        super().__init__(what)
        self.body = body
