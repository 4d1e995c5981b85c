"""One file per experiment: its grid (`cells`), its table (`table`) and how the table reads (`view`)."""
