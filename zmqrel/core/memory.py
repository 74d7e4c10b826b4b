"""Whether a peer is remembered."""

from enum import Enum


class Memory(Enum):
    """Whether the peer was forgotten."""

    KEPT = 0
    FORGETTING = 1
    """What waits for it is being ended, a part in each turn, also in the next life."""
    LEFTOVERS = 2
    """Its messages in the inbox, or outcomes of what was sent to it, are still kept."""
