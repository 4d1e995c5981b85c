"""Files of rows: JSON Lines, a JSON array, CSV or Parquet.

Each reader yields (place, row), where the place is a line or row number to name in a message. What cannot be read
is a ValueError that names its place. A UTF-8 byte order mark and blank lines are skipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NoReturn

from floe_bench.harness.errors import UsageError

Place = str
Rows = Iterator[tuple[Place, Any]]

DEEPEST = 100
"""Lists and objects within each other. Pythons differ in how many more they can read."""

EXTENSIONS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")


def find(folder: Path, name: str) -> Path:
    """Return the file of that name. Raises UsageError where the folder or the file is missing, or there are two."""
    if not folder.is_dir():
        raise UsageError(f"data folder {folder}: there is no such folder")
    found = [path for extension in EXTENSIONS if (path := folder / f"{name}{extension}").is_file()]
    if len(found) > 1:
        raise UsageError(
            f"data folder {folder}: {' and '.join(path.name for path in found)} are both there, and either could be "
            f"meant by '{name}': leave one"
        )
    if not found:
        there = sorted(path.name for path in folder.iterdir() if path.name.endswith(EXTENSIONS))
        raise UsageError(
            f"data folder {folder}: {name}.jsonl or {name}.jsonl.gz is missing (.json, .csv and .parquet do as well); "
            f"there: {', '.join(there) or 'no file of rows at all'}"
        )
    return found[0]


def read(path: Path, types: Mapping[str, type]) -> Rows:
    """Yield (place, row) of a file. CSV holds text alone, so columns of another type are read as JSON there.

    Raises:
        ValueError: the file cannot be read on. The message begins with the place.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    return _csv(path, types) if kind == "csv" else _json(path)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # pyright: ignore[reportReturnType]


def _json(path: Path) -> Rows:
    """Read one object a line, or an array of objects where the first character is a bracket."""
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r\n")
                if number == 1 and text.startswith("["):
                    rest = lines.read().decode()
                    yield from _array(text + "\n" + rest)
                    return
                if text:
                    yield f"line {number}", _parsed(text)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"line {number + 1}: {error}") from None
    except _BrokenArray:
        raise
    except ValueError as error:
        raise ValueError(f"line {number}: not a line of JSON in UTF-8 ({error})") from None


class _BrokenArray(ValueError):
    """An array that names its own place."""


def _array(text: str) -> Rows:
    try:
        rows = _parsed(text)
    except json.JSONDecodeError as error:
        raise _BrokenArray(f"line {error.lineno}: not a JSON array of rows ({error.msg})") from None
    except ValueError as error:
        raise _BrokenArray(f"line 1: not a JSON array of rows ({error})") from None
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def _parsed(text: str) -> Any:
    """Parse JSON. Raises ValueError for what JSON or UTF-8 cannot hold, a key that stands twice, and deep nesting."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value)
    if "\\u" in text:  # only an escape can hold half a character
        _check_characters(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"column '{_repeated(key for key, _ in pairs)}' stands twice")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _check_depth(value: Any) -> None:
    """Raise ValueError where more than DEEPEST lists and objects lie within each other."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [outer for outer in level if isinstance(outer, dict | list)]
        if not level:
            return
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {DEEPEST} deep")


def _check_characters(value: Any) -> None:
    if isinstance(value, str):
        value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    elif isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            _check_characters(item)
    elif isinstance(value, list):
        for item in value:
            _check_characters(item)


def _repeated(names: Any) -> str:
    return next(name for name, n in Counter(names).items() if n > 1)


def _csv(path: Path, types: Mapping[str, type]) -> Rows:
    csv.field_size_limit(sys.maxsize)  # the default of 131,072 characters is less than some rows have
    line = 0
    try:
        with _open(path) as file:
            lines = csv.reader(TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
            header = next(lines, [])
            if len(set(header)) < len(header):
                raise ValueError(f"column '{_repeated(header)}' stands twice")
            line = lines.line_num
            for values in lines:
                line = lines.line_num
                if not values:
                    continue
                if len(values) != len(header):
                    raise ValueError(f"{len(values)} values, and the header names {len(header)} columns")
                yield f"line {line}", {c: _typed(v, types.get(c, str)) for c, v in zip(header, values, strict=True)}
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise ValueError(f"line {max(line, 1)}: not CSV in UTF-8 ({error})") from None


def _typed(text: str, expected: type) -> Any:
    """Return a CSV value as JSON where a column is no text. What is no JSON stays text, and is refused as such."""
    if expected is str:
        return text
    try:
        return _parsed(text)
    except ValueError:
        return text


def _parquet(path: Path) -> Rows:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise ValueError(f"column '{_repeated(names)}' stands twice")
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)  # iter_batches leaves out the rows of a broken column in silence
                table.validate(full=True)
                for row in table.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (OSError, ValueError, ArrowException) as error:
        raise ValueError(f"row {number + 1}: not Parquet ({str(error).splitlines()[0]})") from None
