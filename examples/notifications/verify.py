"""Whether every notification was either shown in time or expired, and the sender knows which."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from examples.judge import Judge

# A notification is judged when it is handed over; so long may a busy machine take to the first line of the handler,
# and to write it down. Without expiry the last ones would come after ten times as long, see README.md.
SLACK_S = 1.0

FAULTS = {
    "nothing was sent": "SELECT 'no row' WHERE NOT EXISTS (SELECT * FROM sent)",
    "without an outcome": "SELECT id FROM sent WHERE id NOT IN (SELECT id FROM ended)",
    "outcome of something that was not sent": "SELECT id FROM ended WHERE id NOT IN (SELECT id FROM sent)",
    "ended neither shown nor expired": """
        SELECT id || ' ' || outcome FROM ended WHERE outcome NOT IN ('HANDLED', 'EXPIRED')""",
    "shown, and the sender was told otherwise": """
        SELECT id FROM shown WHERE id NOT IN (SELECT id FROM ended WHERE outcome = 'HANDLED')""",
    "not shown, and the sender was told otherwise": """
        SELECT id FROM ended WHERE outcome = 'HANDLED' AND id NOT IN (SELECT id FROM shown)""",
    "shown twice": "SELECT id FROM shown WHERE times > 1",
    "shown late": "SELECT shown.id || ' after ' || age_s || ' s' FROM shown JOIN limits ON age_s > latest_s",
}
FIGURES = {
    "sent": "SELECT count(*) FROM sent",
    "shown in time": "SELECT count(*) FROM shown",
    "expired": "SELECT count(*) FROM ended WHERE outcome = 'EXPIRED'",
    "oldest that was shown, in ms": "SELECT coalesce(max(age_s) * 1000, 0) FROM shown",
}


def limit(db: sqlite3.Connection, _data: Path) -> None:
    """How old one may be when it is shown."""
    db.execute("CREATE TEMP TABLE limits (latest_s REAL)")
    db.execute("INSERT INTO limits SELECT ttl_s + ? FROM feed.promised", (SLACK_S,))


JUDGE = Judge(
    example="notifications",
    books=("feed", "screen"),
    faults=FAULTS,
    figures=FIGURES,
    all_is_well="every notification was shown in time, or expired and is known to have",
    prepare=limit,
)

if __name__ == "__main__":
    sys.exit(JUDGE.main())
