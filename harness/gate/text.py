"""Write the gate's findings: Markdown for people, JUnit XML for CI systems."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from tabulate import tabulate

from floe_bench.harness.gate.verdicts import Difference, regressions


def to_markdown(title: str, findings: Sequence[Difference]) -> str:
    """Write a heading, the count of each verdict, a table of all that is not ok, and the largest drifts."""
    odd = [finding for finding in findings if finding.verdict != "ok"]
    failed = regressions(findings)
    counts = f"{len(findings)} quantities compared: {_count(len(failed), 'regression')}, " + ", ".join(
        _count(sum(finding.verdict == verdict for finding in odd), verdict) for verdict in ("warning", "note")
    )
    parts = [f"## {title}: {'REGRESSION' if failed else 'ok'}", counts + "."]
    if odd:
        order = ("regression", "warning", "note")
        rows = [
            [f.verdict, f.cell or "run", f.quantity, f.expected, f.found, f.detail]
            for f in sorted(odd, key=lambda finding: order.index(finding.verdict))
        ]
        headers = ["Verdict", "Cell", "Quantity", "Expected", "Found", "Detail"]
        parts.append(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True))
    if drifts := _largest_drifts(findings):
        parts.append("Largest mean differences: " + "; ".join(drifts) + ".")
    return "\n\n".join(parts) + "\n"


def to_junit(profile: str, findings: Sequence[Difference]) -> str:
    """Write one test case per cell and quantity.

    A regression is a failure. A warning or note is text in `system-out`.
    """
    suite = ElementTree.Element(
        "testsuite",
        name=f"floe-bench check {profile}",
        tests=str(len(findings)),
        failures=str(len(regressions(findings))),
        errors="0",
        skipped="0",
    )
    for finding in findings:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{profile}.{finding.cell or 'run'}", name=finding.quantity, time="0"
        )
        text = f"expected {finding.expected}, found {finding.found}; {finding.detail}"
        if finding.verdict == "regression":
            ElementTree.SubElement(case, "failure", message=text).text = text
        elif finding.verdict != "ok":
            ElementTree.SubElement(case, "system-out").text = f"{finding.verdict}: {text}"
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _largest_drifts(findings: Sequence[Difference]) -> list[str]:
    """Return the largest mean difference of accuracies and of NLLs, whatever its verdict."""
    drifts = []
    for kind, unit in (("accuracy", "points"), ("NLL", "nats")):
        differences = [f.comparison.difference for f in findings if f.comparison and f.quantity.endswith(kind)]
        if differences:
            scale = 100 if unit == "points" else 1
            drifts.append(f"{kind} {scale * max(differences, key=abs):+.2g} {unit}")
    return drifts
