"""Checks of arguments and the errors that they raise."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqrel import checks, errors
from zmqrel.errors import ConfigError
from zmqrel.outcome import Outcome

UTC = timezone.utc


# Names, queues, ids, keys


@pytest.mark.parametrize("good", ["a", "shop", "A.b_c-9", "x" * 64, ".", "-"])
def test_names_and_queues(good: str) -> None:
    assert checks.check_name(good) == good
    assert checks.check_queue(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "a/b", "a\n", "ä", "٣", None, 1, b"a", ["a"]])
def test_bad_names_are_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="^name takes a str of 1 to 64 of a-z A-Z 0-9 . _ -, not "):
        checks.check_name(bad)
    with pytest.raises(ConfigError, match="^queue takes"):
        checks.check_queue(bad)
    with pytest.raises(ConfigError, match="^to takes"):
        checks.check_name(bad, "to")


@pytest.mark.parametrize("good", ["a", "order 42", "ä" * 64, "x" * 128, "\n"])
def test_ids_and_keys(good: str) -> None:
    assert checks.check_id(good) == good
    assert checks.check_key(good) == good


def test_a_key_may_be_none() -> None:
    assert checks.check_key(None) is None


@pytest.mark.parametrize("bad", ["", "x" * 129, "ä" * 65, "\ud800", 1, b"a", True])
def test_bad_ids_and_keys_are_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="^id takes a str of 1 to 128 bytes in UTF-8"):
        checks.check_id(bad)
    with pytest.raises(ConfigError, match="^key takes"):
        checks.check_key(bad)


def test_an_id_is_not_none() -> None:
    with pytest.raises(ConfigError, match="^id takes"):
        checks.check_id(None)


# Headers


def test_headers_are_copied() -> None:
    mine = {"a": "x", "b": -(2**63), "c": 2**64 - 1, "d": 0.5, "e": False, "f": b"\0"}
    checked = checks.check_headers(mine)
    assert checked == mine
    assert checked is not mine


def test_no_headers() -> None:
    assert checks.check_headers(None) == {}
    assert checks.check_headers({}) == {}


@pytest.mark.parametrize("bad", [[("a", 1)], "a", 1, {1, 2}])
def test_headers_are_a_dict(bad: object) -> None:
    with pytest.raises(ConfigError, match="^headers takes a dict"):
        checks.check_headers(bad)


@pytest.mark.parametrize("bad", [None, [], {}, (1,), 2**64, -(2**63) - 1, "\ud800", datetime.now(), bytearray()])
def test_bad_header_values_are_refused_by_name(bad: object) -> None:
    with pytest.raises(ConfigError, match=r"^headers\['x'\] takes str, int"):
        checks.check_headers({"good": 1, "x": bad})


@pytest.mark.parametrize("bad", [1, None, b"x", ("a",), "\ud800"])
def test_bad_header_names_are_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="^a name in headers takes a str"):
        checks.check_headers({bad: 1})


# Durations and points in time


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(0, 0.0), (1, 1.0), (0.25, 0.25), (timedelta(milliseconds=5), 0.005), (checks.LONGEST_S,) * 2],
)
def test_durations(given: Any, seconds: float) -> None:
    checked = checks.duration_s("ttl", given)
    assert checked == seconds
    assert isinstance(checked, float)


@pytest.mark.parametrize(
    "bad",
    [
        -1,
        -1e-9,
        float("nan"),
        float("inf"),
        10**400,
        pytest.param(10**5000, id="5000 digits"),
        True,
        None,
        "1",
        timedelta(-1),
        timedelta.max,
    ],
)
def test_bad_durations_are_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="^ttl takes seconds, from 0 to 3155760000, or a timedelta"):
        checks.duration_s("ttl", bad)


@pytest.mark.parametrize("bad", [0, 0.0, timedelta(0), -1, False])
def test_a_duration_can_be_asked_to_be_above_0(bad: object) -> None:
    assert checks.duration_s("ttl", 1e-9, zero=False) == 1e-9
    with pytest.raises(ConfigError, match="^ttl takes seconds, above 0 to"):
        checks.duration_s("ttl", bad, zero=False)


@given(st.datetimes(datetime(2, 2, 1), datetime(9998, 12, 1), timezones=st.just(UTC)))
def test_an_aware_datetime_is_an_instant(when: datetime) -> None:
    posix = checks.instant_posix("deadline", when)
    assert abs(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=posix) - when) < timedelta(milliseconds=1)


def test_instants_do_not_depend_on_the_zone_that_names_them() -> None:
    noon = datetime(2024, 6, 1, 12, tzinfo=UTC)
    assert checks.instant_posix("deadline", noon) == 1717243200.0
    assert checks.instant_posix("deadline", noon.astimezone(timezone(timedelta(hours=-9)))) == 1717243200.0


@pytest.mark.parametrize("given", [0, -5, 1717243200, 1717243200.5])
def test_posix_seconds_are_instants(given: float) -> None:
    assert checks.instant_posix("deadline", given) == given


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(ConfigError, match="^deadline takes an aware datetime"):
        checks.instant_posix("deadline", datetime(2024, 6, 1))


@pytest.mark.parametrize(
    "bad",
    [None, True, "2024", float("nan"), float("inf"), 1e12, datetime.max.replace(tzinfo=UTC), timedelta(1)],
)
def test_bad_instants_are_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="^deadline takes an aware datetime or POSIX seconds"):
        checks.instant_posix("deadline", bad)


# Numbers and words


def test_whole_numbers() -> None:
    assert checks.whole("n", 3, 1) == 3
    assert checks.whole("n", 10**40, 1) == 10**40
    for bad in (0, 1.0, True, "1", None):
        with pytest.raises(ConfigError, match="^n takes a whole number of at least 1, not "):
            checks.whole("n", bad, 1)
    with pytest.raises(ConfigError, match="^n takes a whole number from 1 to 2, not 3$"):
        checks.whole("n", 3, 1, 2)


def test_numbers() -> None:
    assert checks.number("x", 3, 1, 4) == 3.0
    for bad in (0.9, 4.1, float("nan"), True, "1", None):
        with pytest.raises(ConfigError, match="^x takes a number from 1 to 4, not "):
            checks.number("x", bad, 1, 4)


def test_one_of_a_few_words() -> None:
    assert checks.one_of("ack", "auto", ("auto", "manual")) == "auto"
    for bad in ("Auto", None, True, 1, ["auto"]):
        with pytest.raises(ConfigError, match="^ack takes 'auto' or 'manual', not "):
            checks.one_of("ack", bad, ("auto", "manual"))


# Endpoints

BOTH_WAYS = [
    "tcp://127.0.0.1:7001",
    "tcp://localhost:1",
    "tcp://my-host.example_1:65535",
    "tcp://[::1]:7001",
    "ipc:///tmp/a.sock",
    "ipc://relative/a b.sock",
    "ipc://@abstract",
]
BIND_ONLY = ["tcp://127.0.0.1:*", "tcp://*:7001", "tcp://*:*", "tcp://[::]:*"]
NEITHER_WAY = [
    "",
    "127.0.0.1:7001",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:65536",
    "tcp://127.0.0.1:70 01",
    "tcp://:7001",
    "tcp://::1:7001",
    "tcp://[nonsense]:7001",
    "tcp://[127.0.0.1]:7001",
    "tcp://a;b:7001",
    "tcp://127.0.0.1:7001\n",
    "TCP://127.0.0.1:7001",
    "inproc://a",
    "udp://127.0.0.1:7001",
    "ipc://",
    "ipc://*",
    "ipc://a\0b",
    "ipc://" + "x" * 108,
    None,
    7001,
    b"tcp://127.0.0.1:7001",
]


@pytest.mark.parametrize("endpoint", BOTH_WAYS)
def test_endpoints(endpoint: str) -> None:
    assert checks.check_endpoint("bind", endpoint, use="bind") == endpoint
    assert checks.check_endpoint("peers", endpoint, use="connect") == endpoint


@pytest.mark.parametrize("endpoint", BIND_ONLY)
def test_wildcards_are_for_binding(endpoint: str) -> None:
    assert checks.check_endpoint("bind", endpoint, use="bind") == endpoint
    with pytest.raises(ConfigError, match="^peers takes tcp://host:port .port is 1 to 65535. or ipc://path"):
        checks.check_endpoint("peers", endpoint, use="connect")


@pytest.mark.parametrize("bad", NEITHER_WAY)
def test_bad_endpoints_are_refused(bad: object) -> None:
    for use in ("bind", "connect"):
        with pytest.raises(ConfigError, match="^bind takes tcp://host:port "):
            checks.check_endpoint("bind", bad, use=use)  # type: ignore[arg-type]


def test_bind_takes_one_endpoint_or_several() -> None:
    one, other = "tcp://127.0.0.1:*", "ipc:///tmp/a"
    assert checks.check_bind(one) == (one,)
    assert checks.check_bind([one, other]) == (one, other)
    assert checks.check_bind(()) == ()
    for bad in (None, 7001, b"tcp://127.0.0.1:1", {"a": one}, [7001], [""], ""):
        with pytest.raises(ConfigError, match="^bind takes "):
            checks.check_bind(bad)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:1",
        "tcp://127.9.9.9:*",
        "tcp://localhost:1",
        "tcp://LOCALHOST:1",
        "tcp://[::1]:1",
        "tcp://[::ffff:127.0.0.1]:1",
        "ipc:///tmp/a",
    ],
)
def test_loopback(endpoint: str) -> None:
    assert checks.is_loopback(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:1",
        "tcp://0.0.0.0:1",
        "tcp://[::]:1",
        "tcp://10.0.0.1:1",
        "tcp://[::ffff:10.0.0.1]:1",
        "tcp://127.0.0.1.example.com:1",
        "tcp://localhost.example.com:1",
        "tcp://eth0:1",
    ],
)
def test_not_loopback(endpoint: str) -> None:
    assert not checks.is_loopback(endpoint)


# Errors


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (errors.ConfigError, ValueError),
        (errors.UnknownPeer, LookupError),
        (errors.UnknownMessage, LookupError),
        (errors.NotSerializable, TypeError),
    ],
)
def test_some_errors_are_also_builtin_ones(error: type[Exception], also: type[Exception]) -> None:
    assert issubclass(error, also)
    assert issubclass(error, errors.Error)


def test_every_error_says_who_is_at_fault() -> None:
    named = [getattr(errors, name) for name in errors.__all__ if name[0].isupper() and name != "LONGEST_S"]
    for error in named:
        if issubclass(error, errors.Error) and error is not errors.Error:
            assert "at fault" in (error.__doc__ or ""), error


def test_what_handlers_raise_is_no_error_of_the_package() -> None:
    assert not issubclass(errors.Reject, errors.Error)
    assert not issubclass(errors.RetryLater, errors.Error)


def test_reject_carries_its_reason() -> None:
    assert errors.Reject("no such order").reason == "no such order"
    with pytest.raises(ConfigError, match="^reason takes a str"):
        errors.Reject(None)  # type: ignore[arg-type]


def test_retry_later_carries_its_delay_in_seconds() -> None:
    assert errors.RetryLater(2).delay == 2.0
    assert errors.RetryLater(timedelta(minutes=1)).delay == 60.0
    with pytest.raises(ConfigError, match="^delay takes seconds"):
        errors.RetryLater(-1)


def test_not_handled_tells_how_it_ended() -> None:
    error = errors.NotHandled(Outcome.REJECTED, "no such order")
    assert (error.outcome, error.reason) == (Outcome.REJECTED, "no such order")
    assert str(error) == "the message ended REJECTED, not HANDLED: no such order"
    assert str(errors.NotHandled(Outcome.EXPIRED)) == "the message ended EXPIRED, not HANDLED"


@pytest.mark.parametrize(
    "error",
    [
        errors.NotHandled(Outcome.EXPIRED, "late"),
        errors.Reject("no"),
        errors.RetryLater(timedelta(1)),
        ConfigError("x"),
    ],
)
def test_errors_survive_copying_and_pickling(error: Exception) -> None:
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000,
        list(range(10_000)),
        pytest.param(10**5000, id="5000 digits"),
        {"a": "b" * 10_000},
        object(),
    ],
)
def test_messages_stay_short_whatever_was_given(value: object) -> None:
    assert len(str(ConfigError.of("body", "less", value))) < 400
