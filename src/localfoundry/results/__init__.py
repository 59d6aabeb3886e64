"""Everything that was measured or judged, in one SQLite file of the home folder: `rows` says what, `db` keeps it."""
