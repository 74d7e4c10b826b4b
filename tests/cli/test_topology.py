"""What a topology file may say, and what is said about a mistake in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zmqrel.cli.topology import Plan, TopologyError, load

ONE = '[node.a]\nprogram = ["{python}"]\n'
TWO = ONE + '[node.b]\nprogram = ["{python}"]\npeers = ["a"]\n'

MISTAKES = {
    "not toml": ("[node", "not a TOML file"),
    "twice in tables": (ONE + ONE, "not a TOML file"),
    "no node": ("[run]", "node: missing"),
    "empty": ("node = []", "node: [] is not allowed; allowed: tables [node.NAME] or [[node]]"),
    "unknown table": (ONE + "[ends]", "ends: unknown key; allowed: node, run, parameters, end"),
    "unknown key": (ONE + "restrat = 1", "node.a.restrat: unknown key; allowed: name, module"),
    "unknown key in a list": ('[[node]]\nname="a"\nfoo=1', "node[1].foo: unknown key"),
    "unknown run key": (ONE + "[run]\nx = 1", "run.x: unknown key; allowed: transport"),
    "unknown end key": (ONE + "[end]\nx = 1", "end.x: unknown key; allowed: when, verify"),
    "neither": ("[node.a]\ncount = 1", "node.a.module: missing; allowed: either module or program"),
    "both": (ONE + 'module = "this"', "node.a.module: both are given; allowed: either module or program"),
    "no such module": (
        '[node.a]\nmodule = "no.such"',
        'node.a.module: there is no module "no.such"; allowed',
    ),
    "package without main": ('[node.a]\nmodule = "json"', 'there is no module "json"'),
    "not a module name": ('[node.a]\nmodule = "a b"', 'node.a.module: "a b" is not allowed'),
    "no such program": (
        '[node.a]\nprogram = ["no-such"]',
        'node.a.program[0]: there is no program "no-such"',
    ),
    "no such file": (
        '[node.a]\nprogram = ["./no-such"]',
        'node.a.program[0]: there is no program "./no-such"',
    ),
    "empty program": ("[node.a]\nprogram = []", "node.a.program: [] is not allowed; allowed: a list"),
    "bad name": ('[node."a b"]\nprogram = ["x"]', 'node.a b.name: "a b" is not allowed; allowed: 1 to 64'),
    "no name": ('[[node]]\nprogram = ["x"]', "node[1].name: missing; allowed: 1 to 64"),
    "named twice": ("[node.a]\nname = 'a'", "node.a.name: the table is named already"),
    "not a table": ("node = [1]", "node[1]: 1 is not allowed; allowed: a table"),
    "two of one name": (
        '[[node]]\nname = "a"\nprogram = ["{python}"]\n[[node]]\nname = "a"\nprogram = ["{python}"]\n',
        'node[2].name: "a" is also the name of node[1]; allowed: names of their own',
    ),
    "name of a copy": (
        ONE + 'count = 2\n[node.a-1]\nprogram = ["{python}"]',
        'node.a-1: two nodes are named "a-1"; allowed: names of their own',
    ),
    "long name of a copy": (f'[node.{"a" * 64}]\nprogram = ["{{python}}"]\ncount = 2', "is too long a name"),
    "no count": (ONE + "count = 0", "node.a.count: 0 is not allowed; allowed: a whole number from 1 to 100"),
    "a true count": (ONE + "count = true", "node.a.count: true is not allowed"),
    "keys": (ONE + "[run]\nkeys = 1", "run.keys: 1 is not allowed; allowed: true, false, or a directory"),
    "keys twice": (
        ONE + 'options = { keys = "x" }\n[run]\nkeys = true',
        "node.a.options.keys: run.keys gives every node its keys; allowed: keys in one place",
    ),
    "restart": (
        ONE + 'restart = "often"',
        'node.a.restart: "often" is not allowed; allowed: "on-failure" or',
    ),
    "backoff": (ONE + "backoff = -1", "node.a.backoff: -1 is not allowed; allowed: seconds from 0 to 60"),
    "args": (ONE + 'args = "x"', 'node.a.args: "x" is not allowed; allowed: a list of texts and numbers'),
    "environment": (ONE + "environment = { X = [1] }", "node.a.environment: "),
    "unknown option": (
        ONE + "options = { durabilty = 1 }",
        "node.a.options: there is no option 'durabilty'; did you mean durability?; allowed: options of zmqrel.Peer",
    ),
    "wrong option": (
        ONE + 'options = { durability = "none" }',
        "node.a.options: durability takes 'fsync' or 'relaxed', not 'none'",
    ),
    "options": (ONE + "options = { resend = [1] }", 'node.a.options: {"resend": [1]} is not allowed'),
    "unknown peer": (ONE + 'peers = ["c"]', 'node.a.peers: "c" is not a node; allowed: a'),
    "peer of itself": (ONE + 'peers = ["a"]', 'node.a.peers: "a" is the node itself; allowed: other nodes'),
    "unknown end": (ONE + '[end]\nwhen = ["c"]', 'end.when: "c" is not a node; allowed: a'),
    "nobody's end": (ONE + "[end]\nwhen = []", "end.when: [] is not allowed"),
    "unknown verify": (ONE + '[end]\nverify = ["no-such"]', 'end.verify[0]: there is no program "no-such"'),
    "endpoint": (
        ONE + 'endpoint = "7001"',
        'node.a.endpoint: "7001" is not allowed; allowed: text, as in "tcp:',
    ),
    "port": (ONE + 'endpoint = "tcp://127.0.0.1:70000"', "node.a.endpoint: "),
    "free port": (ONE + 'endpoint = "tcp://127.0.0.1:*"', "node.a.endpoint: "),
    "a port used twice": (
        TWO.replace("[node.b]", 'endpoint = "tcp://127.0.0.1:7001"\n[node.b]\nendpoint = "tcp://127.0.0.1:7001"'),
        "node.b.endpoint: tcp://127.0.0.1:7001 is also the endpoint of a; allowed: one node at an endpoint",
    ),
    "a port used twice by two names": (
        TWO.replace("[node.b]", 'endpoint = "tcp://localhost:7001"\n[node.b]\nendpoint = "tcp://0.0.0.0:7001"'),
        "node.b.endpoint: tcp://0.0.0.0:7001 is also the endpoint of a (tcp://localhost:7001); allowed: one node",
    ),
    "an endpoint that nobody can dial": (ONE + 'endpoint = "tcp://*:7001"', 'node.a.endpoint: "tcp://*:7001"'),
    "a port used by copies": (ONE + 'count = 2\nendpoint = "tcp://h:1"', "is also the endpoint of a-1"),
    "transport": (
        ONE + '[run]\ntransport = "udp"',
        'run.transport: "udp" is not allowed; allowed: "tcp" or "ipc"',
    ),
    "placeholder": (ONE + 'args = ["{inptu}"]', "node.a.args[0]: {inptu} is unknown; allowed: {data}"),
    "placeholder in a variable": (
        ONE + 'environment = { X = "{y}" }',
        "node.a.environment.X: {y} is unknown",
    ),
    "placeholder in a table of numbers": (ONE + 'args = [1, "{}"]', "node.a.args[1]: {} is unknown"),
    "endpoint of copies": (ONE + 'count = 2\nargs = ["{endpoint.a}"]', "{endpoint.a} is unknown"),
    "parameter": (ONE + "[parameters]\nX = 1", "parameters: "),
    "parameter that is known": (
        ONE + "[parameters]\ndata = 1",
        "parameters.data: always known; allowed: names",
    ),
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Plan]:
    def read(text: str, **settings: str) -> Plan:
        file = tmp_path / "run.toml"
        file.write_text(text, encoding="utf-8")
        return load(file, tmp_path / "data", settings)

    return read


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_file_key_and_what_is_allowed(
    case: str, read: Callable[..., Plan], tmp_path: Path
) -> None:
    text, words = MISTAKES[case]
    with pytest.raises(TopologyError) as told:
        read(text)
    assert str(told.value).startswith(f"{tmp_path / 'run.toml'}: ")
    assert words in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", tmp_path)


def test_both_forms_of_node_tables_mean_the_same(read: Callable[..., Plan]) -> None:
    same = '[[node]]\nname = "a"\nprogram = ["{python}"]\nendpoint = "tcp://127.0.0.1:7001"\n'
    assert read(same).nodes == read(ONE + 'endpoint = "tcp://127.0.0.1:7001"').nodes


def test_a_node_is_told_who_it_is_and_whom_it_knows(read: Callable[..., Plan], tmp_path: Path) -> None:
    a, b = read(TWO).nodes
    assert json.loads(b.environment["ZMQREL_PEERS"]) == {"a": a.endpoint}
    assert json.loads(a.environment["ZMQREL_PEERS"]) == {"b": None}
    assert a.environment["ZMQREL_NAME"] == "a"
    assert a.environment["ZMQREL_BIND"] == a.endpoint
    assert a.environment["ZMQREL_STORE"] == str(tmp_path / "data" / "a")
    assert a.environment["ZMQREL_STATUS_FILE"] == str(tmp_path / "data" / "status" / "a.json")


def test_peers_that_know_each_other_both_connect(read: Callable[..., Plan]) -> None:
    a, b = read(TWO.replace("[node.b]", 'peers = ["b"]\n[node.b]')).nodes
    assert json.loads(a.environment["ZMQREL_PEERS"]) == {"b": b.endpoint}
    assert json.loads(b.environment["ZMQREL_PEERS"]) == {"a": a.endpoint}


def test_copies_have_names_endpoints_and_indices_of_their_own(read: Callable[..., Plan]) -> None:
    text = ONE + 'args = ["{name}", "{index}"]\ncount = 3\n[node.b]\nprogram = ["{python}"]\npeers = ["a"]\n'
    plan = read(text + '[end]\nwhen = ["a"]')
    assert [node.name for node in plan.nodes] == ["a-1", "a-2", "a-3", "b"]
    assert [node.argv[1:] for node in plan.nodes[:3]] == [("a-1", "1"), ("a-2", "2"), ("a-3", "3")]
    assert len({node.endpoint for node in plan.nodes}) == 4
    assert list(json.loads(plan.nodes[3].environment["ZMQREL_PEERS"])) == ["a-1", "a-2", "a-3"]
    assert plan.when == ("a-1", "a-2", "a-3")


def test_a_copy_can_be_named_by_itself(read: Callable[..., Plan]) -> None:
    plan = read(ONE + 'count = 2\n[node.b]\nprogram = ["{python}"]\npeers = ["a-2"]\nargs = ["{endpoint.a-2}"]')
    assert json.loads(plan.nodes[2].environment["ZMQREL_PEERS"]) == {"a-2": plan.nodes[1].endpoint}
    assert plan.nodes[2].argv[1] == plan.nodes[1].endpoint


def test_places_are_filled(read: Callable[..., Plan], tmp_path: Path) -> None:
    text = ONE + 'args = ["{x}", "{y}/{x}", "{{x}}", "{data}", "{here}", 3]\n[parameters]\nx = 1.5\ny = "{y}"\n'
    argv = read(text).nodes[0].argv
    assert argv == (
        sys.executable, "1.5", "{y}/1.5", "{x}", str(tmp_path / "data"), str(tmp_path), "3",
    )  # fmt: skip
    assert read(text, x="2").nodes[0].argv[1:3] == ("2", "{y}/2")


def test_a_setting_must_be_a_parameter(read: Callable[..., Plan]) -> None:
    with pytest.raises(TopologyError, match=r"parameters\.z: not a parameter of this topology; allowed: x"):
        read(ONE + "[parameters]\nx = 1", z="1")


@pytest.mark.parametrize(
    ("default", "wrong", "allowed"),
    [("1.5", "fast", "a number"), ("1", "", "a number"), ("1", "nan", "a number"), ("true", "yes", "true or false")],
)
def test_a_setting_is_of_the_kind_of_its_default(
    read: Callable[..., Plan], default: str, wrong: str, allowed: str
) -> None:
    text = ONE + f"args = ['{{x}}']\n[parameters]\nx = {default}"
    with pytest.raises(TopologyError) as told:
        read(text, x=wrong)
    assert f'parameters.x: "{wrong}" is not allowed; allowed: {allowed}' in str(told.value)
    right = "false" if default == "true" else "-2.5e3"
    assert read(text, x=right).nodes[0].argv[1] == right


def test_options_reach_the_node_of_whom_they_are(read: Callable[..., Plan]) -> None:
    text = ONE + 'options = { prefetch = 8, durability = "{safe}", insecure = true }\n[parameters]\nsafe = "relaxed"'
    options = {"prefetch": 8, "durability": "relaxed", "insecure": True}
    assert json.loads(read(text).nodes[0].environment["ZMQREL_OPTIONS"]) == options
    assert json.loads(read(text, safe="fsync").nodes[0].environment["ZMQREL_OPTIONS"])["durability"] == "fsync"


def test_a_chosen_port_is_not_one_that_a_later_node_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TWO + 'endpoint = "tcp://127.0.0.1:20001"', encoding="utf-8")
    plan = load(file, tmp_path, ports=iter([20001, 20002]).__next__)
    assert [node.endpoint for node in plan.nodes] == ["tcp://127.0.0.1:20002", "tcp://127.0.0.1:20001"]


def test_a_module_is_found_next_to_the_file_and_on_its_path(read: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "here.py").touch()
    package = tmp_path / "lib" / "pack"
    package.mkdir(parents=True)
    for file in ("__init__.py", "__main__.py", "part.py"):
        (package / file).touch()
    text = '[run]\npython_path = ["lib"]\n' + "".join(
        f'[node.{name}]\nmodule = "{module}"\n'
        for name, module in {"a": "here", "b": "pack", "c": "pack.part", "d": "json.tool"}.items()
    )
    plan = read(text)
    assert [node.argv[1:] for node in plan.nodes][2] == ("-m", "pack.part")
    assert plan.nodes[0].environment["PYTHONPATH"].split(":")[0] == str(tmp_path / "lib")
    with pytest.raises(TopologyError, match=r'no module "here\.part"'):
        read('[node.a]\nmodule = "here.part"')


def test_a_program_next_to_the_file_is_found_from_everywhere(read: Callable[..., Plan], tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert read('[node.a]\nprogram = ["bin/tool", "x"]').nodes[0].argv == (str(program), "x")


def test_ipc_endpoints_lie_in_the_data_directory(read: Callable[..., Plan], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(ONE + '[run]\ntransport = "ipc"', encoding="utf-8")
    assert load(file, Path("/d")).nodes[0].endpoint == "ipc:///d/ipc/a"
    with pytest.raises(TopologyError, match=r"too long for an ipc endpoint; allowed: 107 bytes: a shorter --data"):
        load(file, Path("/" + "d" * 107))


def test_ports_are_free_and_outside_the_range_of_outgoing_connections(read: Callable[..., Plan]) -> None:
    ports = [int(node.endpoint.rpartition(":")[2]) for node in read(ONE + "count = 100").nodes]
    assert len(set(ports)) == 100
    assert all(20_000 <= port <= 32_000 for port in ports)


def test_without_an_end_rule_all_nodes_have_to_end(read: Callable[..., Plan]) -> None:
    plan = read(TWO)
    assert plan.when == ("a", "b")
    assert not plan.ends
    assert read(TWO + '[end]\nwhen = ["b"]').ends


def test_keys_are_an_option_of_every_node(read: Callable[..., Plan], tmp_path: Path) -> None:
    plan = read(TWO + "[run]\nkeys = true")
    assert [json.loads(node.environment["ZMQREL_OPTIONS"]) for node in plan.nodes] == [
        {"keys": str(plan.data / "keys" / name)} for name in ("a", "b")
    ]
    assert [node.peers for node in plan.nodes] == [("b",), ("a",)]
    assert read(TWO + '[run]\nkeys = "own/{x}"\n[parameters]\nx = "y"').nodes[0].keys == tmp_path / "own/y/a"
    assert read(TWO + "[run]\nkeys = false").nodes[0].keys is None
