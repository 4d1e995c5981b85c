"""The one training path against arithmetic done by hand, and against itself interrupted."""

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from floe_bench.harness.data.tokens import collate
from floe_bench.harness.errors import StorageError
from floe_bench.harness.model import base as base_model
from floe_bench.harness.spec.settings import TrainSettings
from floe_bench.harness.training.trainer import (
    NonFiniteLoss,
    TrainJob,
    broken_checkpoint,
    discard_checkpoints,
    train,
)

from ...disk import largest_file

DEFAULTS = TrainSettings(learning_rate=1e-2, batch_size=4, micro_batch_size=4, epochs=2)  # pyright: ignore


def job(examples, folder: Path, progress=lambda text: None, bf16=False, **changes) -> TrainJob:
    settings = DEFAULTS.model_copy(update=changes)
    return TrainJob(examples, settings, settings.learning_rate, 0, folder, 258, bf16, progress)


def adapted(model, dropout=0.1):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=2, lora_dropout=dropout, target_modules=["up_proj", "down_proj"]))


def trained_weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class Killed(Exception):
    pass


def test_first_loss_is_the_mean_nll_of_the_completion_tokens(tiny, tiny_examples, tmp_path):
    model, _ = tiny
    batch = collate(tiny_examples[:4], 258)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    terms = [
        -logits[row, place - 1, label].item()
        for row, labels in enumerate(batch["labels"].tolist())
        for place, label in enumerate(labels)
        if label != -100
    ]
    outcome = train(adapted(model), job(tiny_examples[:4], tmp_path, epochs=1))
    assert outcome.loss_curve == [pytest.approx(sum(terms) / len(terms), rel=1e-5)]


def test_the_vocabulary_is_met_at_labelled_positions_only(tiny, tiny_examples, tmp_path):
    model, _ = tiny
    projected = []
    model.lm_head.register_forward_pre_hook(lambda _, args: projected.append(args[0].shape[:-1].numel()))
    train(adapted(model), job(tiny_examples[:8], tmp_path, epochs=1))
    labels = [label for example in tiny_examples[:8] for label in example["labels"][1:]]
    assert sum(projected) == sum(label != -100 for label in labels)


def test_counts_steps_and_tokens(tiny, tiny_examples, tmp_path):
    outcome = train(adapted(tiny[0]), job(tiny_examples, tmp_path))
    assert outcome.optimizer_steps == len(outcome.loss_curve) == 2 * math.ceil(len(tiny_examples) / 4)
    assert outcome.tokens == 2 * sum(len(example["input_ids"]) for example in tiny_examples)
    assert outcome.tokens_per_second == pytest.approx(outcome.tokens / outcome.seconds)
    assert outcome.truncated_rows == sum(example["truncated"] for example in tiny_examples)
    # r (d_in + d_out) for two modules of 16 x 24 in each of 4 layers
    assert outcome.trainable_parameters == 4 * 2 * 2 * (16 + 24)


def test_trains_the_adapter_and_nothing_else(tiny, tiny_examples, tmp_path):
    model, _ = tiny
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapped = adapted(model)
    before = trained_weights(wrapped)
    train(wrapped, job(tiny_examples, tmp_path))
    assert any(not torch.equal(before[name], p) for name, p in trained_weights(wrapped).items())
    restored = dict(wrapped.unload().named_parameters())
    assert all(torch.equal(restored[name], tensor) for name, tensor in base.items())


@pytest.mark.parametrize("stop_after", [3, 4, 9])
def test_resumes_to_the_very_weights_of_an_uninterrupted_training(stop_after, tiny_settings, tiny_examples, tmp_path):
    """With dropout and length grouping: both draw from the random state."""
    from floe_bench.harness.model import base as base_model

    def fresh():
        return adapted(base_model.load_model(tiny_settings.model))

    whole = fresh()
    expected = train(whole, job(tiny_examples, tmp_path / "whole", checkpoint_steps=2))

    def kill(text: str) -> None:
        if text.startswith(f"step {stop_after}/"):
            raise Killed

    with pytest.raises(Killed):
        train(fresh(), job(tiny_examples, tmp_path / "parts", kill, checkpoint_steps=2))
    resumed = fresh()
    outcome = train(resumed, job(tiny_examples, tmp_path / "parts", checkpoint_steps=2))
    assert outcome.loss_curve == expected.loss_curve
    assert outcome.tokens == expected.tokens
    assert all(torch.equal(p, trained_weights(whole)[name]) for name, p in trained_weights(resumed).items())
    discard_checkpoints(tmp_path / "parts")
    assert not list((tmp_path / "parts").iterdir())


