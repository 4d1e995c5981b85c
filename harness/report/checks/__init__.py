"""Numbered result checks: one file each. What a run can have gone wrong in, read from its records.

A check's docstring documents it: a title, then the paragraphs "What:", "Why:" and "What to do:". `NUMBER` is its own
for good. `find(results) -> list[Finding]` tells what it found.
"""
