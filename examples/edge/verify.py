"""Whether every command ended once, and hub and devices agree on how."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path

from examples.judge import Judge

FAULTS = {
    "nothing was sent": "SELECT 'no row' WHERE NOT EXISTS (SELECT * FROM commands)",
    "command without an end": "SELECT id FROM commands WHERE id NOT IN (SELECT id FROM ended)",
    "command with two ends": "SELECT id FROM ended GROUP BY id HAVING count(*) > 1",
    "end of a command that was never given": "SELECT id FROM ended WHERE id NOT IN (SELECT id FROM commands)",
    "end that such a command cannot have": """
        SELECT id || ' ' || kind || ' ' || outcome FROM commands JOIN ended USING (id)
        WHERE outcome <> 'HANDLED' AND outcome <> CASE kind WHEN 'short' THEN 'EXPIRED' WHEN 'recalled' THEN 'RECALLED'
            ELSE 'HANDLED' END
            AND NOT (outcome = 'EXHAUSTED' AND reason = CASE kind WHEN 'short' THEN 'deadline'
                WHEN 'recalled' THEN 'recalled' END)""",
    "handled, and no device has obeyed": """
        SELECT id FROM ended WHERE outcome = 'HANDLED' AND id NOT IN (SELECT id FROM obeyed)""",
    "expired or recalled, and a device has obeyed": """
        SELECT id FROM ended WHERE outcome IN ('EXPIRED', 'RECALLED') AND id IN (SELECT id FROM obeyed)""",
    "obeyed by another device than was told to": """
        SELECT id FROM commands JOIN obeyed USING (id) WHERE commands.device <> obeyed.device""",
    "obeyed, and never given": "SELECT id FROM obeyed WHERE id NOT IN (SELECT id FROM commands)",
    "handled and not reported": """
        SELECT id FROM ended WHERE outcome = 'HANDLED' AND id NOT IN (SELECT id FROM reports)""",
    "reported and not obeyed": "SELECT id FROM reports WHERE id NOT IN (SELECT id FROM obeyed)",
    "verdict that is not what became of the command": """
        SELECT id || ' ' || coalesce(verdict, 'none') FROM commands JOIN ended USING (id) WHERE kind = 'recalled'
            AND verdict IS NOT CASE outcome WHEN 'RECALLED' THEN 'RECALLED' ELSE 'TOO_LATE' END""",
}
FIGURES = {
    "devices": "SELECT count(DISTINCT device) FROM commands",
    "commands": "SELECT count(*) FROM commands",
    "obeyed": "SELECT count(*) FROM ended WHERE outcome = 'HANDLED'",
    "... again after a crash": "SELECT total(times - 1) FROM obeyed",
    "expired": "SELECT count(*) FROM ended WHERE outcome = 'EXPIRED'",
    "recalled": "SELECT count(*) FROM ended WHERE outcome = 'RECALLED'",
    "in the hands of a device that died": "SELECT count(*) FROM ended WHERE outcome = 'EXHAUSTED'",
}


def gather(db: sqlite3.Connection, data: Path) -> None:
    """What the devices have obeyed, out of their books."""
    db.execute("CREATE TEMP TABLE obeyed (device TEXT, id TEXT, times INTEGER)")
    for (device,) in db.execute("SELECT DISTINCT device FROM commands").fetchall():
        file = data / f"{device}.sqlite"
        if file.is_file():
            with contextlib.closing(sqlite3.connect(file)) as one:
                rows = one.execute("SELECT ?, id, times FROM obeyed", (device,)).fetchall()
            db.executemany("INSERT INTO obeyed VALUES (?, ?, ?)", rows)


JUDGE = Judge(
    example="edge",
    books=("hub",),
    faults=FAULTS,
    figures=FIGURES,
    all_is_well="every command ended once, and hub and devices agree on how",
    prepare=gather,
)

if __name__ == "__main__":
    sys.exit(JUDGE.main())
