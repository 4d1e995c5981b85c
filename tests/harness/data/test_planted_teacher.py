"""Planted layers: what the teacher changes, what it samples, and that the change is worth learning."""

import pytest
import torch
from torch.nn import functional as F

from floe_bench.harness.data import tokens
from floe_bench.harness.data.planted_teacher import PRINTABLE, TeacherSource
from floe_bench.harness.errors import UsageError
from floe_bench.harness.evaluation.nll import mean_nll, row_nll
from floe_bench.harness.model import base as base_model
from floe_bench.harness.model.adapters import wrap
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.spec.settings import Settings

PLANTED = (1, 3)
SMALL = {
    "data.source": "teacher",
    "data.teacher.layers": PLANTED,
    "data.teacher.rows": 16,
    "data.teacher.length": 24,
    "data.max_length": 48,
    "model.prompt_format": "plain",
    "model.config.initializer_range": 0.3,
}

COMPLETION = slice(16, 16 + 24)
"""The places of the completion's characters in a row: after the prompt's 16."""


def teacher_of(settings: Settings) -> TeacherSource:
    return TeacherSource(settings, base_model.load_model, base_model.byte_tokenizer)


def source(**teacher) -> TeacherSource:
    return teacher_of(load("tiny", SMALL | {f"data.teacher.{key}": value for key, value in teacher.items()}))


def completions(rows) -> str:
    return "".join(row.completion for row in rows)


def encoded(teacher: TeacherSource, rows):
    return tokens.encode(rows, base_model.byte_tokenizer(), "plain", teacher.settings.data.max_length)


def nll(model, teacher: TeacherSource, rows) -> float:
    return mean_nll(row_nll(model, encoded(teacher, rows), 32, base_model.byte_tokenizer().pad_token_id))


# --- the change -------------------------------------------------------------------------------------


def test_the_teacher_differs_from_the_base_in_the_targets_of_the_planted_layers_only():
    teacher = source()
    targets = teacher.settings.adapter.target_modules
    expected = {f"model.layers.{k}.mlp.{target}.weight" for k in PLANTED for target in targets}
    base = dict(teacher.base.named_parameters())
    assert {name for name, p in teacher.teacher.named_parameters() if not torch.equal(p, base[name])} == expected


def test_each_change_has_the_rank_and_the_size_that_the_settings_say():
    teacher = source(r=3, scale=0.7)
    for name, change in teacher.changes.items():
        assert torch.linalg.matrix_rank(change) == 3
        weight = teacher.base.get_submodule(name).weight.detach()
        assert (change.norm() / weight.norm()).item() == pytest.approx(0.7, rel=1e-5)


def test_a_layer_changes_alike_whatever_else_is_planted():
    alone, together = source(layers=(3,)).changes, source(layers=(0, 3)).changes
    assert all(torch.equal(together[name], change) for name, change in alone.items())
    assert len(together) == 2 * len(alone)


