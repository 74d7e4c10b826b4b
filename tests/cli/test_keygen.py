"""`zmqrel keygen`, and the commands that are given its keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.commands import assert_one_line, called, one
from zmqrel.runtime import keys


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_pair_is_made_that_others_cannot_read(tmp_path: Path, there: bool, umask: int) -> None:
    directory = tmp_path / "deep" / "own"
    if there:
        directory.mkdir(parents=True)
        directory.chmod(0o755)
    before = os.umask(umask)
    try:
        made = called("keygen", directory)
    finally:
        os.umask(before)
    assert made.returncode == 0, made.stderr
    assert mode(directory / "secret.key") == 0o600
    assert mode(directory) == (0o755 if there else 0o700)
    assert mode(directory / "peers") == 0o700
    public = keys.read_public(directory / "public.key").decode()
    assert made.stdout.splitlines()[0] == f"{directory}/public.key: {public}"
    assert "peers/NAME" in made.stdout
    secret = (directory / "secret.key").read_text().splitlines()[-1]
    assert secret not in made.stdout
    assert keys.KeyDirectory(directory).own.secret.decode() == secret


def test_a_secret_key_is_never_overwritten(tmp_path: Path) -> None:
    first = one("keygen", "keygen", tmp_path / "a")
    assert first["made"] is True
    content = (tmp_path / "a" / "secret.key").read_bytes()
    again = called("keygen", tmp_path / "a")
    assert again.returncode == 1
    assert_one_line(again.stderr)
    assert "is not overwritten" in again.stderr
    (tmp_path / "a" / "public.key").unlink()
    one("keygen", "keygen", tmp_path / "b")
    added = one("keygen", "keygen", tmp_path / "a", "--peer", f"b={tmp_path / 'b'}")
    assert added == first | {"made": False, "peers": ["b"]}
    assert (tmp_path / "a" / "secret.key").read_bytes() == content
    assert keys.read_public(tmp_path / "a" / "public.key").decode() == first["public_key"]  # made again from the secret


def test_peers_are_named_by_file_or_directory(tmp_path: Path) -> None:
    b, c = (one("keygen", "keygen", tmp_path / name)["public_key"] for name in "bc")
    pairs = ("--peer", f"b={tmp_path}/b", "--peer", f"c={tmp_path}/c/public.key")
    assert one("keygen", "keygen", tmp_path / "a", *pairs)["peers"] == ["b", "c"]
    assert [keys.read_public(tmp_path / "a" / "peers" / name).decode() for name in "bc"] == [b, c]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["peers", "public.key", "secret.key"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["a", "--peer", "b"], 2, "--peer takes NAME=PUBLICKEY"),
        (["a", "--peer", "b="], 2, "--peer takes NAME=PUBLICKEY"),
        (["a", "--peer", "b=nowhere"], 2, "--peer b: nowhere is not there"),
        (["a", "--peer", "b b=other"], 2, "the name of a peer takes"),
        (["a", "--peer", "b=other/secret.key"], 2, "--peer b: other/secret.key: it is a secret key"),
        (["a", "--peer", "b=garbage"], 2, "--peer b: garbage: it holds no key"),
        (["other", "--peer", "b=other"], 2, "is the one of other itself"),
        (["open"], 2, "others may write to it"),
        (["garbage"], 2, "garbage cannot be made, a file is in the way"),
        (["garbage/a"], 2, "garbage/a cannot be made, a file is in the way"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    keys.generate(Path("other"))
    Path("garbage").write_bytes(b"\x00\xff")
    Path("open").mkdir()
    Path("open").chmod(0o777)
    ended = called("keygen", *arguments)
    assert ended.returncode == status, ended.stderr
    assert_one_line(ended.stderr)
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "b", "x", "--name", "a", "--keys", "nowhere"], "nowhere is no directory; zmqrel keygen"),
        (["send", "b", "x", "--keys", "own"], "--keys needs --name"),
        (["send", "b", "x", "--name", "a", "--keys", "own"], "own/peers/b is to hold the public key of peer 'b'"),
        (["listen", "b", "--bind", "tcp://127.0.0.1:*", "--keys", "nowhere"], "nowhere is no directory; zmqrel keygen"),
    ],
)
def test_keys_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    keys.generate(Path("own"))
    ended = called(*arguments)
    assert ended.returncode in (1, 2)
    assert_one_line(ended.stderr)
    assert said in ended.stderr
