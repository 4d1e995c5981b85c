"""Checks of a run, from its records: each file here is one check, found by itself.

Its docstring is its documentation: a title, then the paragraphs "What:", "Why:" and "What to do:". `NUMBER` is one
that no other check has (1 to 11 are taken), and stays. `find(results) -> list[Finding]` returns what the check found.
"""
