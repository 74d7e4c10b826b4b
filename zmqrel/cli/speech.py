"""How commands speak: text that cannot harm a terminal, JSON for programs, one line for a mistake of the user."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import wraps
from pathlib import Path
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import click

import zmqrel
from zmqrel.control.asking import Ask
from zmqrel.escaping import escaped as escaped

P = ParamSpec("P")
R = TypeVar("R")

# Whoever made these can mend them by typing something else.
_USED_WRONGLY = (zmqrel.ConfigError, zmqrel.UnknownPeer, zmqrel.DeadlinePassed, zmqrel.NotSerializable)
_REPEATED_S = 1.0
_LONGEST_LINE = 4000
"""Characters of what is said of one mistake."""
_WHOLE = 2**31
"""Bodies are shown where they are asked for."""
# A group that is called with nothing; click before 8.2 has no such error.
_SHOWS_HELP: tuple[type[Exception], ...] = tuple(
    filter(None, [getattr(click.exceptions, "NoArgsIsHelpError", None)]),
)


class FoundWrong(click.ClickException):
    """Something is wrong, told in one line: exit status 1."""

    def show(self, _file: Any = None) -> None:
        """To stderr."""
        say(f"zmqrel: {escaped(self.message, _LONGEST_LINE)}", err=True)


class UsedWrongly(FoundWrong):
    """A mistake of the user, told in one line: exit status 2."""

    exit_code = 2


class Seconds(click.FloatRange):
    """A number of seconds; what is none, infinite or out of range is refused with what is allowed."""

    name = "seconds"

    def __init__(self, least: float = 0.0, most: float | None = None, *, above: bool = False) -> None:
        """`above` leaves out `least` itself."""
        super().__init__(least, most, min_open=above)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click."""
        with suppress(click.BadParameter):
            seconds = float(super().convert(value, param, ctx))
            if math.isfinite(seconds):
                return seconds
        most = "" if self.max is None else f" to {self.max:g}"
        least = "above" if self.min_open else "from"
        raise click.BadParameter(f"takes a number of seconds {least} {self.min:g}{most}, not {value!r}", ctx, param)


class Whole(click.IntRange):
    """A whole number of at least so much; anything else is refused with what is allowed."""

    name = "n"

    def __init__(self, least: int) -> None:
        super().__init__(least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click."""
        with suppress(click.BadParameter):
            return int(super().convert(value, param, ctx))
        raise click.BadParameter(f"takes a whole number from {self.min}, not {value!r}", ctx, param)


class OneLine(click.Group):
    """A group whose commands tell wrong usage in one line, as everything else that is wrong."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """See click."""
        with _usage_in_one_line():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        with _usage_in_one_line():
            return super().invoke(ctx)


@contextmanager
def _usage_in_one_line() -> Iterator[None]:
    try:
        yield
    except _SHOWS_HELP:
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "zmqrel"
        words = " ".join(error.format_message().split()).rstrip(".")
        raise UsedWrongly(f"{words}; {path} --help tells more") from error


def say(line: str, *, err: bool = False) -> None:
    """Write a line; what its encoding lacks is escaped."""
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding), err=err)


def say_json(value: Any) -> None:
    """Write a value as one line of JSON, all of it ASCII."""
    click.echo(json.dumps(value))


class _Log(logging.Handler):
    """Warnings of the library as lines on stderr; one that is repeated within a second of the last is not said again.

    A peer that is refused tries again and again.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        now = monotonic()
        text = self.format(record)
        recent = {said: at for said, at in self._heard_at.items() if now < at + _REPEATED_S}
        self._heard_at = recent | {text: now}
        if text not in recent:
            with suppress(OSError):  # nobody reads stderr any more
                for line in text.splitlines():
                    say(f"zmqrel: {escaped(line, _LONGEST_LINE)}", err=True)


@contextmanager
def log_told() -> Iterator[None]:
    """What the library logs meanwhile is told on stderr."""
    handler = _Log()
    logger = logging.getLogger("zmqrel")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table as lines: columns as wide as they need to be, numbers to the right, everything escaped."""
    cells = [[escaped(_cell(value)) for value in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(head), *cells]) for at in range(len(head))]
    kinds = [{type(row[at]) for row in rows} - {type(None)} for at in range(len(head))]
    numeric = [of == {int} for of in kinds]
    lines = []
    for line in [list(head), *cells]:
        pairs = zip(line, widths, numeric, strict=True)
        lines.append(
            "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in pairs).rstrip()
        )
    return lines


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def moment(at: str | None) -> str:
    """A time as commands get it, in the form of a person: local time, milliseconds."""
    if at is None:
        return "-"
    return datetime.fromisoformat(at).astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


def body_text(shape: Mapping[str, Any] | None) -> str:
    """A body as {"value": ...} or {"left_out": ...}, as JSON on one line."""
    if shape is None:
        return "-"
    if "left_out" in shape:
        return f"({escaped(shape['left_out'])})"
    return escaped(json.dumps(shape["value"], ensure_ascii=False), _WHOLE)


def mistakes_told(command: Callable[P, R]) -> Callable[P, R]:
    """Errors of zmqrel and of the system end the command with a line on stderr and a status."""

    @wraps(command)
    def told(*arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            return command(*arguments, **keywords)
        except zmqrel.Error as error:
            raise (UsedWrongly if isinstance(error, _USED_WRONGLY) else FoundWrong)(str(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FoundWrong(str(error)) from error

    return told


def listed(ask: Ask, question: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Every item of a listing, page by page."""
    left: list[Any] | None = None
    while left is None or left:
        page = ask(question, left=left, **arguments)
        left = page["left"]
        yield from page["items"]


def listed_dead(ask: Ask, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Every dead letter, page by page."""
    after, upto = 0, 0
    while after is not None:
        page = ask("dead", after=after, upto=upto, **arguments)
        after, upto = page["after"], page["upto"]
        yield from page["items"]


# Not checked by click: what is wrong with it is told in the same words as everywhere.
directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, readable=False))
keys = click.option(
    "--keys", metavar="DIR", help="The keys of this peer, as zmqrel keygen makes them: only peers with keys get in."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON; docs/cli.md describes the keys.")
