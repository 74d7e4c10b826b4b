"""`zmqrel recall`: take a message back."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep

import click

from zmqrel.cli import speech
from zmqrel.control.asking import connected

EPILOG = """\b
Examples:
  zmqrel recall data/shop 6f1c2b9f00d1e2a3-17
  zmqrel recall data/shop order-42 --timeout 5

The recall is committed before this command ends, and stays in force until
its verdict is known, also while the peer does not run. PENDING means: not
known yet; run it again to ask.

\b
Exit status: 0 RECALLED or PENDING, 1 TOO_LATE or UNCERTAIN, or no such
message is known, 2 used wrongly.
"""
_PAUSE_S = 0.05


@click.command(short_help="Take a message back.", epilog=EPILOG)
@speech.directory
@click.argument("message_id", metavar="ID")
@click.option(
    "--timeout",
    type=speech.Seconds(),
    default=1.0,
    show_default=True,
    help="Seconds to wait for the verdict of a running peer.",
)
@speech.as_json
@click.pass_context
@speech.mistakes_told
def recall(context: click.Context, directory: Path, message_id: str, timeout: float, as_json: bool) -> None:
    """Recall the message ID that was sent from the store DIR, so that it is never handed over."""
    give_up_at = monotonic() + timeout
    with connected(directory, change=True) as ask:
        found = ask("recall", id=message_id)
        running = ask("status")["running"]
        while found["verdict"] == "PENDING" and running and monotonic() < give_up_at:
            sleep(_PAUSE_S)
            found = ask("recall", id=message_id)
    if as_json:
        speech.say_json(found)
    else:
        why = {
            "RECALLED": "it was not and never will be handed over",
            "PENDING": "not known yet; the recall stays in force",
            "TOO_LATE": f"it ended {found['outcome']}" + (f": {found['reason']}" if found["reason"] else ""),
            "UNCERTAIN": "the store that knew was lost",
        }
        speech.say(speech.escaped(f"{found['verdict']}: {why[found['verdict']]}"))
    context.exit(0 if found["verdict"] in ("RECALLED", "PENDING") else 1)
