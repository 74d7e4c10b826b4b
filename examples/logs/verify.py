"""Whether every line that was written into the log is in the table once, and nothing else."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

from examples.judge import Judge

FAULTS = {
    "rows are as many as lines": """
        SELECT rows || ' rows of ' || lines || ' lines' FROM
            (SELECT (SELECT count(*) FROM parsed) AS rows, (SELECT count(*) FROM written) AS lines)
        WHERE rows <> lines""",
    "line that is missing": """
        SELECT line FROM written GROUP BY line
        HAVING count(*) > (SELECT count(*) FROM parsed WHERE parsed.line = written.line)""",
    "row that was never written, or too often": """
        SELECT line FROM parsed GROUP BY line
        HAVING count(*) > (SELECT count(*) FROM written WHERE parsed.line = written.line)""",
    "line before one that was written earlier": """
        SELECT line FROM (SELECT line, row_number() OVER (ORDER BY n) AS place FROM parsed) AS rows
        WHERE line <> (SELECT line FROM written WHERE written.n = place)""",
    "no end": "SELECT 'the header end never came' WHERE NOT EXISTS (SELECT * FROM messages WHERE expected IS NOT NULL)",
}
FIGURES = {
    "lines written": "SELECT count(*) FROM written",
    "rows": "SELECT count(*) FROM parsed",
    "... of a known form": "SELECT count(level) FROM parsed",
    "... errors": "SELECT count(*) FROM parsed WHERE level = 'ERROR'",
    "files of the log": "SELECT count(DISTINCT file) FROM parsed",
    "handed over again after a crash": "SELECT total(times - 1) FROM messages",
}


def parse(db: sqlite3.Connection, _data: Path) -> None:
    """The bodies of the rows; and from the ids, the file that each line was read in."""
    db.execute("CREATE TEMP TABLE parsed (n INTEGER, file TEXT, line TEXT, level TEXT)")
    found = db.execute("SELECT n, id, body FROM sink.messages WHERE expected IS NULL").fetchall()
    rows = [(n, name.split(":")[-2], json.loads(body)) for n, name, body in found]
    db.executemany(
        "INSERT INTO parsed VALUES (?, ?, ?, ?)",
        [(n, file, body["line"], body.get("level")) for n, file, body in rows],
    )


JUDGE = Judge(
    example="logs",
    books=("writer", "sink"),
    faults=FAULTS,
    figures=FIGURES,
    all_is_well="every line is in the table, once and in order",
    prepare=parse,
)

if __name__ == "__main__":
    sys.exit(JUDGE.main())
