"""What authors of plugins import: the data that passes between a plugin and the engine."""

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import EvaluationInputs, MethodInputs
from floe_bench.harness.contracts.judgement import Claim, Evidence, Finding, Verdict
from floe_bench.harness.contracts.plan import OWN_ROWS, AdapterPlan, Matched, Sample, Searched, Selected, Trial
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.rows import Row, RowSource
from floe_bench.harness.contracts.score import Score, Scored
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.errors import UsageError
from floe_bench.harness.spec.options import Options
from floe_bench.harness.spec.settings import Settings

__all__ = [
    "OWN_ROWS",
    "AdapterPlan",
    "Cell",
    "Claim",
    "EvaluationInputs",
    "Evidence",
    "Finding",
    "Matched",
    "MethodInputs",
    "Options",
    "Record",
    "Results",
    "Row",
    "RowSource",
    "Sample",
    "Score",
    "Scored",
    "Searched",
    "Selected",
    "Settings",
    "Table",
    "Trial",
    "UsageError",
    "Verdict",
]
