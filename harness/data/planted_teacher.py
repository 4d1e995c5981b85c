"""Data with a known right choice of layers: completions sampled from a teacher.

The teacher is the base model plus ΔW of rank r on the target modules of chosen layers. So an adapter of that
rank on those layers alone can learn the task, and layer selection should choose them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from floe_bench.harness import registry
from floe_bench.harness.contracts.rows import Columns, Complaint, Row
from floe_bench.harness.data import tokens
from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.floe.decoder import LINEAR, decoder_layers
from floe_bench.harness.spec.settings import Settings

if TYPE_CHECKING:
    from torch import Generator, Tensor

PRINTABLE = "".join(map(chr, range(ord("!"), ord("~") + 1)))
"""ASCII's visible characters. Each is one token of the byte tokenizer, so text and tokens convert without loss."""
PROMPT_LENGTH = 16


class TeacherSource:
    """A source that samples every mix from the teacher, and plain text from the base model.

    Prompts are random strings. Completions have `data.teacher.length` tokens. Each token is drawn from the
    teacher's next-token distribution over the visible characters, given the row as training will see it.
    Equal settings give equal rows; each mix has its own rows.

    Plain text comes from the base model, because Taylor importance asks how much the base's function depends on a
    layer. A random model has learned no prose: its loss on prose says what each layer would have to learn.

    Args:
        load_model: model settings -> model.
        byte_tokenizer: returns the tokenizer of a random model.

    Raises:
        UsageError: the model is not a random one with the byte tokenizer, or a layer or target does not exist.
    """

    kind: Literal["hub", "folder", "embedded", "teacher"] = "teacher"

    def __init__(self, settings: Settings, load_model: Callable[..., Any], byte_tokenizer: Callable[[], Any]):
        if settings.model.source != "random" or settings.model.path is not None:
            raise UsageError(
                "data.source is 'teacher', but the model is not a random one: only the byte tokenizer of "
                "model.source 'random' reads sampled text back as the same tokens"
            )
        self.settings = settings
        self._load_model = load_model
        self._byte_tokenizer = byte_tokenizer
        self.revisions: dict[str, str] = {}

    def read(self, file: str, hub: str, columns: Columns, complaint: Complaint | None = None, **_: Any) -> NoReturn:
        """Raise UsageError: a teacher has no files, so no benchmark questions either."""
        raise UsageError(
            f"data.source is 'teacher', which has no {file}: it samples mixes and plain text only; "
            "leave out evaluations that read questions"
        )

    def mix(self, name: str) -> Iterable[Row]:
        """Return `data.teacher.rows` rows, of the base model for "pretrain" and of the teacher for any other mix.

        Raises:
            UsageError: the mix is unknown.
        """
        registry.find("mix", name)
        if name == "pretrain":
            return self._plain_text()
        return self._completions(name)

    def _completions(self, name: str) -> list[Row]:
        """Return rows with random prompts and completions sampled from the teacher."""
        import torch

        settings = self.settings.data.teacher
        generator = self._generator(f"rows of {name}")
        letters = torch.randint(len(PRINTABLE), (settings.rows, PROMPT_LENGTH), generator=generator)
        prompts = ["".join(PRINTABLE[i] for i in row) for row in letters.tolist()]
        contexts = torch.tensor([self._context(prompt) for prompt in prompts])
        completions = self._sample(self.teacher, contexts, settings.length, settings.noise, generator)
        return [Row(*texts, domain=name) for texts in zip(prompts, completions, strict=True)]

    def _plain_text(self) -> list[Row]:
        """Return plain text from the base model: a random first token, then `length` sampled ones.

        No loss counts the first token, so completions and plain text have equally many that count.
        """
        import torch

        settings = self.settings.data.teacher
        generator = self._generator("plain text")
        first = torch.randint(len(PRINTABLE), (settings.rows, 1), generator=generator)
        texts = self._sample(self.base, self._printable_ids[first], settings.length, 0.0, generator)
        return [Row(None, PRINTABLE[i] + text, domain="pretrain") for i, text in zip(first, texts, strict=True)]

    @cached_property
    def base(self) -> Any:
        """Return the base model on the CPU, so that an accelerator does not change the rows."""
        return self._load_model(self.settings.model).cpu()

    @cached_property
    def teacher(self) -> Any:
        """Return the base model with `changes` added to its weights."""
        import torch

        teacher = copy.deepcopy(self.base)
        with torch.no_grad():
            for name, change in self.changes.items():
                teacher.get_submodule(name).weight += change
        return teacher

    @cached_property
    def changes(self) -> dict[str, Tensor]:
        """Return module name -> ΔW in the weight's shape, of rank r and ‖ΔW‖ = scale · ‖W‖ (Frobenius).

        The direction is random. It depends on the seed and the module's name alone, not on the other changed layers.
        """
        import torch

        settings = self.settings.data.teacher
        changes = {}
        for name, weight in self._changed_weights():
            generator = self._generator(f"change of {name}")
            left = torch.randn(weight.shape[0], settings.r, generator=generator)
            right = torch.randn(settings.r, weight.shape[1], generator=generator)
            change = left @ right
            changes[name] = (settings.scale * weight.norm() / change.norm() * change).to(weight.dtype)
        return changes

    def _changed_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and weight of every target module in the chosen layers. Raises UsageError where one is missing."""
        layers = decoder_layers(self.base)
        names = {module: name for name, module in self.base.named_modules()}
        for number in self.settings.data.teacher.layers:
            if not 0 <= number < len(layers):
                raise UsageError(f"data.teacher.layers names layer {number}: layers go from 0 to {len(layers) - 1}")
            linear = {names[module]: module for module in layers[number].modules() if isinstance(module, LINEAR)}
            for target in self.settings.adapter.target_modules:
                found = [name for name in linear if name.endswith(f".{target}")]
                if not found:
                    raise unknown("target module", target, {name.rpartition(".")[2] for name in linear})
                for name in found:
                    yield name, linear[name].weight.detach()

    def _context(self, prompt: str) -> list[int]:
        """Return the tokens that come before the row's completion in training."""
        room = Row(prompt, PRINTABLE[0] * self.settings.data.teacher.length, domain="")
        settings = self.settings
        (example,) = tokens.encode(
            [room], self._byte_tokenizer(), settings.model.prompt_format, settings.data.max_length
        )
        return [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label == -100]

    def _sample(self, model: Any, contexts: Tensor, length: int, noise: float, generator: Generator) -> list[str]:
        """Sample `length` visible characters after each row of contexts (rows, T).

        With probability `noise` a token is replaced by a random one. Later tokens see the replacement, so every other
        token is the model's own choice.
        """
        import torch

        sampled, tokens, cache = [], contexts, None
        for _ in range(length):
            with torch.inference_mode():
                out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            logits = out.logits[:, -1, self._printable_ids].float() * self.settings.data.teacher.sharpness
            chosen = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            replaced = torch.rand(chosen.shape, generator=generator) < noise
            chosen = torch.where(replaced, torch.randint(len(PRINTABLE), chosen.shape, generator=generator), chosen)
            sampled.append(chosen)
            tokens = self._printable_ids[chosen]
        return ["".join(PRINTABLE[i] for i in row) for row in torch.cat(sampled, dim=1).tolist()]

    @cached_property
    def _printable_ids(self) -> Tensor:
        import torch

        return torch.tensor(self._byte_tokenizer()(PRINTABLE)["input_ids"])

    def _generator(self, purpose: str) -> Generator:
        """Return a random generator that depends on the seed and the purpose alone."""
        import torch

        key = f"{purpose}, seed {self.settings.data.teacher.seed}"
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
