"""Whatever the umask: what a peer makes is its owner's alone, from the moment at which it is there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
import os, sys
os.umask(int(sys.argv[1], 8))
import zmqrel
with zmqrel.Peer("b", "data/deep/store", bind="ipc://b.sock", durability=sys.argv[2], peers={"a": None}) as peer:
    peer.send("a", "x")
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _running(place: Path, umask: str, durability: str) -> Iterator[subprocess.Popen[str]]:
    """A process with that umask whose peer is started in `place`."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, umask, durability],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child


@pytest.mark.parametrize("durability", ["fsync", "relaxed"])
@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_what_a_peer_makes_is_its_owners_alone(tmp_path: Path, umask: str, durability: str) -> None:
    with _running(tmp_path, umask, durability) as child:
        found = {path: path.lstat().st_mode for path in tmp_path.rglob("*")}
        child.communicate(timeout=60)
    for path, mode in found.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), path
    names = {path.name for path in found}
    assert {"data", "deep", "store", "data.mdb", "life", "lock", "in-hand", "control", "b.sock"} <= names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_can_connect_to_its_sockets(tmp_path: Path) -> None:
    """Were the directories around them open."""
    with _running(tmp_path, "000", "fsync") as child:
        for path in (tmp_path, *tmp_path.parents, *(p for p in tmp_path.rglob("*") if p.is_dir())):
            if path.stat().st_uid == 0 and path != Path("/"):
                path.chmod(0o755)
        program = (
            "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            "print(s.connect_ex(sys.argv[1]))"
        )
        for name in ("b.sock", "data/deep/store/control"):
            tried = subprocess.run(
                [sys.executable, "-c", program, name],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            assert tried.stdout == "13\n", "EACCES"
        child.communicate(timeout=60)
