"""Hold a run against an expectation, or against another run."""
