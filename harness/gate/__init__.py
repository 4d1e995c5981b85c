"""A run held against an expectation, or against another run."""
