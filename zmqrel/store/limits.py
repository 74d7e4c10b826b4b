"""What the system refuses a process though its store is sound and its disk has room: descriptors and memory.

Such an error says nothing about a file. Taken for damage it would have an operator put a copy back, or, where a damaged
store is set aside by itself, take a good one away.
"""

from __future__ import annotations

import errno
from typing import Final

_DESCRIPTORS: Final = "close some files, or raise their limit (ulimit -n)"
_REMEDIES: Final = {
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ENOMEM: "give the process more memory, or raise its limit (ulimit -v)",
}


def remedy(number: int | None) -> str | None:
    """Return what helps against an errno that tells of a limit of the process or the system, None for any other."""
    return _REMEDIES.get(number or 0)
