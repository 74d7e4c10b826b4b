"""The house's one-way streets: who may import whom, what the core must not know, and what is public.

Read from the source, so that an import that runs only sometimes counts as well.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# A module imports from the layers above its line only; a package also from itself.
LAYERS = [
    "escaping",
    "outcome",
    "errors",
    "checks",
    "retry",
    "body",
    "permissions",
    "options",
    "core",
    "history",
    "receipts",
    "message",
    "sending",
    "stored",
    "waiting",
    "store",
    "runtime",
    "control",
    "participant",
    "testing",
    "peer",
    "aio",
    "bench",
    "cli",
]
# Nothing is built upon these.
LEAVES = {"testing", "cli"}

STANDARD_LIBRARY_ONLY = {"escaping", "outcome", "errors", "checks", "retry", "permissions", "options"}

# The world: the core is told of it, and says what is to be done to it.
WORLD = {
    "asyncio", "concurrent", "io", "lmdb", "logging", "multiprocessing", "os", "pathlib", "queue",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "subprocess", "tempfile",
    "threading", "time", "uuid", "zmq",
}  # fmt: skip
WORLDLY_CALLS = {"open", "print", "input", "breakpoint"}
CLOCKS = {"now", "utcnow", "today"}

PUBLIC = {
    "AlreadySettled",
    "CloseReport",
    "ConfigError",
    "DeadLetter",
    "DeadLetters",
    "DeadlinePassed",
    "DuplicateId",
    "Error",
    "ForkedPeer",
    "HistoryEvent",
    "InboxMessage",
    "MEMORY",
    "Message",
    "MessageTooLarge",
    "NotHandled",
    "NotSerializable",
    "Options",
    "Outcome",
    "OutboxFull",
    "OutboxMessage",
    "Peer",
    "PeerClosed",
    "Recall",
    "Receipt",
    "Reject",
    "Retry",
    "RetryLater",
    "State",
    "StoreDamaged",
    "StoreFull",
    "StoreLocked",
    "StoreTooNew",
    "UnknownMessage",
    "UnknownPeer",
    "Verdict",
    "as_completed",
    "wait_all",
}
PUBLIC_MODULES = {"aio", "testing"}
TESTING = {
    "Delivery",
    "LinkFaults",
    "Moving",
    "Network",
    "Peer",
    "PromiseBroken",
    "SimulatedPeer",
    "SimulatedReceipt",
}


class Import(NamedTuple):
    """One imported module, and the name taken from it, if one was."""

    module: str
    name: str | None
    line: int
    typing_only: bool


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[Import]:
    tree = parsed(path)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(path, node)
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, id(node) in typing_only)


def absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def layer_of(path: Path) -> str | None:
    """The layer that a file of zmqrel belongs to; None for the root, which only gathers the public names."""
    parts = dotted(path).split(".")
    if parts[1:] == ["__main__"]:
        return "cli"
    return parts[1] if len(parts) > 1 else None


def layer_imported(found: Import) -> str | None:
    """The layer of zmqrel that an import reaches; "" for the root's own names, None outside the package."""
    parts = found.module.split(".")
    if parts[0] != "zmqrel":
        return None
    if len(parts) > 1:
        return parts[1]
    return found.name if found.name in LAYERS else ""


def may_import(layer: str | None) -> set[str]:
    if layer is None:
        return set(LAYERS) - LEAVES
    found = set(LAYERS[: LAYERS.index(layer)]) - LEAVES | {layer}
    # The command line and the quick measurements use the public names as any other program does; `zmqrel plan` also the
    # model, which is one of them.
    return found | {"bench": {""}, "cli": {"", "testing"}}.get(layer, set())


@pytest.mark.parametrize("path", sources("zmqrel"), ids=dotted)
def test_imports_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    assert layer is None or layer in LAYERS, f"{path} has no place in the order: give it one in LAYERS"
    allowed = may_import(layer)
    for found in imports(path):
        reached = layer_imported(found)
        assert reached is None or reached in allowed, f"{path}:{found.line} imports what stands above it"


