import json

import pytest
from peft import PeftConfig

from floe_bench.harness.floe.tuner import MoeLoraConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1, got 0"),
        ({"r": 2.5}, "r must be an integer of at least 1, got 2.5"),
        ({"num_experts": 0}, "num_experts must be an integer of at least 1, got 0"),
        ({"lora_alpha": 0}, "lora_alpha must be greater than 0, got 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be greater than 0, got nan"),
        ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\), got 1.0"),
        ({"lora_dropout": -0.1}, r"lora_dropout must be in \[0, 1\), got -0.1"),
        ({"rank_pattern": {"up_proj": 0}}, r"rank_pattern\['up_proj'\] must be an integer of at least 1"),
        ({"experts_pattern": {"up_proj": 0}}, r"experts_pattern\['up_proj'\] must be an integer"),
        ({"alpha_pattern": {"up_proj": -1}}, r"alpha_pattern\['up_proj'\] must be greater than 0"),
        ({"layers_pattern": "layers"}, "layers_pattern needs layers_to_transform"),
        ({"layers_to_transform": []}, "layers_to_transform must name a layer"),
        ({"layers_to_transform": [1, -1]}, r"0-based layer numbers, got \[-1\]"),
        ({"layers_to_transform": -2}, r"0-based layer numbers, got \[-2\]"),
        (
            {"layers_to_transform": [1], "target_modules": ".*up_proj"},
            "layers_to_transform needs target_modules as a list",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MoeLoraConfig(**settings)


def test_bias_is_not_a_setting():
    with pytest.raises(TypeError, match="bias"):
        MoeLoraConfig(bias="all")  # pyright: ignore[reportCallIssue]


FULL = MoeLoraConfig(
    task_type="CAUSAL_LM",  # pyright: ignore[reportArgumentType]
    r=3,
    lora_alpha=5.5,
    num_experts=6,
    lora_dropout=0.25,
    target_modules=["up_proj", "down_proj", "q_proj"],
    exclude_modules=["lm_head", "v_proj"],
    layers_to_transform=[0, 2],
    layers_pattern=["layers"],
    rank_pattern={"up_proj": 2},
    alpha_pattern={"up_proj": 4.5},
    experts_pattern={r"layers\.2\..*": 8},
    init_weights=False,
)


@pytest.mark.parametrize("config", [MoeLoraConfig(), FULL])
def test_round_trip_through_a_dictionary_and_a_folder(config, tmp_path):
    assert MoeLoraConfig(**config.to_dict()) == config
    config.save_pretrained(tmp_path)
    for cls in (PeftConfig, MoeLoraConfig):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is MoeLoraConfig
        assert loaded == config
        assert loaded.peft_type == "MOE_LORA"


def test_names_are_saved_in_one_order(tmp_path):
    FULL.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["target_modules"] == ["down_proj", "q_proj", "up_proj"]
    assert saved["exclude_modules"] == ["lm_head", "v_proj"]
