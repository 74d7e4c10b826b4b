"""The command line `zmqrel`; it needs the extra "cli"."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

EXTRA = ("click", "rich", "tomli")


def _without(module: str) -> Callable[..., NoReturn]:
    def main(*_arguments: Any, **_keywords: Any) -> NoReturn:
        words = f'zmqrel: the command line needs {module}; install it with: pip install "zmqrel[cli]"'
        print(words, file=sys.stderr)
        sys.exit(2)

    return main


main: Any
try:
    import click
    import rich  # noqa: F401

    from zmqrel.cli.launch import launch
except ModuleNotFoundError as missing:
    if missing.name not in EXTRA:
        raise
    main = _without(missing.name)
else:

    @click.group(
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="\b\nExample:\n  zmqrel launch examples/orders/topology.toml",
    )
    def _group() -> None:
        """Durable messages between processes, without a broker: start topologies, look into stores."""

    # One module for each command, one line here.
    _group.add_command(launch)
    main = _group
