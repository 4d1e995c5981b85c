import importlib

import pytest
from peft import LoraConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
    get_peft_config,
)

import floe_bench.harness.floe.tuner as tuner

TABLES = [PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING]


def entries():
    return [table.get("MOE_LORA") for table in TABLES]  # pyright: ignore[reportArgumentType]


def test_importing_registers_the_method_with_peft():
    assert entries() == [tuner.MoeLoraConfig, tuner.MoeLoraModel, "moe_lora_"]
    assert isinstance(get_peft_config({"peft_type": "MOE_LORA", "r": 2}), tuner.MoeLoraConfig)


def test_registering_and_importing_again_are_harmless():
    before = entries()
    tuner.register()
    importlib.reload(tuner)
    assert entries() == before


def test_a_class_of_the_same_name_from_a_fresh_import_is_replaced(monkeypatch):
    twin = type("MoeLoraConfig", (), {"__module__": tuner.MoeLoraConfig.__module__})
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, "MOE_LORA", twin)
    tuner.register()
    assert entries()[0] is tuner.MoeLoraConfig


@pytest.mark.parametrize(("table", "other"), [(0, LoraConfig), (1, object), (2, "moe_")])
def test_a_taken_key_is_refused_and_left_alone(monkeypatch, table, other):
    for mapping in TABLES:
        monkeypatch.delitem(mapping, "MOE_LORA")
    monkeypatch.setitem(TABLES[table], "MOE_LORA", other)
    with pytest.raises(RuntimeError, match="PEFT's key 'MOE_LORA' is taken by"):
        tuner.register()
    assert entries() == [other if k == table else None for k in range(3)]