@pytest.mark.parametrize("path", sources("zmqrel"), ids=dotted)
def test_the_lowest_layers_stand_on_the_standard_library(path: Path) -> None:
    if layer_of(path) in STANDARD_LIBRARY_ONLY:
        roots = {found.module.split(".")[0] for found in imports(path)}
        assert roots <= sys.stdlib_module_names | {"zmqrel"}


@pytest.mark.parametrize("path", sources("zmqrel/core"), ids=dotted)
def test_the_core_does_not_know_the_world(path: Path) -> None:
    for found in imports(path):
        # The generator is given; only its type has to be named.
        is_type = found.typing_only and (found.module, found.name) == ("random", "Random")
        assert found.module.split(".")[0] not in WORLD or is_type, f"{path}:{found.line} imports {found.module}"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in WORLDLY_CALLS, f"{path}:{node.lineno} calls {called}"
            owner, _, method = called.rpartition(".")
            is_clock = method in CLOCKS and owner.split(".")[-1] in ("datetime", "date")
            assert not is_clock, f"{path}:{node.lineno} reads a clock"


def reached_from(layer: str) -> set[Path]:
    """Every file of zmqrel that runs when a layer is imported, the root aside."""
    files = {dotted(path): path for path in sources("zmqrel")}
    waiting = [name for name, path in files.items() if layer_of(path) == layer]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in reached or name not in files or name == "zmqrel":
            continue
        reached.add(name)
        waiting.append(name.rpartition(".")[0])
        for found in imports(files[name]):
            if not found.typing_only:
                waiting += [found.module, f"{found.module}.{found.name}"]
    return {files[name] for name in reached}


@pytest.mark.parametrize(
    ("layer", "strangers"),
    [("testing", {"zmq"}), ("core", {"zmq", "lmdb", "asyncio", "socket"}), ("store", {"zmq"})],
)
def test_strangers_are_not_reached_by_a_detour_either(layer: str, strangers: set[str]) -> None:
    for path in reached_from(layer):
        met = [found for found in imports(path) if found.module.split(".")[0] in strangers]
        assert not met, f"{layer} reaches {path}, which imports {met[0].module}"


def test_only_the_wire_knows_zmq_and_only_the_store_knows_lmdb() -> None:
    for path in sources("zmqrel"):
        if layer_of(path) == "bench":
            continue  # it measures both beside zmqrel
        roots = {found.module.split(".")[0] for found in imports(path)}
        assert "zmq" not in roots or layer_of(path) == "runtime", path
        assert "lmdb" not in roots or layer_of(path) == "store", path


@pytest.mark.parametrize("path", sources("nodes", "examples"), ids=dotted)
def test_nodes_and_examples_use_public_names_only(path: Path) -> None:
    allowed = PUBLIC | PUBLIC_MODULES
    for found in imports(path):
        parts = found.module.split(".")
        if parts[0] == "zmqrel":
            named = parts[1] if len(parts) > 1 else found.name
            assert named is None or named in allowed, f"{path}:{found.line} imports {found.module}.{found.name}"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "zmqrel":
            assert node.attr in allowed, f"{path}:{node.lineno} uses zmqrel.{node.attr}"


def test_the_public_names_are_these() -> None:
    package = importlib.import_module("zmqrel")
    assert set(package.__all__) == PUBLIC
    assert len(package.__all__) == len(PUBLIC)
    offered = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert offered == PUBLIC


def test_the_names_for_tests_are_these() -> None:
    assert set(importlib.import_module("zmqrel.testing").__all__) == TESTING


def test_the_double_offers_what_a_peer_offers() -> None:
    peer, double = (importlib.import_module(name).Peer for name in ("zmqrel", "zmqrel.testing"))
    missing = {name for name in dir(peer) if not name.startswith("_")} - set(dir(double))
    assert missing == {"run"}


def test_the_pytest_plugin_loads_nothing_at_the_start_of_pytest() -> None:
    at_start = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in parsed(ROOT / "pytest_zmqrel.py").body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert at_start == {"__future__", "collections.abc", "typing", "pytest"}
