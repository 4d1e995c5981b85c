"""The one training path of every method, pilot and probe: transformers' Trainer on accelerate."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from floe_bench.harness.contracts.record import TrainOutcome
from floe_bench.harness.data.tokens import Example, collate
from floe_bench.harness.files import file_digests, read_json, write_json, writing
from floe_bench.harness.floe.labels import at_labels
from floe_bench.harness.spec.settings import TrainSettings
from floe_bench.harness.training.peak_memory import peak_memory

Progress = Callable[[str], None]


CHECKPOINTS = "checkpoints"
ELAPSED = "elapsed.json"
"""A checkpoint's seconds of training, and the sha256 of its files."""


class NonFiniteLoss(Exception):
    """The loss became NaN or infinite, after so many seconds and tokens of training."""

    def __init__(self, message: str, seconds: float, tokens: int):
        super().__init__(message)
        self.seconds = seconds
        self.tokens = tokens


@dataclass(frozen=True)
class TrainJob:
    """The inputs of `train` beside the model.

    folder: holds checkpoints while training runs. A killed run resumes from the newest one. Whoever trains makes sure
        that it is whole (`broken_checkpoint`).
    bf16: whether to compute under bfloat16 autocast.
    """

    examples: Sequence[Example]
    settings: TrainSettings
    learning_rate: float
    seed: int
    folder: Path
    pad_token_id: int
    bf16: bool
    progress: Progress


def train(model: PreTrainedModel | Any, job: TrainJob) -> TrainOutcome:
    """Train the parameters that require gradients, in place. Raises NonFiniteLoss; StorageError for a refusing disk."""
    checkpoint = _newest_checkpoint(job.folder)
    monitor = _TrainingMonitor(job, checkpoint)
    with writing(job.folder):
        _checkpoints(job.folder).mkdir(parents=True, exist_ok=True)
    trainer = _Trainer(
        model=model,
        args=_arguments(job),
        train_dataset=list(job.examples),  # pyright: ignore[reportArgumentType]
        data_collator=lambda examples: collate(examples, job.pad_token_id),
        callbacks=[monitor],
    )
    trainer.remove_callback(PrinterCallback)
    with peak_memory() as peak:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Remove accelerate's autocast wrapper, so that the model computes as after loading from disk.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()
    seconds = monitor.seconds()
    tokens = int(trainer.state.num_input_tokens_seen)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return TrainOutcome(
        trainable_parameters=sum(p.numel() for p in trainable),
        total_parameters=sum(p.numel() for p in model.parameters()),
        adapter_bytes=sum(p.numel() * p.element_size() for p in trainable),
        optimizer_steps=trainer.state.global_step,
        tokens=tokens,
        truncated_rows=sum(example["truncated"] for example in job.examples),
        control_text_rows=sum(example["control_text"] for example in job.examples),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        peak_bytes=peak.bytes,
        peak_kind=peak.kind,
        loss_curve=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        learning_rate=job.learning_rate,
    )


def discard_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished training."""
    shutil.rmtree(_checkpoints(folder), ignore_errors=True)


def broken_checkpoint(folder: Path) -> str | None:
    """Say what is wrong with the checkpoint that `train` would resume from; None where it is whole or there is none."""
    checkpoint = _newest_checkpoint(folder)
    if checkpoint is None:
        return None
    try:
        written = dict(read_json(checkpoint / ELAPSED)["files"])
        found = file_digests(checkpoint)
    except OSError as error:
        return f"{checkpoint.name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"the {ELAPSED} of {checkpoint.name} is broken"
    changed = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
    changed.remove(ELAPSED)  # it cannot hold its own digest
    return f"{', '.join(changed)} of {checkpoint.name} cut, altered or gone" if changed else None


class _Trainer(Trainer):
    """A Trainer that computes logits only at labels, and repeats the order of rows when an epoch is resumed."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs | at_labels(inputs), *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = [len(example["input_ids"]) for example in cast(list[Example], self.train_dataset)]
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _EpochLengthGroupedSampler(per_step, lengths, self.args.data_seed or 0)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with writing(Path(self.args.output_dir or "")):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the checkpoint and restore the parameters' dtypes. PEFT raises adapters to float32 on the way."""
        dtypes = {name: p.dtype for name, p in self.model.named_parameters()}  # pyright: ignore[reportOptionalMemberAccess]
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, p in self.model.named_parameters():  # pyright: ignore[reportOptionalMemberAccess]
            p.data = p.data.to(dtypes[name])


class _EpochLengthGroupedSampler(LengthGroupedSampler):
    """A length-grouped sampler seeded by epoch. transformers' own uses global random state, which resuming loses."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        self.order = torch.Generator()
        super().__init__(batch_size, lengths=lengths, generator=self.order)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.order.manual_seed(self.seed * 1_000_003 + epoch)


class _TrainingMonitor(TrainerCallback):
    """Count seconds across resumptions, ask for checkpoints, report progress, and stop at a non-finite loss."""

    def __init__(self, job: TrainJob, checkpoint: Path | None):
        self.job = job
        self.before = read_json(checkpoint / ELAPSED)["seconds"] if checkpoint else 0.0
        self.start = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.job.settings.gradient_checkpointing:
            # Only reentrant checkpoints need gradients at the embeddings, and ours are not reentrant.
            # With them the backward would pass through all layers below the lowest trained one.
            model.disable_input_require_grads()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = state.global_step % self.job.settings.checkpoint_steps == 0
        control.should_save = due and state.global_step < state.max_steps

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = _checkpoints(self.job.folder) / f"checkpoint-{state.global_step}"
        write_json(folder / ELAPSED, {"seconds": self.seconds(), "files": file_digests(folder)})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss} at optimiser step {state.global_step}",
                self.seconds(),
                int(state.num_input_tokens_seen),
            )
        speed = state.num_input_tokens_seen / self.seconds()
        left = (state.max_steps - state.global_step) * self.seconds() / max(1, state.global_step)
        self.job.progress(
            f"step {state.global_step}/{state.max_steps}  loss {loss:.3f}  {speed:.0f} tokens/s  {left:.0f} s left"
        )


def _arguments(job: TrainJob) -> TrainingArguments:
    settings = job.settings
    arguments = TrainingArguments(
        output_dir=str(_checkpoints(job.folder)),
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=job.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share of all steps
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        bf16=job.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=job.seed,
        data_seed=job.seed,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        activation_checkpointing=settings.gradient_checkpointing,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN must be seen, not replaced by the running mean
        save_strategy="no",  # _TrainingMonitor asks for checkpoints, and for none after the last step
        save_total_limit=1,
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
        disable_tqdm=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # with more GPUs the Trainer would multiply the batch size
    return arguments


def _checkpoints(folder: Path) -> Path:
    return folder / CHECKPOINTS


def _newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint. ELAPSED marks it, the last file to be written."""
    found = [path for path in _checkpoints(folder).glob("checkpoint-*") if (path / ELAPSED).exists()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
