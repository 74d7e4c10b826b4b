"""`zmqrel launch`: start, watch and restart the nodes of a topology, show their progress, judge the end."""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import zmqrel
from zmqrel.cli import supervise, table
from zmqrel.cli.speech import Seconds, UsedWrongly
from zmqrel.cli.topology import Plan, TopologyError, load
from zmqrel.runtime import keys

EPILOG = """\b
Examples:
  zmqrel launch examples/orders/topology.toml
  zmqrel launch examples/orders/topology.toml --input mine.csv --data run
  zmqrel launch examples/orders/topology.toml --check

\b
Exit status: 0 all is well, 1 something was found wrong, 2 used wrongly;
after a run that ended by itself, the one of the topology's verify command.
Ctrl-C or SIGTERM ends the nodes in the order of the file; once more ends
them at once.

\b
--json writes one object a line, told apart by "event":
  started    node, pid, start (1, 2, ...)
  ended      node
  died       node, why, again_in
  given_up   node, why, starts, tail (its last lines)
  killed     node, after
  ended_badly  node, why (it ended so when it was asked to end)
  progress   seconds, nodes
  stopping   end ("finished", "interrupted" or "failed"), reason
  verifying  command
  summary    end, reason, status, seconds, data, kept, nodes
"nodes" holds for each name: state, starts, rate, sent, received, handled,
retried, recalled, expired, dead, backlog, and report (as the node wrote it).
"""
# The descriptor: what a child process writes to cannot be sys.stderr, which may be anything.
STDERR = 2


def _settings(_context: click.Context, _parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f'"{pair}" is not of the form NAME=VALUE')
        settings[name] = value
    return settings


@click.command(short_help="Start and watch the nodes of a topology.", epilog=EPILOG)
@click.argument("topology", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "input_file",
    type=click.Path(exists=True, path_type=Path, resolve_path=True),
    help="The file for the topology's parameter {input}.",
)
@click.option("--set", "settings", multiple=True, callback=_settings, metavar="NAME=VALUE", help="Set a parameter.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where stores, logs and results go; made if absent, kept, and continued from by the next run.  "
    "[default: a new temporary directory, removed when the run ended well]",
)
@click.option("--check", is_flag=True, help="Only check the topology and show what would be started.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines instead of a table.")
@click.option(
    "--every",
    type=Seconds(0.1, 3600),
    default=5.0,
    show_default=True,
    help="Seconds between counts when not on a terminal.",
)
@click.option("--timeout", type=Seconds(), help="Give the run up after so many seconds.")
@click.pass_context
def launch(
    context: click.Context,
    topology: Path,
    input_file: Path | None,
    settings: dict[str, str],
    data: Path | None,
    check: bool,
    as_json: bool,
    every: float,
    timeout: float | None,
) -> None:
    """Start the nodes of TOPOLOGY, restart those that die, and end when the run has ended.

    The log of each node is DATA/logs/NAME.log, its store DATA/NAME.
    """
    if input_file is not None:
        settings = {"input": str(input_file), **settings}
    own = Path(tempfile.gettempdir()) / f"zmqrel-{topology.stem}-{secrets.token_hex(4)}"
    try:
        plan = load(topology, data or own, settings)
    except TopologyError as error:
        raise UsedWrongly(str(error)) from error
    if check:
        click.echo(json.dumps(_described(plan), indent=2) if as_json else _in_words(plan))
        return
    with supervise.Interrupts().watched() as interrupts:
        _make(plan.data)
        _make_keys(plan)
        status = _launch(plan, table.shown(as_json, every), interrupts, timeout, as_json, keep=data is not None)
    context.exit(status)


def _make(data: Path) -> None:
    try:
        for directory in (data, data / "logs", data / "status", data / "ipc"):
            # For the user alone: what lies and runs here are their messages.
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What the nodes of an earlier run counted is not to be added to this one's.
        for report in (data / "status").iterdir():
            report.unlink()
    except OSError as error:
        raise UsedWrongly(f"--data {data}: cannot be made: {error.strerror}") from error


def _make_keys(plan: Plan) -> None:
    """For each node, if the run has keys: a pair, unless there is one, and the public keys of its peers."""
    keyed = {node.name: node.keys for node in plan.nodes if node.keys is not None}
    try:
        public = {name: keys.ensured(directory) for name, directory in keyed.items()}
        for node in plan.nodes:
            for peer in node.peers if node.keys is not None else ():
                keys.authorise(keyed[node.name], peer, public[peer])
    except OSError as error:
        raise UsedWrongly(f"run.keys: {error.filename}: {error.strerror}") from error
    except zmqrel.ConfigError as error:
        raise UsedWrongly(str(error)) from error


def _launch(
    plan: Plan,
    show: table.Shown,
    interrupts: supervise.Interrupts,
    timeout: float | None,
    as_json: bool,
    keep: bool,
) -> int:
    with show:
        result = supervise.Run(plan, show, interrupts, timeout).run()
    status = 1 if result.end == "failed" or (result.end == "interrupted" and plan.ends) else 0
    if result.end == "finished" and plan.verify:
        show.event("verifying", command=shlex.join(plan.verify))
        status = supervise.verify(plan, STDERR if as_json else None, interrupts)
    # An interrupted run may hold accepted messages that nobody has handled: not the launcher's to delete.
    kept = keep or status != 0 or result.end != "finished"
    if not kept:
        shutil.rmtree(plan.data, ignore_errors=True)
    with contextlib.suppress(OSError):
        (plan.data / "ipc").rmdir()
    fields: dict[str, Any] = {"end": result.end, "reason": result.reason, "status": status}
    fields |= {"seconds": round(result.seconds, 3), "data": str(plan.data), "kept": kept}
    show.summary(result.views, fields)
    return status


def _described(plan: Plan) -> Mapping[str, Any]:
    nodes = {
        node.name: {
            "command": list(node.argv),
            "endpoint": node.endpoint,
            "environment": dict(node.environment),
            "restart": node.restart,
        }
        for node in plan.nodes
    }
    return {"file": str(plan.file), "nodes": nodes, "when": list(plan.when), "verify": list(plan.verify)}


def _in_words(plan: Plan) -> str:
    lines = [f"{plan.file}: {len(plan.nodes)} nodes"]
    for node in plan.nodes:
        lines += [f"  {node.name} at {node.endpoint}, restart {node.restart}", f"    {shlex.join(node.argv)}"]
    lines.append(f"ends when these have ended: {', '.join(plan.when)}")
    if plan.verify:
        lines.append(f"and is judged by: {shlex.join(plan.verify)}")
    return "\n".join(lines)
