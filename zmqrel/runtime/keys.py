"""A directory of keys: the own pair, and the public keys of those who may connect and be connected to.

    DIR/secret.key      the own secret key: mode 0600, of the user who runs the peer
    DIR/public.key      the own public key, to be given to the others
    DIR/peers/NAME      the public key of peer NAME

Each is a text file: one line is the key, 40 characters in Z85 (ZeroMQ RFC 32); lines that begin with "# " are comments.
Only the secret one is needed: the public key is made from it. Whoever may write here decides who gets in, so a place
that others may write to is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, time
from typing import BinaryIO, Final, NamedTuple

import zmq
from zmq.utils import z85

from zmqrel.checks import check_name
from zmqrel.errors import ConfigError

SECRET: Final = "secret.key"
PUBLIC: Final = "public.key"
PEERS: Final = "peers"

LOOK_S: Final = 0.5
"""How often to look for key files that came, changed or went."""
_LOOK_SHARE: Final = 50
"""A look at many files takes its time: it is 1/50 of the I/O thread's at most."""
_SETTLED_S: Final = 2.0
"""File systems keep times in steps. A file that was written so recently may be written again in the same step."""

_KEY_LENGTH: Final = 40
_KEY_BYTES: Final = 32
_LARGEST_FILE: Final = 4096
_SAYS_SECRET: Final = "# The secret key of a zmqrel peer. Nobody else may have it."
_SAYS_PUBLIC: Final = "# The public key of a zmqrel peer, to be given to others."
_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_OF_THE_FILE: Final = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EACCES)
"""What is wrong with a link, and not with the system."""


class Pair(NamedTuple):
    """The own keys, in Z85."""

    public: bytes
    secret: bytes


class Changes(NamedTuple):
    """What a look at the directory found, as sorted names. A key that was replaced is in both of the first two."""

    gone: list[str]
    come: list[str]
    broken: list[tuple[str, str]]
    """Files that are no key, and why; each is told once."""


