"""Files of rows with a few bytes changed are refused by file, or hold what stock readers find in them."""

import csv
import gzip
import io
import json
import math
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from hypothesis import example, given
from hypothesis import strategies as st

from floe_bench.harness.data import row_files
from floe_bench.harness.data.sources import FolderSource

from .material import BITS, answer, changed, changes

COLUMNS = {"text": str, "n": int, "items": list}
ROWS = [
    {"text": 'row 1, "quoted"', "n": 3, "items": ["a", 1, None]},
    {"text": "zwei\n\\u00e9 é", "n": -1, "items": []},
    {"text": "", "n": 0, "items": [{"deep": [[]]}], "more": {"a": 1.5}},
]


def lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def table() -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([row["text"], row["n"], json.dumps(row["items"])] for row in ROWS)
    return out.getvalue().encode()


def parquet() -> bytes:
    out = io.BytesIO()
    pd.DataFrame([{"text": row["text"], "n": row["n"], "items": list("ab")} for row in ROWS]).to_parquet(out)
    return out.getvalue()


CONTENT = {
    ".jsonl": lines(),
    ".json": json.dumps(ROWS, indent=1).encode(),
    ".csv": table(),
    ".parquet": parquet(),
    ".jsonl.gz": gzip.compress(lines(), mtime=0),
    ".json.gz": gzip.compress(json.dumps(ROWS).encode(), mtime=0),
    ".csv.gz": gzip.compress(table(), mtime=0),
}


def stock(extension: str, content: bytes) -> list[dict[str, Any]]:
    """What the readers of the standard library, or Arrow's, find in a file."""
    if extension == ".parquet":
        return pq.read_table(io.BytesIO(content)).to_pylist()
    text = (gzip.decompress(content) if extension.endswith(".gz") else content).decode("utf-8-sig")
    if "csv" in extension:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return [row | {column: json.loads(row[column]) for column in ("n", "items")} for row in rows]
    if text.lstrip(" \t\r\n").startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip(" \t\r")]


def same(a: Any, b: Any) -> bool:
    """Equal, where a NaN that Parquet may hold equals itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_every_kind_of_file_is_fuzzed():
    assert set(CONTENT) == set(row_files.EXTENSIONS)


def test_a_changed_file_is_refused_or_means_what_stock_readers_say(tmp_path):
    @given(st.sampled_from(list(CONTENT)), changes)
    @example(".parquet", bytes([614 // 256, 614 % 256, 1, BITS.index(b"\r")]))  # a column without its values
    def holds(extension, by):
        path = tmp_path / f"rows{extension}"
        path.write_bytes(changed(CONTENT[extension], by))
        try:
            rows = answer(lambda: list(FolderSource(tmp_path).read("rows", "", COLUMNS)), path.name)
            assert rows is None or same(rows, stock(extension, path.read_bytes()))
        finally:
            path.unlink()
        for row in rows or ():
            assert all(isinstance(row[column], kind) for column, kind in COLUMNS.items())
            assert not isinstance(row["n"], bool)

    holds()