def test_a_teacher_of_scale_0_is_the_base():
    teacher = source(scale=0.0)
    unplanted = source(layers=())
    for (name, p), q in zip(teacher.teacher.named_parameters(), teacher.base.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert teacher.mix("dolly") == unplanted.mix("dolly")
    assert completions(teacher.mix("dolly")) != completions(source().mix("dolly"))


# --- the rows ---------------------------------------------------------------------------------------


def test_text_comes_back_as_the_tokens_that_were_sampled():
    teacher = source()
    tokenizer = base_model.byte_tokenizer()
    for row in (*teacher.mix("dolly"), *teacher.mix("pretrain")):
        length = len(row.completion)
        assert set((row.prompt or "") + row.completion) <= set(PRINTABLE)
        assert length == 24 + (row.prompt is None)
        (example,) = encoded(teacher, [row])
        tokens = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
        assert tokenizer.decode(tokens[:length]) == row.completion


@pytest.mark.parametrize("max_length", [48, 512])
def test_completions_are_the_teachers_own_in_the_context_of_training(max_length):
    """At a very high sharpness each token is the likeliest visible one; the reference is one whole forward.

    But for near ties: a forward token by token may order logits otherwise that float32 rounds to within 1e-4.
    """
    teacher = teacher_of(load("tiny", SMALL | {"data.teacher.sharpness": 1e6, "data.max_length": max_length}))
    visible = torch.tensor(base_model.byte_tokenizer()(PRINTABLE)["input_ids"])
    for example in encoded(teacher, list(teacher.mix("dolly"))[:4]):
        ids, labels = torch.tensor(example["input_ids"]), torch.tensor(example["labels"])
        logits = teacher.teacher(input_ids=ids[None], use_cache=False).logits[0, :-1]
        highest = logits[:, visible].amax(-1)
        counted = (labels[1:] != -100) & (labels[1:] < 256)
        assert counted.sum() == 24
        assert set(ids[1:][counted].tolist()) <= set(visible.tolist())
        found = logits.gather(-1, ids[1:, None]).squeeze(-1)
        torch.testing.assert_close(found[counted], highest[counted], rtol=0, atol=1e-4)


def test_sampled_tokens_have_the_teachers_entropy():
    """E[-log p] under samples of p is p's entropy: over visible characters, at the teacher's own temperature."""
    teacher = source(rows=128)
    examples = encoded(teacher, teacher.mix("dolly"))
    visible = torch.tensor(base_model.byte_tokenizer()(PRINTABLE)["input_ids"])
    ids = torch.tensor([example["input_ids"] for example in examples])
    with torch.no_grad():
        logits = teacher.teacher(input_ids=ids, use_cache=False).logits[
            :, COMPLETION.start - 1 : COMPLETION.stop - 1, visible
        ]
    tokens = torch.searchsorted(visible, ids[:, COMPLETION].contiguous())
    losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert losses.mean().item() == pytest.approx(
        entropy.mean().item(), abs=4 * losses.std().item() / len(losses) ** 0.5
    )


def test_noise_replaces_its_share_of_tokens():
    """A sharp teacher of one likeliest token: all others are noise, less the 1 in 94 that hits it by chance."""
    noise = 0.3
    teacher = source(sharpness=1e6, noise=noise, rows=128)
    examples = encoded(teacher, teacher.mix("dolly"))
    visible = torch.tensor(base_model.byte_tokenizer()(PRINTABLE)["input_ids"])
    ids = torch.tensor([example["input_ids"] for example in examples])
    with torch.no_grad():
        logits = teacher.teacher(input_ids=ids, use_cache=False).logits[
            :, COMPLETION.start - 1 : COMPLETION.stop - 1, visible
        ]
    other = (visible[logits.argmax(-1)] != ids[:, COMPLETION]).float()
    expected = noise * (1 - 1 / len(PRINTABLE))
    assert other.mean().item() == pytest.approx(expected, abs=4 * (expected / other.numel()) ** 0.5)


def test_equal_settings_give_equal_rows_and_another_seed_others():
    rows = source().mix("dolly")
    assert rows == source().mix("dolly")
    assert completions(rows) != completions(source(seed=1).mix("dolly"))
    assert completions(rows) != completions(source().mix("code"))


def test_plain_text_is_the_bases_whatever_is_planted():
    assert source().mix("pretrain") == source(layers=(0,), scale=5.0, noise=0.5).mix("pretrain")


# --- the task ---------------------------------------------------------------------------------------


def test_an_adapter_on_the_planted_layers_can_be_the_teacher():
    """LoRA of the planted rank, its factors the SVD of ΔW, on the planted layers alone: NLL falls to the teacher's."""
    from peft import LoraConfig

    teacher = source(r=2, scale=1.0, rows=64)
    rows = teacher.mix("dolly")
    base = nll(teacher.base, teacher, rows)
    config = LoraConfig(
        r=2,
        lora_alpha=2,
        target_modules=list(teacher.settings.adapter.target_modules),
        layers_to_transform=list(PLANTED),
        task_type="CAUSAL_LM",
    )
    student = wrap(base_model.load_model(teacher.settings.model).cpu(), config, True)
    with torch.no_grad():
        for name, change in teacher.changes.items():
            U, S, Vh = torch.linalg.svd(change)
            adapted = student.get_submodule(f"base_model.model.{name}")
            adapted.lora_B["default"].weight.copy_(U[:, :2] * S[:2])
            adapted.lora_A["default"].weight.copy_(Vh[:2])
    adapted_nll = nll(student.eval(), teacher, rows)
    assert adapted_nll == pytest.approx(nll(teacher.teacher, teacher, rows), rel=1e-5)
    assert adapted_nll < base - 0.1


# --- what it refuses --------------------------------------------------------------------------------


def test_a_teacher_has_no_questions():
    with pytest.raises(UsageError, match="has no mmlu_test: it samples mixes and plain text only"):
        source().read("mmlu_test", hub="cais/mmlu", columns=("question",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.teacher.layers": (1, 4)}, "names layer 4: layers go from 0 to 3"),
        ({"adapter.target_modules": ("down_prj",)}, "unknown target module 'down_prj': did you mean down_proj"),
        ({"model.source": "packaged"}, "the model is not a random one"),
        ({"model.path": "weights"}, "the model is not a random one"),
    ],
    ids=["layer", "target", "packaged", "folder"],
)
def test_what_cannot_be_planted_is_named(overrides, message):
    with pytest.raises(UsageError, match=message):
        teacher_of(load("tiny", SMALL | overrides)).mix("dolly")


def test_an_unknown_mix_is_named():
    with pytest.raises(UsageError, match="unknown mix 'doly': did you mean dolly"):
        source().mix("doly")
