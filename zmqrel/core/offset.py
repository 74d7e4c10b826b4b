"""How far another peer's store clock is from ours, by the NTP rule (RFC 5905, section 8).

A reading counts only if our own reading was echoed to us: then the error is at most half of the round trip,
however long the reading waited in a socket (F12). Of the last few samples the one with the best round trip
is used; an older one counts as worse by the drift that two clocks may have gathered since.
"""

from __future__ import annotations

_KEPT = 8
_DRIFT_PPM = 100
"""Two quartz clocks of ordinary machines, each at most 50 ppm off."""


class ClockOffset:
    """Samples of one peer. `offset_us` is their clock minus ours, None until known."""

    __slots__ = ("_samples", "error_us", "offset_us")

    def __init__(self, persisted_us: int | None = None) -> None:
        self.offset_us = persisted_us
        self.error_us: int | None = None
        self._samples: list[tuple[int, int, int]] = []
        """The latest ones. A deque takes 600 bytes more, for each of a thousand idle peers."""

    def sample(self, sent_us: int, received_there_us: int, sent_there_us: int, received_us: int) -> None:
        """Take one exchange: sent here, received there, sent back there, received here (microseconds)."""
        round_trip = (received_us - sent_us) - (sent_there_us - received_there_us)
        if round_trip < 0 or received_us < sent_us:
            return
        offset = ((received_there_us - sent_us) + (sent_there_us - received_us)) // 2
        self._samples.append((received_us, round_trip, offset))
        del self._samples[:-_KEPT]
        best = min(self._samples, key=lambda s: s[1] + (received_us - s[0]) * 2 * _DRIFT_PPM // 1_000_000)
        self.offset_us = best[2]
        self.error_us = best[1] // 2

    def forget_samples(self) -> None:
        """The other's clock may have been set anew: keep the estimate until there is a new sample."""
        self._samples.clear()

    def to_local(self, their_us: int) -> int | None:
        """A point of their clock by ours, None while the offset is not known."""
        return None if self.offset_us is None else their_us - self.offset_us
