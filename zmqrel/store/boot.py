"""Which boot of the machine this is."""

from functools import lru_cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return what tells this boot of the machine from every other, or "" where the system does not say.

    Without it every unclean stop has to be taken for a reboot: the safe side. The time of booting would serve
    as a substitute if it were not computed from a wall clock that may be stepped.
    """
    try:
        return _read(_BOOT_ID)
    except (OSError, ValueError):
        return ""


@lru_cache
def _read(path: Path) -> str:
    # Once: a process that has run out of descriptors is still in the same boot.
    return path.read_text(encoding="ascii").strip()
