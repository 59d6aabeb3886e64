"""The tables of the results file, as the steps that lead to them: step n takes a file from version n - 1 to n.

`PRAGMA user_version` holds the version. A step that was released is never changed; a new one is added.
"""

from __future__ import annotations

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE run (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, started_at TEXT NOT NULL, finished_at TEXT, status TEXT NOT NULL,
            machine TEXT NOT NULL, protocol TEXT NOT NULL, versions TEXT NOT NULL, baseline TEXT UNIQUE
        )""",
        """CREATE TABLE candidate (
            run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, label TEXT NOT NULL, model TEXT NOT NULL, model_id TEXT,
            file_sha256 TEXT, engine TEXT, engine_version TEXT, quantization TEXT, format TEXT, context INTEGER,
            threads INTEGER, endpoint_host TEXT, price_in REAL, price_out REAL, PRIMARY KEY (run, label)
        )""",
        """CREATE TABLE sample (
            run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, label TEXT NOT NULL, scenario TEXT NOT NULL,
            language TEXT NOT NULL, load TEXT NOT NULL, round INTEGER NOT NULL, seq INTEGER NOT NULL,
            prompt_id TEXT NOT NULL, ok INTEGER NOT NULL, ttft_s REAL, ttfa_s REAL, itl_s REAL, latency_s REAL NOT NULL,
            prompt_tokens INTEGER, cached_tokens INTEGER, completion_tokens INTEGER, raw TEXT NOT NULL,
            PRIMARY KEY (run, label, scenario, language, load, round, seq)
        )""",
        """CREATE TABLE item (
            run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, label TEXT NOT NULL, suite TEXT NOT NULL,
            item TEXT NOT NULL, language TEXT NOT NULL, passed INTEGER, raw TEXT NOT NULL,
            PRIMARY KEY (run, label, suite, item, language)
        )""",
        """CREATE TABLE vote (
            id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES run ON DELETE CASCADE, rater TEXT NOT NULL,
            criterion TEXT NOT NULL, suite TEXT NOT NULL, item TEXT NOT NULL, a TEXT NOT NULL, b TEXT NOT NULL,
            shown_first TEXT NOT NULL, choice TEXT NOT NULL, at TEXT NOT NULL
        )""",
        "CREATE INDEX vote_run ON vote (run)",
    ),
    # What an item belonged to; and everything that evidence is made of in indexes of its own, as raw texts are nine
    # tenths of the file.
    (
        "ALTER TABLE item ADD COLUMN suite_sha256 TEXT",
        """CREATE INDEX sample_timed ON sample (
            run, label, scenario, language, load, ok, ttft_s, ttfa_s, itl_s, latency_s, prompt_tokens, completion_tokens
        )""",
        "CREATE INDEX item_judged ON item (run, label, suite, language, item, passed, suite_sha256)",
    ),
)
