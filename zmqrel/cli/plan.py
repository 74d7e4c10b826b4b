"""`zmqrel plan`: what becomes of messages on a bad network, reckoned; and which backoff is good enough."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from zmqrel.cli import speech
from zmqrel.cli.policy import Chance, Policy, Span, typed
from zmqrel.outcome import Outcome
from zmqrel.testing.choosing import Search, choose, percent
from zmqrel.testing.model import Prediction, Settings, predict

EPILOG = """\b
Example: with 20% loss and 30 seconds to live, what backoff gives 99.99%?
  zmqrel plan --loss 20% --ttl 30 --want 99.99%

\b
  zmqrel plan --loss 5% --handler-failure 0.3 --ttl 10 \\
      --retry "exponential(0.5, max_attempts=5, jitter=full)"
  zmqrel plan --loss 20% --ttl 30 --plot outcome.svg

It is one message on a connected, idle channel with a free worker; docs/plan.md
says what that leaves out. --plot needs the extra "plot".

\b
Exit status: 0 well, 1 nothing gives what --want asks for, 2 used wrongly.
"""
_SHARES = (0.5, 0.9, 0.99, 0.999, 0.9999)
_BAR = 40
_SUFFIXES = (".png", ".svg")
_CHANCE = Chance()


@click.command(short_help="Reckon what becomes of messages on a bad network.", epilog=EPILOG)
@click.option("--loss", type=_CHANCE, default="0", help="A frame to the receiver is lost.")
@click.option("--ack-loss", type=_CHANCE, help="A frame back is lost.  [default: as --loss]")
@click.option("--handler-failure", type=_CHANCE, default="0", help="An attempt fails.")
@click.option("--handler-rejection", type=_CHANCE, default="0", help="An attempt ends with a refusal.")
@click.option("--store-failure", type=_CHANCE, default="0", help="The receiver's store does not take what comes.")
@click.option("--store-damage", type=_CHANCE, default="0", help="A record is damaged when read back for a retry.")
@click.option("--delay", "delay_s", type=Span(), default="0.001", show_default=True, help="A frame travels: S or S:S.")
@click.option("--handler-time", "handler_s", type=speech.Seconds(), default=0.001, show_default=True)
@click.option("--ttl", type=speech.Seconds(above=True), help="As of send.  [default: none]")
@click.option("--retry", type=Policy(), help="The handler's Retry.  [default: that of handlers]")
@click.option("--resend", type=Policy(), help="The option resend of both peers.  [default: that of Peer]")
@click.option("--want", type=_CHANCE, help="Search for a backoff with which so many are HANDLED.")
@click.option("--plot", "plot_file", metavar="FILE", type=click.Path(path_type=Path), help="Draw it: .png or .svg.")
@speech.as_json
@click.pass_context
@speech.mistakes_told
def plan(context: click.Context, /, want: float | None, plot_file: Path | None, as_json: bool, **given: Any) -> None:
    """Reckon what becomes of a message: how it ends, how often it is sent, how long that takes.

    Chances are 20% or 0.2. Backoffs are typed as they are made: fixed(1),
    linear(1, 2), exponential(0.2, max_interval=30, jitter=full), random(1, 2).
    """
    if plot_file is not None:
        _check_plot(plot_file)
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    prediction = predict(settings)
    search = None if want is None else choose(settings, want)
    if as_json:
        speech.say_json(_shape(prediction, search))
    else:
        if search is not None:
            speech.say(f"with resend {typed(settings.resend)} and retry {typed(settings.retry)}")
        for line in _lines(prediction):
            speech.say(line)
        for line in [] if search is None else _found(search):
            speech.say(line)
    if plot_file is not None:
        _draw(prediction, plot_file)
    context.exit(1 if search is not None and not search.choices else 0)


# ------------------------------------------------------------------------------------------------------- words


def _lines(found: Prediction) -> list[str]:
    chances = [(outcome.name, percent(chance)) for outcome, chance in found.probabilities.items() if chance > 5e-9]
    lines = speech.columns(["outcome", "chance"], chances)
    lines += ["", f"{found.sends:.2f} transmissions and {found.attempts:.2f} attempts on average", ""]
    times = found.times
    rows = [(percent(share), _time(times.quantile(share), times.resolution_s)) for share in _SHARES]
    lines += speech.columns(["of messages", "have their outcome within"], rows)
    return [*lines, "", *_curve(found)]


def _time(seconds: float | None, resolution_s: float) -> str:
    if seconds is None:
        return "not within the time that was looked at"
    # A tick above zero may be anything up to it.
    return f"{max(seconds, resolution_s):.3g} s"


def _curve(found: Prediction) -> list[str]:
    """The share of messages that have their outcome, over time: a bar each."""
    block = "█" if "utf" in (getattr(sys.stdout, "encoding", None) or "").lower() else "#"
    lines = ["share of messages whose outcome is known, over time"]
    for seconds in _moments(found):
        share = found.times.cdf(seconds)
        lines.append(f"{seconds:>9g} s  {block * round(_BAR * share):<{_BAR}}  {percent(share)}")
    return lines


def _moments(found: Prediction) -> list[float]:
    """1, 2, 5, 10 and so on, from what is known at all to when nearly all is over."""
    times = found.times
    last_s = times.quantile(min(_SHARES[-1], times.cdf(times.horizon_s))) or times.horizon_s
    series = [float(f"{digit}e{power}") for power in range(-4, 6) for digit in (1, 2, 5)]
    inner = [seconds for seconds in series if times.resolution_s <= seconds < last_s]
    following = next((seconds for seconds in series if seconds >= max(last_s, times.resolution_s)), times.horizon_s)
    return [*inner, following]


def _found(search: Search) -> list[str]:
    wanted = percent(search.wanted)
    if not search.choices:
        best = search.best
        head = f"nothing gives {wanted}; the best that was tried gives {percent(best.handled)}:"
        return ["", head, f"  resend {typed(best.resend)}", f"  retry  {typed(best.retry)}", *search.why_not]
    lines = ["", f"{wanted} HANDLED is reached with"]
    for choice in search.choices:
        lines += [f"  resend {typed(choice.resend)}", f"  retry  {typed(choice.retry)}: {percent(choice.handled)}"]
    return lines


# -------------------------------------------------------------------------------------------------------- JSON


def _shape(found: Prediction, search: Search | None) -> dict[str, Any]:
    given, times = found.settings, found.times
    low, high = given.travel[0][1:]
    return {
        "settings": {
            "loss": given.loss,
            "ack_loss": given.loss_back,
            "handler_failure": given.handler_failure,
            "handler_rejection": given.handler_rejection,
            "store_failure": given.store_failure,
            "store_damage": given.store_damage,
            "delay_s": [low, high],
            "handler_s": given.lasts_s,
            "ttl_s": given.ttl_s,
            "retry": typed(given.retry),
            "resend": typed(given.resend),
        },
        "outcomes": {outcome.name: chance for outcome, chance in found.probabilities.items()},
        "sends": found.sends,
        "attempts": found.attempts,
        "unknown": found.unknown,
        "resolution_s": times.resolution_s,
        "quantiles_s": {str(share): times.quantile(share) for share in _SHARES},
        "told": [list(point) for point in times.points()],
        "want": None if search is None else _search_shape(search),
    }


def _search_shape(search: Search) -> dict[str, Any]:
    choices = [
        {"resend": typed(each.resend), "retry": typed(each.retry), "handled": each.handled}
        for each in (*search.choices, search.best)
    ]
    return {"handled": search.wanted, "choices": choices[:-1], "best": choices[-1], "why_not": list(search.why_not)}


# -------------------------------------------------------------------------------------------------------- plot


def _check_plot(file: Path) -> None:
    if file.suffix.lower() not in _SUFFIXES:
        raise speech.UsedWrongly(f"--plot takes a file that ends with {' or '.join(_SUFFIXES)}, not {str(file)!r}")
    if not file.parent.is_dir():
        raise speech.UsedWrongly(f"--plot: there is no directory {str(file.parent)!r} for {file.name!r}")
    try:
        import_module("matplotlib")
    except ModuleNotFoundError as error:
        words = '--plot needs matplotlib; install it with: pip install "zmqrel[plot]"'
        raise speech.UsedWrongly(words) from error


def _draw(found: Prediction, file: Path) -> None:
    # Without pyplot, which would look for a display.
    figure = import_module("matplotlib.figure").Figure(figsize=(8, 4), layout="constrained")
    curve, ends = figure.subplots(1, 2, width_ratios=(3, 1))
    seconds, shares = zip(*found.times.points(400), strict=True)
    curve.step(seconds, shares, where="post")
    curve.set(xlabel="seconds since send()", ylabel="share with a known outcome", ylim=(0, 1.02))
    curve.grid(alpha=0.3)
    names = [outcome.name for outcome in Outcome if found.probabilities[outcome] > 5e-9]
    chances = [found.probabilities[Outcome[name]] for name in names]
    bars = ends.barh(names, chances)
    ends.bar_label(bars, [percent(chance) for chance in chances], padding=3)
    ends.set(xlabel="chance", xlim=(0, 1.5))
    ends.invert_yaxis()
    try:
        figure.savefig(file)
    except OSError as error:
        raise speech.UsedWrongly(f"--plot: {str(file)!r} cannot be written: {error.strerror}") from error
