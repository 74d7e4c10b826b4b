"""How fast runs go: virtual seconds for each second of one core."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import process_time


@dataclass(slots=True)
class Pace:
    """Of one run, or of several added up."""

    virtual_s: float = 0.0
    core_s: float = 0.0
    loaded_virtual_s: float = 0.0
    """While there were sends and faults, without the quiet end."""
    loaded_core_s: float = 0.0
    _began_s: float = field(default_factory=process_time)

    def calms_down(self, virtual_s: float) -> None:
        """The quiet end of the run begins at this virtual time."""
        self.loaded_virtual_s, self.loaded_core_s = virtual_s, process_time() - self._began_s

    def ends(self, virtual_s: float) -> None:
        """The run ends at this virtual time."""
        self.virtual_s, self.core_s = virtual_s, process_time() - self._began_s

    def __add__(self, other: Pace) -> Pace:
        """Both together."""
        return Pace(
            self.virtual_s + other.virtual_s,
            self.core_s + other.core_s,
            self.loaded_virtual_s + other.loaded_virtual_s,
            self.loaded_core_s + other.loaded_core_s,
        )

    @property
    def rate(self) -> float:
        """Virtual seconds for each second of one core."""
        return self.virtual_s / max(self.core_s, 1e-9)

    @property
    def loaded_rate(self) -> float:
        """Likewise, without the quiet ends."""
        return self.loaded_virtual_s / max(self.loaded_core_s, 1e-9)

    def __str__(self) -> str:
        """In a line."""
        return (
            f"{self.virtual_s:.1f} virtual seconds in {self.core_s:.1f} s of one core: "
            f"{self.rate:.0f} times real time, {self.loaded_rate:.0f} times without the quiet ends"
        )
