"""A disk of a known size, for those who want to fill it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(disk: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes in memory, mounted at a new folder; where it cannot be, the test is skipped."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a disk of a known size can be mounted by root only")
    if (tried := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"no disk of a known size: {tried.stderr.strip()}")
    try:
        yield disk
    finally:
        # Lazily: what a failed test still has open must not keep it.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
