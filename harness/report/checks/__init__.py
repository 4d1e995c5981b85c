"""Find in its records what went wrong with a run. Each check is one file and has a number.

A check's docstring is its documentation: a title, then the paragraphs "What:", "Why:" and "What to do:".
`NUMBER` never changes. `find(results) -> list[Finding]` returns what the check found.
"""
