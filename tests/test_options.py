"""Options: the defaults of the documentation, what each option takes, and what contradicts what."""

from __future__ import annotations

import time
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from zmqrel.errors import ConfigError
from zmqrel.options import Options
from zmqrel.retry import Retry

DOCUMENTED = {
    "durability": "fsync",
    "resend": Retry.exponential(0.2, max_interval=30, jitter="full"),
    "give_up_after_s": None,
    "heartbeat_s": 1,
    "liveness_s": 4,
    "window_bytes": 1024**2,
    "prefetch": 64,
    "max_body_bytes": 16 * 1024**2,
    "outbox_max_messages": 10_000_000,
    "outbox_max_bytes": 32 * 1024**3,
    "inbox_max_messages": 10_000_000,
    "inbox_max_bytes": 32 * 1024**3,
    "outcome_retention_s": 86_400,
    "dead_retention_s": 604_800,
    "dead_max_bytes": 1024**3,
    "on_store_loss": "resend",
    "accept": "listed",
    "permissions": None,
    "map_size_bytes": 128 * 1024**3,
    "keys": None,
    "insecure": False,
    "wall_clock": time.time,
    "seed": None,
}
DURATIONS = ["give_up_after_s", "heartbeat_s", "liveness_s", "outcome_retention_s", "dead_retention_s"]
ABOVE_0 = ["give_up_after_s", "heartbeat_s", "liveness_s"]
WHOLE = [name for name in DOCUMENTED if name.endswith(("_bytes", "_messages"))] + ["prefetch"]
BAD_DURATIONS = [-1, float("nan"), float("inf"), True, "1", timedelta(-1)]


def test_the_defaults_are_the_documented_ones() -> None:
    made = Options()
    assert {each.name: getattr(made, each.name) for each in fields(made)} == DOCUMENTED


def test_parse_takes_every_documented_option() -> None:
    assert Options.parse(DOCUMENTED) == Options()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("prefech", "prefetch"), ("heartbeat", "heartbeat_s"), ("max_body_byte", "max_body_bytes")],
)
def test_an_unknown_option_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no option '{name}'; did you mean .*{hint}") as refused:
        Options.parse({name: 1})
    assert isinstance(refused.value, ValueError)


def test_an_option_like_no_other_gets_the_whole_list() -> None:
    with pytest.raises(ConfigError, match="there are durability, resend, .*seed"):
        Options.parse({"zzzzzz": 1})


@pytest.mark.parametrize(
    ("name", "bad"),
    [(name, bad) for name in DURATIONS for bad in BAD_DURATIONS]
    + [(name, 0) for name in ABOVE_0]
    + [(name, bad) for name in WHOLE for bad in (-1, 1.0, True, "1", None, 2**63)]
    + [(name, 0) for name in WHOLE if name != "dead_max_bytes"]
    + [(name, bad) for name in ("durability", "on_store_loss", "accept") for bad in ("no", None, 1, True)]
    + [("keys", bad) for bad in ("", 1, True, b"keys")]
    + [("insecure", bad) for bad in (0, 1, None, "yes")]
    + [("seed", bad) for bad in (1.0, True, "1")]
    + [("wall_clock", bad) for bad in (None, 1.0)]
    + [("resend", bad) for bad in (None, 1, Retry)]
    + [("max_body_bytes", 1024**3 + 1), ("map_size_bytes", 1024**2 - 1), ("prefetch", 1_000_001)],
)
def test_a_bad_value_is_refused_by_name(name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} takes "):
        Options.parse({name: bad})


def test_what_is_allowed_is_said() -> None:
    with pytest.raises(ConfigError, match="^durability takes 'fsync' or 'relaxed', not 'never'$"):
        Options.parse({"durability": "never"})


def test_durations_may_be_timedeltas() -> None:
    made = Options.parse({"give_up_after_s": timedelta(hours=1), "dead_retention_s": timedelta(days=1)})
    assert (made.give_up_after_s, made.dead_retention_s) == (3600.0, 86_400.0)


def test_nothing_retained_is_allowed() -> None:
    made = Options.parse({"outcome_retention_s": 0, "dead_retention_s": 0, "dead_max_bytes": 0})
    assert (made.outcome_retention_s, made.dead_retention_s, made.dead_max_bytes) == (0, 0, 0)


@pytest.mark.parametrize("given", [{"liveness_s": 1}, {"heartbeat_s": 4}, {"heartbeat_s": 3, "liveness_s": 2}])
def test_liveness_is_longer_than_a_heartbeat(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="^liveness_s takes more seconds than heartbeat_s"):
        Options.parse(given)


@pytest.mark.parametrize(
    ("resend", "named"),
    [
        (Retry.fixed(1, max_attempts=3), "max_attempts"),
        (Retry.fixed(1, max_elapsed=3), "max_elapsed"),
        (Retry.linear(1, 1, max_interval=9, at_max_interval="stop"), "at_max_interval"),
    ],
)
def test_resend_never_stops(resend: Retry, named: str) -> None:
    with pytest.raises(ConfigError, match=f"^resend takes a Retry that never stops, without {named}.*give_up_after_s"):
        Options(resend=resend)


def test_resend_waits() -> None:
    with pytest.raises(ConfigError, match="^resend takes a Retry whose first wait is above 0"):
        Options(resend=Retry.fixed(0))


def test_a_clock_and_a_seed_may_be_given() -> None:
    made = Options(wall_clock=lambda: 7.0, seed=-3)
    assert made.wall_clock() == 7.0
    assert made.seed == -3


def test_options_are_a_value() -> None:
    with pytest.raises(AttributeError):
        Options().prefetch = 1  # type: ignore[misc]
    assert Options(prefetch=2) != Options()
    assert hash(Options()) == hash(Options())
