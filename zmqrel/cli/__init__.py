"""The command line `zmqrel`; it needs the extra "cli"."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, NoReturn

EXTRA = ("click", "rich", "tomli")
EPILOG = """\b
Examples:
  zmqrel launch examples/orders/topology.toml
  zmqrel listen billing
  zmqrel send billing "hello"
  zmqrel status data/shop

\b
Exit status: 0 well, 1 something was found wrong, 2 used wrongly.
All commands have --json; docs/cli.md describes the keys.
"""


def _without(module: str) -> Callable[..., NoReturn]:
    def main(*_arguments: Any, **_keywords: Any) -> NoReturn:
        words = f'zmqrel: the command line needs {module}; install it with: pip install "zmqrel[cli]"'
        print(words, file=sys.stderr)
        sys.exit(2)

    return main


def _version() -> str:
    try:
        return metadata.version("zmqrel")
    except metadata.PackageNotFoundError:
        return "unknown, for it is not installed"


main: Any
try:
    import click
    import rich  # noqa: F401

    from zmqrel.cli.bench import bench
    from zmqrel.cli.dead import dead
    from zmqrel.cli.keygen import keygen
    from zmqrel.cli.launch import launch
    from zmqrel.cli.listen import listen
    from zmqrel.cli.listing import ls
    from zmqrel.cli.permissions import permissions
    from zmqrel.cli.plan import plan
    from zmqrel.cli.recall import recall
    from zmqrel.cli.send import send
    from zmqrel.cli.show import show
    from zmqrel.cli.speech import OneLine
    from zmqrel.cli.status import status
    from zmqrel.cli.verify import verify
except ModuleNotFoundError as missing:
    if missing.name not in EXTRA:
        raise
    main = _without(missing.name)
else:

    @click.group(
        cls=OneLine,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EPILOG,
    )
    @click.version_option(_version())
    def _group() -> None:
        """Durable messages between processes, without a broker: start topologies, try it by hand, look into stores.

        Commands that take DIR, the directory of a store, work beside its running peer and on a stopped one.
        """

    for command in (launch, listen, send, keygen, permissions, status, ls, show, recall, dead, verify, plan, bench):
        _group.add_command(command)
    main = _group
