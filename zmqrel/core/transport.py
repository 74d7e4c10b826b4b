"""What the core asks of whoever owns the sockets: the system knows more of a connection than frames tell."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """The connections under the links. Asked now and then, when something has taken long."""

    def quiet_us(self, link: int) -> int | None:
        """For how long not even a part of a frame has come over the link, microseconds; None if that is not known."""
        ...

    def is_sending(self, link: int) -> bool:
        """Whether some of what was sent over the link has not arrived at the other machine; False if nobody knows."""
        ...
