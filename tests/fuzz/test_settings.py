"""`--set` and profiles with a few characters changed are refused, or give settings that can be recorded."""

import json

from hypothesis import given
from hypothesis import strategies as st

from floe_bench.harness.files import parse_json
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings

from .material import answer, changed, changed_text, changes

ASSIGNMENTS = [f"{key}={value}" for key in profiles.setting_names() for value in ("2", "0.5", "true", "none", "a,b")]
ASSIGNMENTS += ['train.epochs="2"', "adapter.target_modules=[1, 2]", "data.revisions.org/name=abc", "model.config.x=1"]


def can_be_recorded(settings: Settings) -> bool:
    """A record keeps the settings as JSON, which comes back equal."""
    kept = settings.without_paths()
    return Settings.model_validate(parse_json(json.dumps(kept.model_dump(mode="json"), allow_nan=False))) == kept


@given(st.sampled_from(ASSIGNMENTS), changes)
def test_a_changed_assignment_is_refused_or_can_be_recorded(assignment, by):
    text = changed_text(assignment, by)
    settings = answer(lambda: profiles.load("tiny", profiles.parse_assignments([text])))
    assert settings is None or can_be_recorded(settings)


def test_a_changed_profile_is_refused_or_can_be_recorded(tmp_path, monkeypatch):
    content = (profiles.FOLDER / "tiny.toml").read_bytes()
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)

    @given(changes)
    def holds(by):
        (tmp_path / "own.toml").write_bytes(changed(content, by))
        settings = answer(lambda: profiles.load("own"))
        assert settings is None or can_be_recorded(settings)

    holds()
