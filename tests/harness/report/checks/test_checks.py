"""What holds of every check."""

import re
from types import ModuleType, SimpleNamespace

import pytest

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.errors import UsageError
from floe_bench.harness.report import checking
from floe_bench.harness.report.checking import Check, all_checks, run_checks
from floe_bench.harness.report.checks import router_collapse

from .healthy import Run

CHECKS = all_checks()


def test_there_are_eleven_numbered_from_one():
    assert [check.number for check in CHECKS] == list(range(1, 12))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_is_documented_with_what_why_and_what_to_do(check):
    assert check.title and not check.title.endswith(".")
    paragraphs = check.documentation.split("\n\n")
    assert [re.match(r"(What|Why|What to do):", paragraph) is not None for paragraph in paragraphs] == [True] * 3
    assert [paragraph.partition(":")[0] for paragraph in paragraphs] == ["What", "Why", "What to do"]
    assert all(len(paragraph.split()) > 10 for paragraph in paragraphs)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_is_silent_on_a_healthy_run(check, run):
    assert check.find(run) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_is_silent_where_there_is_nothing_to_look_at(check, run):
    run.records, run.cells = [], []
    assert check.find(run) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_has_tests_of_its_own(check, request):
    assert (request.path.parent / f"test_{check.id}.py").is_file()


def test_two_checks_of_one_number_are_refused(monkeypatch):
    monkeypatch.setattr(router_collapse, "NUMBER", 3)
    with pytest.raises(UsageError, match="checks cliff and router_collapse both have number 3"):
        all_checks()


def test_findings_come_in_the_order_of_the_checks(run, monkeypatch):
    run.change("dolly / floe / seed 0", training=None)
    run.records.pop()
    numbers = [finding.number for finding in run_checks(run)]
    assert numbers == sorted(numbers) and 8 in numbers
    monkeypatch.setattr(checking, "all_checks", lambda: [SimpleNamespace(find=lambda results: ["a", "b"])])
    assert run_checks(run) == ["a", "b"]


def test_a_finding_gets_id_and_number_of_the_check_that_made_it():
    module = ModuleType("copied_from_elsewhere")
    vars(module)["find"] = lambda results: [Finding("a fault", ("a cell",))]
    assert Check("mine", 12, module).find(Run([], [])) == [Finding("a fault", ("a cell",), "mine", 12)]
