"""`zmqrel keygen`: make a directory of keys, and let others in."""

from __future__ import annotations

from pathlib import Path

import click

import zmqrel
from zmqrel.cli import speech
from zmqrel.runtime import keys

EPILOG = """\b
Example, for two peers on one machine; else public.key is copied:
  zmqrel keygen shop-keys
  zmqrel keygen billing-keys --peer shop=shop-keys
  zmqrel keygen shop-keys --peer billing=billing-keys
  zmqrel listen billing --keys billing-keys --peer shop
  zmqrel send billing "hello" --name shop --keys shop-keys

\b
DIR/secret.key   the own secret key, readable by its owner only
DIR/public.key   the own public key, to be given to the others
DIR/peers/NAME   the public key of each peer that may connect

\b
Copying a public.key to DIR/peers/NAME does what --peer does. Adding and
removing such a file takes effect on a running peer within two seconds.

\b
Exit status: 0 well, 1 there is a secret key already and no --peer was
given, or the directory cannot be written, 2 used wrongly.
"""


@click.command(short_help="Make the keys of a peer, and let others in.", epilog=EPILOG)
@speech.directory
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME=PUBLICKEY",
    help="Let peer NAME in: the file of its public key, or its directory of keys; may be repeated.",
)
@speech.as_json
@speech.mistakes_told
def keygen(directory: Path, peers: tuple[str, ...], as_json: bool) -> None:
    """Make a pair of keys in DIR, unless there is one and --peer is given; never overwrites a secret key."""
    others = {name: _key_of(name, place) for name, place in map(_split, peers)}
    made = not (peers and (directory / keys.SECRET).exists())
    if made and (directory / keys.SECRET).exists():
        raise speech.FoundWrong(f"{directory / keys.SECRET} is there: a secret key is not overwritten")
    public = keys.ensured(directory)
    for name, key in others.items():
        keys.authorise(directory, name, key)
    if as_json:
        shape = {"directory": str(directory), "public_key": public.decode(), "made": made, "peers": sorted(others)}
        speech.say_json(shape)
        return
    if made:
        speech.say(f"{directory / keys.PUBLIC}: {public.decode()}")
        speech.say(f"give this file to the other peers: each keeps it as {keys.PEERS}/NAME, NAME being this peer's")
    for name in sorted(others):
        speech.say(f"{name} may connect: {directory / keys.PEERS / name}")


def _split(pair: str) -> tuple[str, Path]:
    name, equals, place = pair.partition("=")
    if not equals or not place:
        raise zmqrel.ConfigError.of("--peer", "NAME=PUBLICKEY, a file or a directory of keys", pair)
    return name, Path(place)


def _key_of(name: str, place: Path) -> bytes:
    file = place / keys.PUBLIC if place.is_dir() else place
    try:
        return keys.read_public(file)
    except FileNotFoundError:
        raise zmqrel.ConfigError(f"--peer {name}: {file} is not there") from None
    except zmqrel.ConfigError as error:
        raise zmqrel.ConfigError(f"--peer {name}: {file}: {error}") from None
