"""`zmqrel plan`: what it prints, draws and finds, and what it says to mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.commands import assert_one_line, called, one
from zmqrel import Retry
from zmqrel.cli.policy import Policy, typed


def test_it_prints_chances_times_and_a_curve() -> None:
    said = called("plan", "--loss", "20%", "--ttl", "1").stdout
    assert "HANDLED" in said
    assert "99.50 %" in said
    assert "EXPIRED" in said
    assert "transmissions" in said
    bars = [line.count("#") + line.count("█") for line in said.split("over time")[1].splitlines()]
    assert bars == sorted(bars)
    assert max(bars) >= 39


def test_json_says_what_the_schema_says() -> None:
    found = one("prediction", "plan", "--loss", "0.2", "--ttl", 1, "--delay", "0.01:0.03", "--retry", "fixed(1)")
    assert sum(found["outcomes"].values()) == pytest.approx(1)
    assert found["settings"]["delay_s"] == [0.01, 0.03]
    assert found["settings"]["ack_loss"] == 0.2
    assert found["settings"]["retry"] == "fixed(1)"
    assert found["want"] is None


def test_what_is_given_may_do() -> None:
    found = one("prediction", "plan", "--loss", "20%", "--ttl", 30, "--want", "99.99%")
    assert [choice["resend"] for choice in found["want"]["choices"]] == [found["settings"]["resend"]]
    assert found["want"]["choices"][0]["handled"] >= 0.9999


def test_it_finds_a_backoff_that_does() -> None:
    slow = ("--loss", "30%", "--ttl", 5, "--resend", "fixed(4)")
    found = one("prediction", "plan", *slow, "--want", "99%")
    assert found["outcomes"]["HANDLED"] < 0.99
    choices = found["want"]["choices"]
    assert 1 <= len(choices) <= 3
    for choice in choices:
        again = one("prediction", "plan", "--loss", "30%", "--ttl", 5, "--resend", choice["resend"])
        assert again["outcomes"]["HANDLED"] >= 0.99
    said = called("plan", *slow, "--want", "99%")
    assert said.returncode == 0
    assert choices[0]["resend"] in said.stdout


def test_it_says_why_none_does() -> None:
    found = one("prediction", "plan", "--handler-rejection", "10%", "--ttl", 5, "--want", "95%", status=1)
    assert found["want"]["choices"] == []
    assert ["refused" in why for why in found["want"]["why_not"]] == [True]
    said = called("plan", "--loss", "50%", "--ttl", "0.3", "--want", "99%")
    assert said.returncode == 1
    assert "nothing gives 99.00 %" in said.stdout
    assert "not received within the ttl of 0.3 s" in said.stdout


@pytest.mark.parametrize(("name", "begin"), [("out.png", b"\x89PNG"), ("out.svg", b"<?xml")])
def test_it_draws(tmp_path: Path, name: str, begin: bytes) -> None:
    ended = called("plan", "--loss", "20%", "--ttl", "1", "--plot", tmp_path / name)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / name).read_bytes().startswith(begin)


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = called("plan", "--plot", tmp_path / "out.png")
    assert ended.returncode == 2
    assert_one_line(ended.stderr)
    assert 'pip install "zmqrel[plot]"' in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--loss", "120%"), "--loss"),
        (("--want", "often"), "--want"),
        (("--delay", "2:1"), "--delay"),
        (("--ttl", "0"), "ttl"),
        (("--loss", "1"), "ttl"),
        (("--retry", "sometimes"), "--retry"),
        (("--retry", "exponential(1, 0.5)"), "factor"),
        (("--retry", "fixed(1, often=3)"), "often"),
        (("--retry", "fixed(__import__('os').getcwd())"), "--retry"),
        (("--resend", "fixed(1, max_attempts=2)"), "resend"),
        (("--handler-failure", "0.6", "--handler-rejection", "0.6"), "handler_rejection"),
        (("--plot", "out.txt"), ".svg"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: tuple[str, ...], named: str) -> None:
    ended = called("plan", *arguments)
    assert ended.returncode == 2
    assert_one_line(ended.stderr)
    assert named in ended.stderr


def test_where_nothing_can_be_drawn_it_says_so(tmp_path: Path) -> None:
    ended = called("plan", "--plot", tmp_path / "missing" / "out.svg")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert_one_line(ended.stderr)
    assert "--plot" in ended.stderr
    (tmp_path / "taken.svg").mkdir()
    ended = called("plan", "--plot", tmp_path / "taken.svg")
    assert ended.returncode == 2
    assert_one_line(ended.stderr)


@pytest.mark.parametrize(
    "policy",
    [
        Retry.fixed(1),
        Retry.linear(1, 2, max_attempts=3),
        Retry.exponential(0.2, max_interval=30, jitter="full"),
        Retry.exponential(0.2, 3, max_interval=5, at_max_interval="stop"),
        Retry.random(1, 2, max_elapsed=60, jitter="equal"),
    ],
)
def test_policies_are_typed_as_they_are_read(policy: Retry) -> None:
    assert Policy().convert(typed(policy), None, None) == policy
    assert Policy().convert(f"zmqrel.Retry.{typed(policy)}", None, None) == policy
