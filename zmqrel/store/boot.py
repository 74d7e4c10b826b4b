"""Which boot of the machine this is, and where its boot-time clock stands for this process."""

from functools import lru_cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CLOCK_OFFSETS = Path("/proc/self/timens_offsets")


def boot_id() -> str:
    """Return what tells this boot of the machine from every other, or "" where the system does not say.

    Without it every unclean stop has to be taken for a reboot: the safe side. The time of booting would serve
    as a substitute if it were not computed from a wall clock that may be stepped.
    """
    try:
        return _read(_BOOT_ID)
    except (OSError, ValueError):
        return ""


def boot_clock_offset_us() -> int:
    """How far the boot-time clock that this process reads is ahead of the machine's, in microseconds.

    Not 0 in a container with a time namespace of its own, as one is that was restored from a checkpoint.
    """
    try:
        lines = _read(_CLOCK_OFFSETS).splitlines()
        seconds, nanoseconds = next(line.split()[1:] for line in lines if line.startswith("boottime"))
    except (OSError, ValueError, StopIteration):
        return 0  # no such thing as time namespaces
    return int(seconds) * 1_000_000 + int(nanoseconds) // 1000


@lru_cache
def _read(path: Path) -> str:
    # Once: a process that has run out of descriptors is still in the same boot.
    return path.read_text(encoding="ascii").strip()
