"""One file per experiment: its grid (`cells`) and its tables (`tables`)."""
