"""A topology file: which nodes a run has, how they find each other, and when the run has ended.

`load` reads the file, checks all of it and gives back a `Plan` in which nothing is left open: every command
line, environment and endpoint is final. Nothing is started, made or written here, so that a mistake is told
before anything runs. What a file may say, with the defaults:

    [run]
    transport = "tcp"           # nodes reach each other at free ports; or "ipc": in the data directory
    python_path = []            # directories, relative to the file, that go before PYTHONPATH
    keys = false                # true: each node has keys, made in the data directory, that its peers know; or a
                                # directory, relative to the file, where they are made and kept
    stop_timeout = 10           # seconds that a node has to end before it is killed

    [parameters]                # with defaults; --set NAME=VALUE overrides, --input FILE sets input
    input = "rows.csv"

    [node.NAME]                 # or [[node]] with a name; in the order in which they are started and ended
    module = "nodes.source"     # a Python module, or ...
    program = ["./meter"]       # ... any other program; one of the two
    args = ["{input}"]          # more arguments
    peers = ["other"]           # nodes that this one connects to; they are told to expect it
    options = { prefetch = 8 }  # options of its peer, as zmqrel.Options has them
    environment = { X = "1" }   # variables
    count = 1                   # more than one: copies called NAME-1, NAME-2, ...; NAME stands for all of them
    endpoint = ""               # one of its own, instead of one that is chosen
    restart = "on-failure"      # or "never"
    tries = 5                   # after so many deaths in a row the node, and with it the run, is given up; at
                                # once if it ends with status 2 ("used wrongly") within `steady` seconds
    backoff = 0.2               # seconds before the first restart, doubled for each death in a row, at most 5
    steady = 5                  # seconds; a death after a longer life is the first in a row

    [end]
    when = ["NAME"]             # the run has ended when these have ended with status 0; without it, when all have
    verify = ["{python}", "x"]  # then run this; its exit status is that of the run

Nodes run in the directory of the file. Arguments, texts in options, variables, endpoints and `verify` may hold places:
{NAME} of a parameter, {data}, {here} (the directory of the file), {python}, {endpoint.NODE}, and in a node {name} and
{index}; {{ and }} stand for a brace. What --set gives for a number is a number, for true or false one of these.
What a node is told in its environment, besides: see nodes/program.py.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import zmqrel
from zmqrel.cli.topology_keys import ALWAYS_KNOWN, END_KEYS, NAME, NODE_KEYS, RUN_KEYS, TOP_KEYS, Key
from zmqrel.runtime.permission_file import read_permissions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What the others are to dial: no wildcard.
ENDPOINT = re.compile(r"tcp://[^\s*]+:\d{1,5}|ipc://\S+")
PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
# What the address of a Unix socket takes, less the zero at its end.
IPC_PATH_BYTES = 107
# Below the range from which systems draw the ports of outgoing connections: a node that connects again and
# again to a neighbour that is down would sooner or later be given that very port and connect to itself.
PORTS = (20_000, 32_000)

Fields = Mapping[str, Any]


class TopologyError(ValueError):
    """A mistake in a topology file, or in what was asked of it: names file, key and what is allowed."""


@dataclass(frozen=True)
class Node:
    """One process of the run, as it will be started."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    endpoint: str
    restart: str
    tries: int
    backoff: float
    steady: float
    keys: Path | None
    """Its directory of keys, if the run has keys."""
    peers: tuple[str, ...]
    """Whom it connects to, and who connects to it."""


@dataclass(frozen=True)
class Plan:
    """A whole run: its nodes in the order of the file, whose ends finish it, and what judges it."""

    file: Path
    data: Path
    nodes: tuple[Node, ...]
    when: tuple[str, ...]
    ends: bool
    verify: tuple[str, ...]
    environment: Mapping[str, str]
    stop_timeout: float

    @property
    def directory(self) -> Path:
        """Where the nodes run: next to the file, so that relative paths mean the same from everywhere."""
        return self.file.parent


