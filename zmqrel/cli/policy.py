"""Chances and backoffs as they are typed: 20% or 0.2, exponential(0.2, max_interval=30, jitter=full)."""

from __future__ import annotations

import ast
from contextlib import suppress
from typing import Any

import click

import zmqrel

KINDS = ("fixed", "linear", "exponential", "random")


class Chance(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A chance: 20% or 0.2."""

    name = "chance"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click."""
        text = str(value).strip()
        with suppress(ValueError):
            chance = float(text[:-1]) / 100 if text.endswith("%") else float(text)
            if 0 <= chance <= 1:
                return chance
        raise click.BadParameter(f"takes a chance from 0 to 1, or from 0% to 100%, not {text!r}", ctx, param)


class Span(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Seconds, or two of them with a colon between: a time that is drawn."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """See click."""
        if isinstance(value, tuple):
            return value
        with suppress(ValueError):
            low, high = (float(part) for part in (str(value) if ":" in str(value) else f"{value}:{value}").split(":"))
            if 0 <= low <= high:
                return low, high
        words = f"takes seconds, or two with a colon between such as 0.01:0.05, the smaller first, not {value!r}"
        raise click.BadParameter(words, ctx, param)


class Policy(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A zmqrel.Retry as it is made: exponential(0.2, max_interval=30, jitter=full)."""

    name = "retry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> zmqrel.Retry:
        """See click."""
        if isinstance(value, zmqrel.Retry):
            return value
        try:
            return _made(str(value))
        except (SyntaxError, ValueError, TypeError, AttributeError) as error:
            # ConfigError is one of them, and says which part is wrong.
            why = f": {error}" if isinstance(error, zmqrel.ConfigError | TypeError) else ""
            words = f"takes {', '.join(KINDS[:-1])} or {KINDS[-1]} with what Retry.KIND takes, such as "
            words += f"exponential(0.2, max_interval=30, jitter=full), not {value!r}{why}"
            raise click.BadParameter(words, ctx, param) from error


def _made(text: str) -> zmqrel.Retry:
    call = ast.parse(text.strip(), mode="eval").body
    if not isinstance(call, ast.Call):
        raise ValueError("no call")
    kind = ast.unparse(call.func).rpartition("Retry.")[2]
    if kind not in KINDS or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError("no kind of Retry")
    arguments = [_value(each) for each in call.args]
    named = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
    made: zmqrel.Retry = getattr(zmqrel.Retry, kind)(*arguments, **named)
    return made


def _value(node: ast.expr) -> Any:
    """A number, or a word with or without quotes."""
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def typed(policy: zmqrel.Retry) -> str:
    """A policy as it is typed."""
    second = {"linear": "step", "random": "spread"}.get(policy.kind)
    parts = [f"{policy.base:g}"]
    if second is not None or (policy.kind == "exponential" and policy.growth != 2):
        parts.append(f"{policy.growth:g}")
    for name, default in (
        ("max_interval", None),
        ("at_max_interval", "cap"),
        ("max_attempts", None),
        ("max_elapsed", None),
        ("jitter", "none"),
    ):
        value = getattr(policy, name)
        if value != default:
            parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return f"{policy.kind}({', '.join(parts)})"
