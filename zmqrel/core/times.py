"""What a reading of the clocks is. Reading them is the business of the runtime and of the simulator."""

from typing import NamedTuple


class Now(NamedTuple):
    """One reading of both clocks, in microseconds. Neither ever steps or goes backwards within one life.

    `mono_us` runs from an arbitrary zero: backoff, liveness and heartbeats. `store_us` counts roughly from
    1970 and goes on across restarts and, where the system allows, suspends: deadlines, delays and PING
    readings.
    """

    mono_us: int
    store_us: int