def load(
    file: Path, data: Path, settings: Mapping[str, str] | None = None, ports: Callable[[], int] | None = None
) -> Plan:
    """The plan of a run of `file` with its data in `data`; raises TopologyError for whatever is wrong."""
    return _Reader(file.absolute(), data.absolute(), settings or {}, ports or _free_ports().__next__).plan()


def _free_ports() -> Iterator[int]:
    given: set[int] = set()
    while True:
        port = random.randint(*PORTS)
        if port not in given and _can_bind(port):
            given.add(port)
            yield port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class _Copy:
    """One of the `count` processes of a node table."""

    name: str
    index: int
    key: str
    fields: Fields


class _Reader:
    """Reads one file; its methods are called in the order in which they stand."""

    def __init__(self, file: Path, data: Path, settings: Mapping[str, str], ports: Callable[[], int]) -> None:
        self.file, self.data, self.settings, self.ports = file, data, settings, ports
        self.known: dict[str, str] = {}

    def plan(self) -> Plan:
        top = self._checked(self._parsed(), TOP_KEYS, "")
        run = self._checked(top["run"], RUN_KEYS, "run")
        end = self._checked(top["end"], END_KEYS, "end")
        tables = self._tables(top["node"])
        self.known = self._parameters(top["parameters"])
        copies = [copy for name, key, fields in tables for copy in self._copies(name, key, fields)]
        groups = self._groups(tables, copies)
        endpoints = self._endpoints(copies, run["transport"])
        self.known |= {f"endpoint.{name}": endpoint for name, endpoint in endpoints.items()}
        path = [str((self.file.parent / each).resolve()) for each in run["python_path"]]
        links = {copy.name: self._links(copy, groups) for copy in copies}
        keys = self._keys(run["keys"])
        nodes = tuple(self._node(copy, links, endpoints, path, keys) for copy in copies)
        when = self._members(end["when"] or list(groups), groups, "end.when")
        return Plan(
            file=self.file,
            data=self.data,
            nodes=nodes,
            when=when,
            ends=bool(top["end"]),
            verify=self._command(end["verify"], "end.verify", self._here("", 0)) if end["verify"] else (),
            environment=self._python(path),
            stop_timeout=float(run["stop_timeout"]),
        )

    def _wrong(self, key: str, found: str, allowed: str) -> TopologyError:
        return TopologyError(f"{self.file}: {key + ': ' if key else ''}{found}; allowed: {allowed}")

    def _parsed(self) -> Fields:
        try:
            return tomllib.loads(self.file.read_text(encoding="utf-8"))
        except OSError as error:
            raise TopologyError(f"{self.file}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TopologyError(f"{self.file}: not a TOML file: {error}") from error

    def _checked(self, fields: Fields, keys: Mapping[str, Key], place: str) -> dict[str, Any]:
        """`fields` with defaults filled in; every key known and every value of its kind."""
        dot = f"{place}." if place else ""
        for key, value in fields.items():
            if key not in keys:
                raise self._wrong(f"{dot}{key}", "unknown key", ", ".join(keys))
            if not keys[key].takes(value):
                raise self._wrong(f"{dot}{key}", f"{_shown(value)} is not allowed", keys[key].allowed)
        if keys is TOP_KEYS and "node" not in fields:
            raise self._wrong("node", "missing", keys["node"].allowed)
        return {key: fields.get(key, each.default) for key, each in keys.items()}

    def _tables(self, node: Fields | Sequence[Any]) -> list[tuple[str, str, Fields]]:
        """Name, key and fields of every node table, whichever of the two forms the file uses."""
        if isinstance(node, Mapping):
            return [(name, f"node.{name}", self._node_table(f"node.{name}", node[name], name)) for name in node]
        found: dict[str, tuple[str, str, Fields]] = {}
        for number, fields in enumerate(node, 1):
            key = f"node[{number}]"
            table = self._node_table(key, fields, None)
            name = table["name"]
            if name in found:
                raise self._wrong(f"{key}.name", f'"{name}" is also the name of {found[name][1]}', "names of their own")
            found[name] = (name, key, table)
        return list(found.values())

    def _node_table(self, key: str, fields: Any, name: str | None) -> Fields:
        if not isinstance(fields, dict):
            raise self._wrong(key, f"{_shown(fields)} is not allowed", "a table")
        if name is not None and "name" in fields:
            raise self._wrong(f"{key}.name", "the table is named already", "no name in [node.NAME]")
        table = self._checked({"name": name, **fields} if name is not None else fields, NODE_KEYS, key)
        if table["name"] is None:
            raise self._wrong(f"{key}.name", "missing", NODE_KEYS["name"].allowed)
        if (table["module"] is None) == (table["program"] is None):
            found = "missing" if table["module"] is None else "both are given"
            raise self._wrong(f"{key}.module", found, "either module or program")
        return table

    def _parameters(self, defaults: Fields) -> dict[str, str]:
        for name, text in self.settings.items():
            if name not in defaults:
                raise self._wrong(f"parameters.{name}", "not a parameter of this topology", _list(defaults))
            allowed = _allowed_instead_of(defaults[name], text)
            if allowed is not None:
                raise self._wrong(f"parameters.{name}", f"{_shown(text)} is not allowed", allowed)
        for name in defaults:
            if name in ALWAYS_KNOWN:
                raise self._wrong(f"parameters.{name}", "always known", f"names other than {_list(ALWAYS_KNOWN)}")
        return {name: _text(value) for name, value in defaults.items()} | dict(self.settings)

    def _copies(self, name: str, key: str, fields: Fields) -> list[_Copy]:
        if fields["count"] == 1:
            return [_Copy(name, 1, key, fields)]
        last = f"{name}-{fields['count']}"
        if not NAME.fullmatch(last):
            raise self._wrong(f"{key}.count", f'"{last}" is too long a name', NODE_KEYS["name"].allowed)
        return [_Copy(f"{name}-{index}", index, key, fields) for index in range(1, fields["count"] + 1)]

    def _groups(self, tables: list[tuple[str, str, Fields]], copies: list[_Copy]) -> dict[str, list[str]]:
        """Every name that stands for nodes: a table's for all its copies, a copy's for itself."""
        groups: dict[str, list[str]] = {}
        for name, key, fields in tables:
            groups[name] = [copy.name for copy in copies if copy.fields is fields and copy.key == key]
        seen: dict[str, str] = {}
        for copy in copies:
            if copy.name in seen or (copy.name in groups and groups[copy.name] != [copy.name]):
                raise self._wrong(copy.key, f'two nodes are named "{copy.name}"', "names of their own")
            seen[copy.name] = copy.key
            groups.setdefault(copy.name, [copy.name])
        return groups

    def _members(self, names: Sequence[str], groups: Mapping[str, list[str]], key: str) -> tuple[str, ...]:
        for name in names:
            if name not in groups:
                raise self._wrong(key, f'"{name}" is not a node', _list(groups))
        return tuple(dict.fromkeys(member for name in names for member in groups[name]))

    def _endpoints(self, copies: list[_Copy], transport: str) -> dict[str, str]:
        fixed: dict[str, str] = {}
        for copy in copies:
            key = f"{copy.key}.endpoint"
            endpoint = self._filled(copy.fields["endpoint"], key, self._here(copy.name, copy.index))
            if not endpoint:
                continue
            self._check_endpoint(endpoint, key)
            for other, taken in fixed.items():
                if _clash(endpoint, taken):
                    found = f"{endpoint} is also the endpoint of {other}" + (f" ({taken})" if taken != endpoint else "")
                    raise self._wrong(key, found, "one node at an endpoint")
            fixed[copy.name] = endpoint
        # What is chosen comes after what is given, so that it is never a port that a later node asks for.
        return {copy.name: fixed.get(copy.name) or self._chosen(copy, transport, fixed) for copy in copies}

    def _check_endpoint(self, endpoint: str, key: str) -> None:
        port = _port(endpoint)
        if not ENDPOINT.fullmatch(endpoint) or (port is not None and not 1 <= port <= 65535):
            raise self._wrong(key, f'"{endpoint}" is not allowed', NODE_KEYS["endpoint"].allowed)

    def _chosen(self, copy: _Copy, transport: str, fixed: Mapping[str, str]) -> str:
        key = f"{copy.key}.endpoint"
        if transport == "tcp":
            taken = {_port(endpoint) for endpoint in fixed.values()}
            port = self.ports()
            while port in taken:
                port = self.ports()
            return f"tcp://127.0.0.1:{port}"
        path = self.data / "ipc" / copy.name
        if len(os.fsencode(path)) > IPC_PATH_BYTES:
            allowed = f'{IPC_PATH_BYTES} bytes: a shorter --data directory, or transport = "tcp"'
            raise self._wrong(key, f"{path} is too long for an ipc endpoint", allowed)
        return f"ipc://{path}"

    def _links(self, copy: _Copy, groups: Mapping[str, list[str]]) -> tuple[str, ...]:
        key = f"{copy.key}.peers"
        members = self._members(copy.fields["peers"], groups, key)
        if copy.name in members:
            raise self._wrong(key, f'"{copy.name}" is the node itself', "other nodes")
        return members

    def _here(self, name: str, index: int) -> dict[str, str]:
        here = {"data": str(self.data), "here": str(self.file.parent), "python": sys.executable}
        if name:
            here |= {"name": name, "index": str(index)}
        return self.known | here

    def _filled(self, template: Any, key: str, known: Mapping[str, str]) -> str:
        def one(found: re.Match[str]) -> str:
            if found[1] is None:
                return found[0][0]
            if found[1] not in known:
                allowed = _list(["{" + name + "}" for name in sorted(known)]) + ", and {{ or }} for a brace"
                raise self._wrong(key, f"{found[0]} is unknown", allowed)
            return known[found[1]]

        return PLACE.sub(one, _text(template))

    def _keys(self, told: bool | str) -> Path | None:
        """Where the nodes have their directories of keys."""
        if isinstance(told, str):
            return self.file.parent / self._filled(told, "run.keys", self._here("", 0))
        return self.data / "keys" if told else None

    def _node(
        self,
        copy: _Copy,
        links: Mapping[str, tuple[str, ...]],
        endpoints: Mapping[str, str],
        path: list[str],
        keys: Path | None,
    ) -> Node:
        fields, known = copy.fields, self._here(copy.name, copy.index)
        peers: dict[str, str | None] = {name: None for name, to in links.items() if copy.name in to}
        peers |= {name: endpoints[name] for name in links[copy.name]}
        environment = self._python(path) | {
            "ZMQREL_NAME": copy.name,
            "ZMQREL_STORE": str(self.data / copy.name),
            "ZMQREL_BIND": endpoints[copy.name],
            "ZMQREL_PEERS": json.dumps(peers),
            "ZMQREL_OPTIONS": json.dumps(self._options(copy, known, keys)),
            "ZMQREL_STATUS_FILE": str(self.data / "status" / f"{copy.name}.json"),
        }
        for variable, value in fields["environment"].items():
            environment[variable] = self._filled(value, f"{copy.key}.environment.{variable}", known)
        return Node(
            name=copy.name,
            argv=self._argv(copy, known, path),
            environment=environment,
            endpoint=endpoints[copy.name],
            restart=fields["restart"],
            tries=fields["tries"],
            backoff=float(fields["backoff"]),
            steady=float(fields["steady"]),
            keys=None if keys is None else keys / copy.name,
            peers=tuple(peers),
        )

    def _options(self, copy: _Copy, known: Mapping[str, str], keys: Path | None) -> dict[str, Any]:
        key = f"{copy.key}.options"
        if keys is not None and "keys" in copy.fields["options"]:
            raise self._wrong(f"{key}.keys", "run.keys gives every node its keys", "keys in one place")
        options = {
            name: self._filled(value, f"{key}.{name}", known) if isinstance(value, str) else value
            for name, value in copy.fields["options"].items()
        }
        if keys is not None:
            options["keys"] = str(keys / copy.name)
        try:
            zmqrel.Options.parse(options)
            if "permissions" in options:
                read_permissions(self.file.parent / options["permissions"])
        except zmqrel.ConfigError as error:
            raise self._wrong(
                key, str(error), "options of zmqrel.Peer that are texts, numbers, true or false"
            ) from None
        return options

    def _python(self, path: list[str]) -> dict[str, str]:
        before = os.environ.get("PYTHONPATH", "")
        # Unbuffered, so that the last words of a node that is killed are in its log.
        return {"PYTHONPATH": os.pathsep.join([*path, *filter(None, [before])]), "PYTHONUNBUFFERED": "1"}

    def _argv(self, copy: _Copy, known: Mapping[str, str], path: list[str]) -> tuple[str, ...]:
        fields = copy.fields
        args = [self._filled(arg, f"{copy.key}.args[{n}]", known) for n, arg in enumerate(fields["args"])]
        if fields["program"] is not None:
            return (*self._command(fields["program"], f"{copy.key}.program", known), *args)
        places = [*path, str(self.file.parent), *sys.path]
        if not _runnable(fields["module"], places):
            allowed = f"what python -m finds in {_list([*path, str(self.file.parent)])} or among the installed"
            raise self._wrong(f"{copy.key}.module", f'there is no module "{fields["module"]}"', allowed)
        return (sys.executable, "-m", fields["module"], *args)

    def _command(self, words: Sequence[Any], key: str, known: Mapping[str, str]) -> tuple[str, ...]:
        program, *args = [self._filled(word, f"{key}[{n}]", known) for n, word in enumerate(words)]
        path = str(self.file.parent / program) if os.sep in program else program
        if shutil.which(path) is None:
            raise self._wrong(f"{key}[0]", f'there is no program "{program}"', "a program on PATH, or a path to one")
        return (path, *args)


def _runnable(module: str, places: list[str]) -> bool:
    """Whether `python -m module` finds something to run; found without importing any of it."""
    search: Sequence[str] | None = places
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        # Second, what an editable installation finds in ways of its own: only for a top-level name, for
        # which nothing is imported either.
        spec = PathFinder.find_spec(name, search) or (find_spec(name) if search is places else None)
        if spec is None:
            return False
        search = spec.submodule_search_locations
        if search is None:
            return name == module
    return PathFinder.find_spec(f"{module}.__main__", search) is not None


def _port(endpoint: str) -> int | None:
    """The port of a TCP endpoint; None for another, or where there is none."""
    port = endpoint.rpartition(":")[2]
    return int(port) if endpoint.startswith("tcp://") and port.isdecimal() else None


def _clash(one: str, other: str) -> bool:
    """Whether two nodes of this machine cannot have these endpoints: a port at two addresses is two endpoints."""
    if _port(one) is None or _port(one) != _port(other):
        return one == other
    hosts = {
        endpoint[len("tcp://") :].rpartition(":")[0].lower().replace("localhost", "127.0.0.1")
        for endpoint in (one, other)
    }
    return len(hosts) == 1 or bool(hosts & {"0.0.0.0", "[::]"})


def _allowed_instead_of(default: Any, text: str) -> str | None:
    """What may be set where the default is `default`, if `text` may not; None if it may."""
    if isinstance(default, bool):
        return None if text in ("true", "false") else "true or false"
    if isinstance(default, str):
        return None
    try:
        return None if math.isfinite(float(text)) else "a number"
    except ValueError:
        return "a number"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)


def _list(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
