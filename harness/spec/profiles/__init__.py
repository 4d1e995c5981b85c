"""Load profiles, one TOML file each, and apply overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.spec.settings import Settings

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all profiles, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the profile's settings with `overrides` applied; keys are dotted, such as "train.epochs".

    Raises UsageError for an unknown profile or setting, and for a value out of range.
    """
    if name not in names():
        raise unknown("profile", name, names())
    file = FOLDER / f"{name}.toml"
    try:
        values = tomllib.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:  # numbers and nesting that Python refuses are no TOML either
        raise UsageError(f"profile {file}: not TOML in UTF-8 ({error})") from None
    return _with(values, overrides or {})


def vary(settings: Settings, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings with dotted `overrides` applied. Raises UsageError as `load` does."""
    return _with(settings.model_dump(), overrides) if overrides else settings


def _with(values: dict[str, Any], overrides: Mapping[str, Any]) -> Settings:
    for key, value in overrides.items():
        _put(values, key, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(_sentence(error)) from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the `--set key=value` arguments as key -> value.

    A value is read as TOML; what is not TOML stays text. Raises UsageError where there is no `=` or no key.
    """
    parsed = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {assignment}: write key=value, e.g. train.epochs=2")
        parsed[key] = _toml_value(value)
    return parsed


def _toml_value(text: str) -> Any:
    if text == "none":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # numbers and nesting that Python refuses are no TOML either
        return text
    return parsed["value"] if len(parsed) == 1 else text


def setting_names(section: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings that `--set` knows."""
    found = []
    for key, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += setting_names(kind, f"{prefix}{key}.")
        else:
            found.append(prefix + key)
    return found


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    free_tables = ("model.config.", "data.revisions.")
    if key not in setting_names() and not key.startswith(free_tables):
        raise unknown("setting", key, setting_names())
    if key.startswith("data.revisions."):
        sections, last = ["data", "revisions"], key.removeprefix("data.revisions.")
    else:
        *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[last] = value


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return str(unknown("setting", key, setting_names()))
    message = first["msg"].removeprefix("Value error, ")
    if key == "selection.layer_fraction":
        message += " (a fraction of 0 selects no layer, 1 selects all)"
    if first["type"] == "value_error":
        return f"{key or 'setting'}: {message}"
    return f"setting {key} = {first['input']!r}: {message}"