class KeyDirectory:
    """The keys of one peer while it runs. Opened and looked at by one thread; `of` and `name_of` may be asked by any.

    Raises ConfigError if the own key is not there, is no key, or could be read by others.
    """

    own: Pair

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        _check_enabled()
        _check_directory(directory)
        self.own = _read_pair(directory)
        self._seen: dict[str, tuple[int, ...]] = {}
        """What each file was like when it was read; without those that may still be written."""
        self._read: dict[str, bytes | str] = {}
        """What was in each file: a key, or what is wrong with it."""
        self._told: dict[str, str] = {}
        self._keys: Mapping[str, bytes] = {}
        self._names: Mapping[bytes, str] = {}
        self._look_at = 0.0
        if (directory / PEERS).exists():
            _check_place(directory / PEERS)

    def of(self, name: str) -> bytes | None:
        """The public key of a peer, in Z85."""
        return self._keys.get(name)

    def name_of(self, key: bytes) -> str | None:
        """Whose public key that is."""
        return self._names.get(key)

    def file_of(self, name: str) -> Path:
        """Where the key of a peer is looked for."""
        return self.directory / PEERS / name

    def require(self, name: str) -> None:
        """Raise ConfigError, naming peer and file, unless there is a key of this peer."""
        if name in self._keys:
            return
        wrong = self._told.get(name, "there is no such file")
        raise ConfigError(
            f"keys: {self.file_of(name)} is to hold the public key of peer {name!r}, but {wrong}; put a copy of its "
            f"{PUBLIC} there"
        )

    def look_in_s(self) -> float:
        """When to look again, in seconds from now."""
        return max(0.0, self._look_at - monotonic())

    def look(self, *, now: bool = False) -> Changes | None:
        """Look at the directory if it is time to, or `now`; what changed, None if nothing did."""
        began = monotonic()
        if not now and began < self._look_at:
            return None
        found = self._found()
        self._look_at = monotonic() + max(LOOK_S, _LOOK_SHARE * (monotonic() - began))
        return None if found is None else self._take(found)

    def _take(self, found: Mapping[str, bytes | str]) -> Changes | None:
        wrong = {name: value for name, value in found.items() if isinstance(value, str)}
        names: dict[bytes, str] = {}
        for name, value in sorted(found.items()):
            if isinstance(value, str):
                continue
            if value == self.own.public:
                wrong[name] = "it is this peer's own key"
            elif names.setdefault(value, name) != name:
                wrong[name] = f"it is the key of {names[value]!r} too, and a key has one name"
        keys = {name: key for key, name in names.items()}
        before = self._keys
        gone = sorted(name for name in before if keys.get(name) != before[name])
        come = sorted(name for name in keys if before.get(name) != keys[name])
        broken = sorted((name, why) for name, why in wrong.items() if self._told.get(name) != why)
        self._keys, self._names, self._told = keys, names, wrong
        return Changes(gone, come, broken) if gone or come or broken else None

    def _found(self) -> Mapping[str, bytes | str] | None:
        """What is in each file. None if nobody can tell, for want of a descriptor say: then all stays as it was."""
        place = self.directory / PEERS
        found: dict[str, bytes | str] = {}
        seen: dict[str, tuple[int, ...]] = {}
        try:
            try:
                # Nobody else can come near the files of a directory that is closed to them, but for those elsewhere.
                closed = not self.directory.stat().st_mode & 0o077 and not place.is_symlink()
                exposed = _exposed(self.directory) or _exposed(place)
                files = os.scandir(place)
            except (FileNotFoundError, NotADirectoryError):
                self._seen, self._read = {}, {}
                return {}
            with files:
                for file in files:
                    content = exposed or self._content(file, closed and not file.is_symlink(), seen)
                    if content is not None:
                        found[file.name] = content
                    else:
                        seen.pop(file.name, None)
        except OSError:
            return None
        self._seen, self._read = seen, found
        return found

    def _content(self, file: os.DirEntry[str], guarded: bool, seen: dict[str, tuple[int, ...]]) -> bytes | str | None:
        """A key, or what is wrong with the file; None if there is none any more."""
        try:
            status = file.stat()  # of what it links to
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _OF_THE_FILE:
                raise
            return f"it cannot be found: {error.strerror}"
        times = status.st_mtime_ns, status.st_ctime_ns
        looks = (status.st_dev, status.st_ino, status.st_size, *times, guarded)
        if time() - max(times) / 1e9 > _SETTLED_S:
            seen[file.name] = looks
        if self._seen.get(file.name) == looks:
            return self._read[file.name]
        try:
            check_name(file.name)
        except ConfigError:
            return "its name is that of no peer: 1 to 64 of a-z A-Z 0-9 . _ -"
        if not stat.S_ISREG(status.st_mode):
            return "it is no file"
        if not guarded and (wrong := _open_to_others(status)):
            return wrong
        try:
            return read_public(Path(file.path))
        except FileNotFoundError:
            return None
        except PermissionError as error:
            return f"it cannot be read: {error.strerror}"
        except ConfigError as error:
            return str(error)


def _exposed(directory: Path) -> str:
    """What is wrong with a directory that was opened to others since the start; empty if it was not."""
    try:
        _check_place(directory)
    except ConfigError as error:
        return str(error)
    return ""


