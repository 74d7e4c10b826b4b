"""The pytest plugin, in a pytest of its own: the tests of docs/testing.md, seeds, failures, and its cost at start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```py (\S+)\n(.*?)```", PAGE, re.DOTALL))


def run_pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    plugins = ["-p", "pytest_zmqrel", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--strict-markers", *plugins, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def failing(folder: Path, body: str, decorator: str = "") -> None:
    """A test of one statement."""
    (folder / "test_it.py").write_text(
        f"import pytest, zmqrel\nfrom zmqrel.testing import PromiseBroken\n{decorator}\n"
        f"def test_it(zmqrel_network):\n    {body}\n"
    )


def test_the_tests_on_the_page_pass(tmp_path: Path) -> None:
    assert set(FILES) == {"stock.py", "test_stock.py"}
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    status, said = run_pytest(tmp_path)
    assert status == 0, said
    assert "24 passed" in said


def test_the_tests_on_the_page_find_a_service_that_counts_twice(tmp_path: Path) -> None:
    (tmp_path / "test_stock.py").write_text(FILES["test_stock.py"])
    twice = FILES["stock.py"].replace("message text primary key", "message text").replace("insert or ignore", "insert")
    (tmp_path / "stock.py").write_text(twice)
    status, said = run_pytest(tmp_path)
    assert status == 1, said
    assert "FAILED test_stock.py::test_what_is_handed_over_again_counts_once" in said
    command = re.findall(r"pytest '(\S*wherever_it_dies\S*)' --zmqrel-seed=(\d+)", said)[0]
    status, again = run_pytest(tmp_path, command[0], f"--zmqrel-seed={command[1]}")
    assert (status, "1 failed" in again) == (1, True), again


def test_a_failure_tells_the_seed_and_the_option_sets_it(tmp_path: Path) -> None:
    failing(tmp_path, "zmqrel_network.advance(2); assert zmqrel_network.seed == 5")
    status, said = run_pytest(tmp_path)
    assert status == 1
    assert "seed 0, 2.000000 virtual seconds" in said
    assert "pytest 'test_it.py::test_it' --zmqrel-seed=0" in said
    assert run_pytest(tmp_path, "--zmqrel-seed=5")[0] == 0


def test_a_marker_that_says_something_else_is_told(tmp_path: Path) -> None:
    wrong = ["sedes=3", "5", "seeds=0", "seeds='3'", "seeds=True", "seed=1.0", "check=1"]
    for number, each in enumerate(wrong):
        failing(tmp_path, "pass", f"@pytest.mark.zmqrel({each})")
        (tmp_path / "test_it.py").rename(tmp_path / f"test_wrong{number}.py")
    status, said = run_pytest(tmp_path)
    assert status == 2, said
    takes = "the marker takes zmqrel(seed=0, seeds=1, check=True), whole numbers with seeds from 1, not"
    for number, each in enumerate(wrong):
        assert f"test_wrong{number}.py::test_it: {takes} zmqrel({each})" in said
    assert "Traceback" not in said
    assert "pytest_zmqrel.py" not in said


def test_a_broken_promise_that_was_swallowed_fails_the_test(tmp_path: Path) -> None:
    body = (
        "shop = zmqrel_network.peer('shop', {'bank': True})\n"
        "    with pytest.raises(PromiseBroken):\n"
        "        zmqrel_network.observe('handed over', HANDED_OVER)\n"
    )
    observed = (
        "from zmqrel.testing.observations import HandOver\n"
        "HANDED_OVER = HandOver('shop', 'bank', 'default', '1', None, None, 'nobody sent it', 1, False, 0, 0)"
    )
    failing(tmp_path, body, observed)
    status, said = run_pytest(tmp_path)
    assert status == 1
    assert "handed over, but nobody sent it" in said
    failing(tmp_path, body.replace("pytest.raises(PromiseBroken)", "__import__('contextlib').nullcontext()"),
            f"{observed}\n@pytest.mark.zmqrel(check=False)")  # fmt: skip
    assert run_pytest(tmp_path)[0] == 0


def test_handlers_that_wait_are_gone_after_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import threading\n"
        "def test_one(zmqrel_network):\n"
        "    shop = zmqrel_network.peer('shop', {'bank': True})\n"
        "    bank = zmqrel_network.peer('bank', {'shop': False})\n"
        "    bank.handler()(lambda message: zmqrel_network.advance(3600))\n"
        "    shop.send('bank', 1)\n"
        "    zmqrel_network.advance(1)\n"
        "    assert threading.active_count() == 2\n"
        "def test_two():\n"
        "    assert threading.active_count() == 1\n"
    )
    status, said = run_pytest(tmp_path)
    assert status == 0, said


def test_pytest_starts_without_loading_the_package(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it(): assert not {'zmqrel', 'zmq', 'lmdb'} & set(sys.modules)\n"
    )
    status, said = run_pytest(tmp_path)
    assert status == 0, said


@pytest.mark.parametrize("option", ["--markers", "--fixtures"])
def test_it_is_described(tmp_path: Path, option: str) -> None:
    (tmp_path / "test_it.py").write_text("")
    said = run_pytest(tmp_path, option)[1]
    assert "zmqrel(seed=0" in said or "zmqrel_network" in said
