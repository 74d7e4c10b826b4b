"""Whether every task ended as its kind has it: begun in its time, retried as often as asked, dead letters kept."""

from __future__ import annotations

import sys

from examples.judge import Judge

# A task is judged when it is handed over; so long may a busy machine take to the first line of the handler.
SLACK_S = 1.0
# By the clock of the planner: the crew knows it as exactly as the best round trip was short.
CLOCKS_S = 0.1

# A machine that is too busy to begin a hopeless one in its time lets it expire.
EXPECTED = """
    SELECT id, kind, outcome, attempts,
        CASE WHEN kind = 'hopeless' AND outcome = 'EXPIRED' THEN 'EXPIRED'
            ELSE CASE kind WHEN 'sound' THEN 'HANDLED' WHEN 'flaky' THEN 'HANDLED' WHEN 'broken' THEN 'EXHAUSTED'
            WHEN 'refused' THEN 'REJECTED' WHEN 'hopeless' THEN 'EXHAUSTED' ELSE 'EXPIRED' END END AS right_outcome,
        CASE WHEN outcome = 'EXPIRED' THEN 0 WHEN kind = 'flaky' THEN 3 WHEN kind = 'broken' THEN 4 ELSE 1
            END AS right_attempts,
        CASE WHEN outcome = 'EXPIRED' THEN 'expired' WHEN kind = 'broken' THEN 'exhausted'
            WHEN kind = 'refused' THEN 'rejected' WHEN kind = 'hopeless' THEN 'deadline' END AS right_cause
    FROM tasks"""

FAULTS = {
    "nothing was planned": "SELECT 'no row' WHERE NOT EXISTS (SELECT * FROM tasks)",
    "ended otherwise than its kind has it": f"""
        SELECT id || ' ' || kind || ' ' || coalesce(outcome, 'no outcome') FROM ({EXPECTED})
        WHERE outcome IS NOT right_outcome""",
    "not as many attempts as its kind has": f"""
        SELECT id || ' ' || kind || ' ' || coalesce(attempts, 'none') FROM ({EXPECTED})
        WHERE attempts IS NOT right_attempts""",
    "attempts that the crew counts otherwise": """
        SELECT id FROM tasks WHERE attempts IS NOT (SELECT count(*) FROM attempts WHERE task = id)""",
    "begun before its time": f"SELECT task FROM attempts WHERE at < due - {CLOCKS_S}",
    "begun after its deadline": f"SELECT task FROM attempts WHERE at > deadline + {SLACK_S}",
    "done, or not done, against its outcome": """
        SELECT id FROM tasks WHERE (outcome = 'HANDLED' OR id IN (SELECT id FROM mended))
            <> (id IN (SELECT task FROM done))""",
    "done twice": "SELECT task FROM done WHERE times > 1",
    "dead letter that is missing, or of another cause": f"""
        SELECT id FROM ({EXPECTED}) AS task
        WHERE right_cause IS NOT (SELECT cause FROM letters WHERE letters.id = task.id)""",
    "broken and never mended, or mended and not broken": """
        SELECT id FROM tasks WHERE (kind = 'broken') <> (id IN (SELECT id FROM mended))""",
}
FIGURES = {
    "tasks": "SELECT count(*) FROM tasks",
    "done at the first attempt": "SELECT count(*) FROM tasks WHERE outcome = 'HANDLED' AND attempts = 1",
    "done at a later one": "SELECT count(*) FROM tasks WHERE outcome = 'HANDLED' AND attempts > 1",
    "refused": "SELECT count(*) FROM tasks WHERE outcome = 'REJECTED'",
    "given up after all attempts": "SELECT count(*) FROM letters WHERE cause = 'exhausted'",
    "... mended and done after all": "SELECT count(*) FROM mended",
    "given up at the deadline": "SELECT count(*) FROM letters WHERE cause = 'deadline'",
    "expired": "SELECT count(*) FROM tasks WHERE outcome = 'EXPIRED'",
}

JUDGE = Judge(
    example="tasks",
    books=("planner", "crew"),
    faults=FAULTS,
    figures=FIGURES,
    all_is_well="every task ended once, as it was to be expected of it",
)

if __name__ == "__main__":
    sys.exit(JUDGE.main())