def generate(directory: Path) -> bytes:
    """Make a pair of keys in a directory, which is made if it is not there; returns the public key, in Z85.

    Raises ConfigError if there is a secret key already, others may write there, or a file is in the way, and OSError.
    """
    _check_enabled()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{directory} cannot be made, a file is in the way; keys are kept in a directory") from None
    _check_place(directory)
    public, secret = zmq.curve_keypair()
    try:
        descriptor = os.open(directory / SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{directory / SECRET} is there: keys are not overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(_text(_SAYS_SECRET, secret))
        file.flush()
        os.fsync(file.fileno())
    _replace(directory, directory / PUBLIC, _text(_SAYS_PUBLIC, public))
    (directory / PEERS).mkdir(mode=0o700, exist_ok=True)
    return public


def ensured(directory: Path) -> bytes:
    """The public key of a directory, in Z85, whose pair is made if there is none. Raises ConfigError, OSError."""
    return own_public(directory) if (directory / SECRET).exists() else generate(directory)


def authorise(directory: Path, name: str, key: bytes) -> None:
    """Put the public key of a peer into a directory, in place of the one that is there. Raises ConfigError, OSError."""
    check_name(name, "the name of a peer")
    _check_place(directory)
    if key == _read_pair(directory).public:
        raise ConfigError(f"the key for peer {name!r} is the one of {directory} itself; it takes that of the other")
    (directory / PEERS).mkdir(mode=0o700, exist_ok=True)
    _replace(directory, directory / PEERS / name, _text(_SAYS_PUBLIC, key))


def own_public(directory: Path) -> bytes:
    """The public key of a directory's pair, in Z85; makes `public.key` again if it is gone. Raises ConfigError."""
    key = _read_pair(directory).public
    if not (directory / PUBLIC).exists():
        _replace(directory, directory / PUBLIC, _text(_SAYS_PUBLIC, key))
    return key


def read_public(path: Path) -> bytes:
    """The key in a file of a public key, in Z85. Raises ConfigError saying what is wrong with it, and OSError."""
    with path.open("rb") as file:
        text = _text_of(file)
    if _SAYS_SECRET in text.splitlines():
        raise ConfigError(f"it is a secret key: only {PUBLIC} is given away, and a secret others have seen is none")
    return _key_in(text)


def _text(comment: str, key: bytes) -> bytes:
    return f"{comment}\n{key.decode()}\n".encode()


def _replace(directory: Path, place: Path, text: bytes) -> None:
    """So that whoever reads it meanwhile finds the old or the new one."""
    new = directory / f".{place.name}.{os.getpid()}.new"  # not beside a peer's key, where it would be one
    new.write_bytes(text)
    new.chmod(0o644)
    new.replace(place)


def _text_of(file: BinaryIO) -> str:
    data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"it has more than {_LARGEST_FILE} bytes: that is no key")
    return data.decode("ascii", "replace")


def _key_in(text: str) -> bytes:
    lines = [line.strip() for line in text.splitlines()]
    # A key may begin with "#" too, but has no blanks.
    lines = [line for line in lines if line and line != "#" and not line.startswith("# ")]
    if len(lines) != 1 or not _is_key(lines[0]):
        raise ConfigError("it holds no key: one line of 40 characters in Z85, and comments that begin with '# '")
    return lines[0].encode()


def _is_key(line: str) -> bool:
    try:
        return len(line) == _KEY_LENGTH and len(z85.decode(line)) == _KEY_BYTES
    except (KeyError, ValueError, struct.error):  # another character, or five of them that are more than 32 bits
        return False


def _read_pair(directory: Path) -> Pair:
    path = directory / SECRET
    with _told_of(path), path.open("rb") as file:
        status = os.fstat(file.fileno())
        _check_owner(status)
        if status.st_mode & 0o077:
            raise ConfigError("others may read or write it: chmod 600")
        secret = _key_in(_text_of(file))
    public = zmq.curve_public(secret)
    with _told_of(directory / PUBLIC), suppress(FileNotFoundError):
        if read_public(directory / PUBLIC) != public:
            raise ConfigError(f"it is not the public key of {SECRET}: others who were given it cannot connect")
    return Pair(public, secret)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """ConfigErrors name the file; what the system refuses is one, too."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"keys: {path}: {error}") from None
    except FileNotFoundError:
        raise ConfigError(f"keys: {path} is not there; zmqrel keygen {path.parent} makes it") from None
    except OSError as error:
        raise ConfigError(f"keys: {path}: {error.strerror}") from None


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise ConfigError(f"keys: {directory} is no directory; zmqrel keygen {directory} makes one")
    _check_place(directory)


def _check_place(directory: Path) -> None:
    """Who may write here could bring a key of their own."""
    with _told_of(directory):
        if wrong := _open_to_others(directory.stat()):
            raise ConfigError(wrong)


def _open_to_others(status: os.stat_result) -> str:
    """How others could write to it; empty if they could not."""
    if status.st_uid not in (0, os.geteuid()):  # what the system's administrator gave is as good as one's own
        return _of_somebody_else(status)
    return "others may write to it: chmod go-w" if status.st_mode & _BY_OTHERS else ""


def _check_owner(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise ConfigError(_of_somebody_else(status))


def _of_somebody_else(status: os.stat_result) -> str:
    return f"it belongs to user {status.st_uid}, and this process runs as {os.geteuid()}"


def _check_enabled() -> None:
    if not zmq.has("curve"):
        raise ConfigError("keys: this build of libzmq has no CURVE; the wheels of pyzmq have it")
