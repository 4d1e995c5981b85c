"""Profiles load, overrides are read as written, and bad values stop at the door."""

import tomllib
from pathlib import Path

import pytest

from floe_bench.harness.errors import UsageError
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.profiles import load, parse_assignments, vary

FOLDER = Path(__file__).parents[3] / "harness" / "spec" / "profiles"
FILES = sorted(FOLDER.glob("*.toml"))
FULL_SIZE = ("llama2-7b", "gemma2-2b", "mistral-7b")


def set_(*assignments: str, profile: str = "tiny"):
    """The profile with `--set` arguments."""
    return load(profile, parse_assignments(assignments))


def leaves(table, prefix=""):
    """The dotted keys of nested tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_the_files_are_the_profiles():
    assert profiles.names() == [file.stem for file in FILES]
    assert {"smoke", "tiny", "smollm2-135m", *FULL_SIZE} <= set(profiles.names())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_profile_loads_with_what_its_file_says(file):
    written = tomllib.loads(file.read_text(encoding="utf-8"))
    settings = load(file.stem).model_dump(mode="json")
    for key in leaves(written):
        expected, found = written, settings
        for part in key.split("."):
            expected, found = expected[part], found[part]
        assert found == expected, key


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_profiles_keep_the_papers_settings(name):
    """A quarter of the layers, N = 256, ranks 2 to 16, 100 trials, all eight methods, all mixes."""
    settings = load(name)
    assert settings.selection.layer_fraction == 0.25
    assert settings.selection.taylor_budget is None
    assert settings.data.calibration_rows == 256
    assert (settings.search.r_min, settings.search.r_max, settings.search.trials) == (2, 16, 100)
    assert set(settings.mixes) == {"dolly", "flanv2", "medical", "code", "mixed"}
    assert len(settings.methods) == 8
    assert settings.data.train_rows is None


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load("tiny").seeds = 2


# --- --set ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("train.epochs=2", 2),
        ("train.learning_rate=3e-4", 3e-4),
        ("train.learning_rate=0.5", 0.5),
        ("train.group_by_length=false", False),
        ("data.train_rows=none", None),
        ("model.path=/some/folder", "/some/folder"),
        ("model.path='/some/folder'", "/some/folder"),
        ("model.id=org/name-1.0", "org/name-1.0"),
        ("mixes=dolly,code", ("dolly", "code")),
        ("mixes=dolly", ("dolly",)),
        ('mixes=["dolly", "code"]', ("dolly", "code")),
        ("methods=lora:r=16,floe", ("lora:r=16", "floe")),
        ("model.config.rope_theta=5000.0", 5000.0),
        ("model.config.rope_scaling.factor=2", 2),
        ("data.revisions.org/data-1.1=abc123", "abc123"),
    ],
)
def test_a_value_is_read_as_what_it_looks_like(assignment, value):
    found = set_(assignment).model_dump()
    key = assignment.partition("=")[0]
    if key.startswith("data.revisions."):  # the data set's id may hold dots
        assert found["data"]["revisions"] == {"org/data-1.1": value}
        return
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value) or key == "train.epochs"


def test_an_override_changes_nothing_else():
    before, after = load("tiny").model_dump(), set_("model.config.hidden_size=32").model_dump()
    assert after["model"]["config"].pop("hidden_size") == 32
    assert before["model"]["config"].pop("hidden_size") == 16
    assert before == after


def test_the_last_of_two_overrides_counts():
    assert set_("train.epochs=2", "train.epochs=3").train.epochs == 3


@pytest.mark.parametrize("text", ["train.epochs", "=2", ""])
def test_an_assignment_without_key_or_value_is_a_usage_error(text):
    with pytest.raises(UsageError, match="write key=value"):
        parse_assignments([text])


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UsageError, match=r"unknown profile 'smok': did you mean smoke"):
        load("smok")
    with pytest.raises(UsageError, match=r"unknown setting 'train.epoch': did you mean train\.epochs"):
        set_("train.epoch=2")
    with pytest.raises(UsageError, match=r"unknown setting 'trian.epochs': did you mean train\.epochs"):
        set_("trian.epochs=2")
    with pytest.raises(UsageError, match=r"unknown setting 'train\.epochs\.x'"):
        set_("train.epochs.x=2")


def test_an_unknown_key_in_a_profiles_file_suggests_the_nearest(tmp_path, monkeypatch):
    text = (FOLDER / "tiny.toml").read_text(encoding="utf-8").replace("[search]", "[search]\ntrails = 4")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    with pytest.raises(UsageError, match=r"unknown setting 'search.trails': did you mean search\.trials"):
        load("mine")


def test_every_dotted_setting_can_be_named():
    settings = load("tiny").model_dump(exclude={"model": {"config"}, "data": {"revisions"}})
    assert set(leaves(settings)) | {"model.config", "data.revisions"} == set(profiles.setting_names())


# --- values out of range ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("adapter.r=0", "setting adapter.r = 0: .* greater than or equal to 1"),
        ("adapter.r=-4", "adapter.r"),
        ("adapter.r=2.5", "adapter.r = 2.5"),
        ("adapter.num_experts=0", "adapter.num_experts"),
        ("adapter.lora_dropout=1", "adapter.lora_dropout"),
        ("adapter.target_modules=,", "adapter.target_modules"),
        ("selection.layer_fraction=0", "selection.layer_fraction = 0: .* greater than 0 .*selects no layer"),
        ("selection.layer_fraction=-0.25", "selection.layer_fraction"),
        ("selection.layer_fraction=1.01", "selection.layer_fraction = 1.01: .* less than or equal to 1"),
        ("selection.layer_fraction=nan", "selection.layer_fraction"),
        ("selection.taylor_budget=0", "selection.taylor_budget = 0: .* greater than 0"),
        ("selection.taylor_budget=-1", "selection.taylor_budget"),
        ("selection.taylor_budget=1.5", "selection.taylor_budget"),
        ("data.pilot_fraction=0", "data.pilot_fraction = 0: .* greater than 0"),
        ("data.pilot_fraction=-0.3", "data.pilot_fraction"),
        ("data.pilot_fraction=1.1", "data.pilot_fraction = 1.1: .* less than or equal to 1"),
        ("data.validation_fraction=0", "data.validation_fraction"),
        ("data.validation_fraction=1", "data.validation_fraction"),
        ("data.train_rows=0", "data.train_rows"),
        ("data.source=web", "data.source = 'web': .*'hub', 'folder', 'embedded' or 'teacher'"),
        ("search.r_min=5", "search: r_min 5 is above r_max 4"),
        ("search.r_max=1", "search: r_min 2 is above r_max 1"),
        ("search.r_min=0", "search.r_min"),
        ("search.trials=0", "search.trials"),
        ("train.micro_batch_size=3", "train: micro_batch_size 3 does not divide batch_size 8"),
        ("train.micro_batch_size=16", "micro_batch_size 16 does not divide batch_size 8"),
        ("train.learning_rate=0", "train.learning_rate"),
        ("train.epochs=inf", "train.epochs = inf"),
        ("train.epochs=two", "train.epochs = 'two': .* valid number"),
        ("seeds=0", "seeds"),
        ("methods=,", "methods"),
        ("model.dtype=float16", "model.dtype"),
    ],
)
def test_a_value_out_of_range_is_a_usage_error(assignment, message):
    with pytest.raises(UsageError, match=message):
        set_(assignment)


@pytest.mark.parametrize(
    "assignment",
    [
        "adapter.r=1",
        "selection.layer_fraction=1",
        "selection.layer_fraction=0.001",
        "selection.taylor_budget=1",
        "data.pilot_fraction=1",
        "search.r_min=4",
        "train.micro_batch_size=4",
        "train.micro_batch_size=1",
    ],
)
def test_the_edges_of_the_ranges_are_allowed(assignment):
    section, _, key = assignment.partition("=")[0].partition(".")
    found = getattr(getattr(set_(assignment), section), key)
    assert found == pytest.approx(float(assignment.partition("=")[2]))


# --- settings varied after loading ------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        {"selection.layer_fraction": 0.75},
        {"adapter.num_experts": 8, "train.epochs": 2},
        {"eval.evals": "validation_nll,router", "eval.primary": "validation_nll"},
        {"model.config.num_hidden_layers": 8, "model.source": "random"},
        {"data.teacher.noise": 0.5, "data.source": "teacher"},
    ],
)
@pytest.mark.parametrize("name", ["tiny", "llama2-7b"])
def test_varied_settings_are_those_of_a_profile_loaded_with_them(name, overrides):
    settings = load(name)
    before = settings.model_dump_json()
    assert vary(settings, overrides) == load(name, overrides)
    assert settings.model_dump_json() == before


def test_varying_nothing_changes_nothing():
    assert vary(load("tiny"), {}) == load("tiny")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"selection.layer_fractoin": 0.5}, "did you mean selection.layer_fraction"),
        ({"selection.layer_fraction": 2}, "selection.layer_fraction = 2"),
        ({"train.batch_size": 3}, "does not divide"),
    ],
)
def test_settings_that_cannot_be_varied_so_are_refused(overrides, message):
    with pytest.raises(UsageError, match=message):
        vary(load("tiny"), overrides)


@pytest.mark.parametrize("profile", profiles.names())
def test_settings_varied_back_to_themselves_are_the_same_to_the_type(profile):
    """A default of another type than its field (32 for 32.0) would give a varied cell other keys."""
    settings = profiles.load(profile)
    assert repr(profiles.vary(settings, {"seeds": settings.seeds})) == repr(settings)


@pytest.mark.parametrize("content", [b"description", b"\xff", b"a = " + b"9" * 5000, b"a = " + b"[" * 5000])
def test_a_broken_profile_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    (tmp_path / "own.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"own\.toml: not TOML in UTF-8"):
        profiles.load("own")
