"""A pytest plugin: the fixture `zmqrel_network`, a simulated network for code that is given a zmqrel.Peer.

See docs/testing.md. It stands beside the package so that pytest, which loads it at every start, loads nothing else:
zmqrel is imported by the first test that asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zmqrel.testing import Network

_NETWORK: pytest.StashKey[Network] = pytest.StashKey()
_LAST_EVENTS = 10
_TAKES = "zmqrel(seed=0, seeds=1, check=True)"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--zmqrel-seed`."""
    parser.getgroup("zmqrel").addoption(
        "--zmqrel-seed", type=int, metavar="SEED", help="the seed of every zmqrel_network, whatever markers say"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker `zmqrel`."""
    config.addinivalue_line(
        "markers",
        f"{_TAKES}: the first seed of zmqrel_network, with how many seeds to run the test, "
        "and whether zmqrel's own promises are checked",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each seed."""
    said = _said(metafunc.definition)
    if "zmqrel_network" not in metafunc.fixturenames or "seeds" not in said:
        return
    first, asked = said.get("seed", 0), metafunc.config.getoption("--zmqrel-seed")
    seeds = range(first, first + said["seeds"]) if asked is None else [asked]
    metafunc.parametrize("zmqrel_network", seeds, indirect=True, ids=[f"seed{seed}" for seed in seeds])


def _said(item: pytest.Item) -> dict[str, Any]:
    """What the marker of a test says; a wrong one fails its collection, for a misspelt `seeds` would run one seed."""
    marker = item.get_closest_marker("zmqrel")
    if marker is None:
        return {}
    said = marker.kwargs
    wrong = marker.args or said.keys() - {"seed", "seeds", "check"}
    if not wrong and type(said.get("seed", 0)) is int and type(said.get("check", True)) is bool:
        seeds = said.get("seeds", 1)
        if type(seeds) is int and seeds >= 1:
            return said
    given = ", ".join([*map(repr, marker.args), *(f"{name}={value!r}" for name, value in said.items())])
    takes = f"the marker takes {_TAKES}, whole numbers with seeds from 1, not zmqrel({given})"
    raise pytest.Collector.CollectError(f"{item.nodeid}: {takes}")


@pytest.fixture
def zmqrel_network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A zmqrel.testing.Network: peers in virtual time, with faults at will; one seed gives one run.

    Every promise of zmqrel is checked while it runs, and told once more after the test, unless the marker says
    `check=False`.
    """
    from zmqrel.testing import Network

    said = _said(request.node)
    asked = request.config.getoption("--zmqrel-seed")
    network = Network(getattr(request, "param", said.get("seed", 0) if asked is None else asked))
    request.node.stash[_NETWORK] = network
    if said.get("check", True):
        network.check_promises()
    yield network
    network.shut_down()
    network.raise_broken()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed says its seed, and how to see the same again."""
    report = yield
    network = item.stash.get(_NETWORK, None)
    if report.failed and network is not None:
        events = [f"{at:12.6f} {by}: {' '.join(filter(None, event))}" for at, by, event in network.events]
        lines = [
            f"seed {network.seed}, {network.now:.6f} virtual seconds; the same again:",
            f"    pytest '{item.nodeid}' --zmqrel-seed={network.seed}",
            *(["the latest events:", *events[-_LAST_EVENTS:]] if events else []),
        ]
        report.sections.append(("zmqrel network", "\n".join(lines)))
    return report