def test_a_checkpoint_that_was_not_written_whole_is_passed_over(tiny, tiny_examples, tmp_path):
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    outcome = train(adapted(tiny[0]), job(tiny_examples, tmp_path))
    assert outcome.optimizer_steps == 10 == len(outcome.loss_curve)


@pytest.fixture
def killed(tiny, tiny_examples, tmp_path) -> Path:
    """The folder of a training that was killed after its first checkpoint."""

    def kill(text: str) -> None:
        if text.startswith("step 3/"):
            raise Killed

    with pytest.raises(Killed):
        train(adapted(tiny[0]), job(tiny_examples, tmp_path, kill, checkpoint_steps=2))
    return tmp_path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("break_it", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_checkpoint_that_is_not_as_it_was_written_is_told_from_a_whole_one(name, break_it, killed):
    assert broken_checkpoint(killed) is None
    break_it(killed / "checkpoints" / "checkpoint-2" / name)
    assert broken_checkpoint(killed) == f"{name} of checkpoint-2 cut, altered or gone"


@pytest.mark.parametrize("text", ["", "3.5", "{}", '{"seconds": NaN, "files": {}}', '{"files": 3}', "[]"])
def test_a_checkpoint_with_a_broken_mark_is_told(text, killed):
    (killed / "checkpoints" / "checkpoint-2" / "elapsed.json").write_text(text)
    assert broken_checkpoint(killed) == "the elapsed.json of checkpoint-2 is broken"


def test_without_a_checkpoint_none_is_broken(tmp_path):
    assert broken_checkpoint(tmp_path / "none") is None
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    assert broken_checkpoint(tmp_path) is None


@pytest.mark.parametrize("n_bytes", [1_000, 6_000, 15_000])
def test_a_disk_too_full_for_a_checkpoint_stops_the_training_in_one_sentence(n_bytes, tiny, tiny_examples, tmp_path):
    """Too full for the model card, the adapter, the optimiser's state."""
    model = adapted(tiny[0])
    with largest_file(n_bytes), pytest.raises(StorageError, match="checkpoints cannot be written"):
        train(model, job(tiny_examples, tmp_path, checkpoint_steps=2))
    assert broken_checkpoint(tmp_path) is None
    outcome = train(model, job(tiny_examples, tmp_path, checkpoint_steps=2))
    assert outcome.optimizer_steps == len(outcome.loss_curve) == 10


def test_checkpointing_gives_the_same_weights_and_recomputes_no_layer_below_the_lowest_trained(
    tiny_settings, tiny_examples, tmp_path
):
    trained, calls = [], []
    for checkpointing in (False, True):
        model = base_model.load_model(tiny_settings.model)
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["up_proj"], layers_to_transform=[2, 3]))
        seen = [0] * 4
        for number, layer in enumerate(model.model.layers):
            layer.mlp.register_forward_pre_hook(
                lambda *_, number=number, seen=seen: seen.__setitem__(number, seen[number] + 1)
            )
        train(adapted, job(tiny_examples[:4], tmp_path, epochs=1, gradient_checkpointing=checkpointing))
        trained.append(trained_weights(adapted))
        calls.append(seen)
    torch.testing.assert_close(trained[1], trained[0])
    assert calls == [[1, 1, 1, 1], [1, 1, 2, 2]]


def test_a_non_finite_loss_says_what_it_cost(tiny, tiny_examples, tmp_path):
    with pytest.raises(NonFiniteLoss) as caught:
        train(adapted(tiny[0]), job(tiny_examples, tmp_path, learning_rate=1e30))
    assert caught.value.seconds > 0 and 0 < caught.value.tokens < 2 * sum(len(e["input_ids"]) for e in tiny_examples)


def test_stops_at_the_first_non_finite_loss(tiny, tiny_examples, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"at optimiser step [2-5]$"):
        train(adapted(tiny[0]), job(tiny_examples, tmp_path, learning_rate=1e30))


def test_reports_progress_step_by_step(tiny, tiny_examples, tmp_path):
    lines: list[str] = []
    train(adapted(tiny[0]), job(tiny_examples, tmp_path, lines.append, epochs=1))
    assert [line.split()[1] for line in lines] == [f"{step}/5" for step in range(1, 6)]
    assert all("loss" in line and "tokens/s" in line and "s left" in line for line in lines)


def test_bfloat16_autocast_keeps_float32_weights(tiny, tiny_examples, tmp_path):
    wrapped = adapted(tiny[0])
    outcome = train(wrapped, job(tiny_examples, tmp_path, bf16=True))
    assert all(p.dtype == torch.float32 for p in trained_weights(wrapped).values())
    assert all(math.isfinite(loss) for loss in outcome.loss_curve)
