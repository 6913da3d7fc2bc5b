"""Train a small model of the small world from scratch: batches, optimizers and the loop.

Tasks are drawn on the fly and never repeated. The matrices inside the layers are trained by Muon
(Jordan et al. 2024), everything else by AdamW: on two CPU cores, a loss that Muon reaches in 400
steps takes AdamW alone several times as many.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from tools.small_world.tasks import Labels, Task, draw_task, label
from utils.data import NearDuplicates
from utils.models import autocast

POOL = 128  # tasks with the same number of examples, drawn and sorted by length together
DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; `shares` gives the shares of steps with 0 to 3 worked examples."""

    steps: int = 7_000  # 30 to 45 minutes on one core
    batch_tokens: int = 2_000  # of prompts, padding included
    first_steps: int = 300  # without examples: the model learns to copy from the dialogue
    shares: tuple[float, ...] = (0.2, 0.3, 0.25, 0.25)
    bare_share: float = 0.1  # of the prompts without examples
    muon_rate: float = 2e-3
    adamw_rate: float = 1e-2
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    warmup_steps: int = 100
    precision: str = "auto"  # bf16 autocast where the processor has it
    log_steps: int = 100
    save_steps: int = 1_000
    seed: int = 0


@dataclass(frozen=True)
class Item:
    """A task with the token ids of prompt and answer (end tokens included) and its labels."""

    task: Task
    prompt: list[int]
    answer: list[int]
    labels: Labels


Draw = Callable[[random.Random, int], Task]


def mixture(recipe: Recipe, held_out: NearDuplicates | None = None) -> Draw:
    """Return a function that draws a task with a given number of examples."""

    def draw(rng: random.Random, shots: int) -> Task:
        """Draw one task with `shots` worked examples."""
        return draw_task(rng, shots, 0.0 if shots else recipe.bare_share, held_out)

    return draw


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, draw: Draw) -> Iterator[list[Item]]:
    """Yield one batch per step: prompts of similar length, with equally many examples."""
    rng = random.Random(f"batches-{recipe.seed}")
    waiting: dict[int, list[list[Item]]] = {shots: [] for shots in range(len(recipe.shares))}
    for step in range(recipe.steps):
        shots = 0
        if step >= recipe.first_steps:
            shots = rng.choices(range(len(recipe.shares)), recipe.shares)[0]
        if not waiting[shots]:
            items = [_item(draw(rng, shots), tokenizer) for _ in range(POOL)]
            waiting[shots] = _cut(items, recipe.batch_tokens)
            rng.shuffle(waiting[shots])
        yield waiting[shots].pop()


def _item(task: Task, tokenizer: PreTrainedTokenizerBase) -> Item:
    prompt, answer = tokenizer([task.prompt, task.answer], verbose=False)["input_ids"]
    return Item(task, prompt, answer, label(task, prompt, tokenizer))


def _cut(items: list[Item], tokens: int) -> list[list[Item]]:
    """Sort by length, and cut into batches of at most `tokens` tokens with padding."""
    parts: list[list[Item]] = [[]]
    for item in sorted(items, key=lambda item: len(item.prompt)):
        if parts[-1] and (len(parts[-1]) + 1) * len(item.prompt) > tokens:
            parts.append([])
        parts[-1].append(item)
    return parts


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Return rows of different length as one tensor (rows, longest), padded on the right."""
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def make_optimizers(modules: nn.ModuleDict, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, and AdamW for everything else.

    Embeddings (tied to the output), norms, relative position biases and the probes are AdamW's.
    """
    named = [(name, p) for name, p in modules.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if _is_inner(name, p)]
    outer = [p for name, p in named if not _is_inner(name, p)]
    decay = {"weight_decay": recipe.weight_decay}
    return [
        Muon(inner, lr=recipe.muon_rate, **decay),
        AdamW(outer, lr=recipe.adamw_rate, betas=(0.9, 0.98), **decay),
    ]


def _is_inner(name: str, parameter: nn.Parameter) -> bool:
    outside = ("embed", "shared", "lm_head", "relative_attention_bias", "classifier", "probes")
    return parameter.ndim == 2 and not any(part in name for part in outside)


def rate_factor(step: int, recipe: Recipe) -> float:
    """Return the share of the peak rate: warm-up, plateau, linear decay over the last half."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return warm * min(1.0, 2 * (recipe.steps - step) / recipe.steps)


def train(
    modules: nn.ModuleDict,
    losses: Callable[[list[Item]], dict[str, torch.Tensor]],
    items: Iterator[list[Item]],
    recipe: Recipe,
    after: Callable[[int], dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Train `modules` on the sum of the losses; return one row of their means per `log_steps`.

    `losses` computes the weighted losses of a batch by name. Rows are also printed as JSON lines.
    `after` is called every `save_steps` steps, and what it returns is logged.

    Raises FloatingPointError if the loss is not finite.
    """
    modules.train()
    optimizers = make_optimizers(modules, recipe)
    schedules = [LambdaLR(o, lambda step: rate_factor(step, recipe)) for o in optimizers]
    history, sums, start = [], {}, time.perf_counter()

    def log(row: dict[str, Any]) -> None:
        """Keep a row, and print it."""
        history.append(row)
        print(json.dumps(row), flush=True)

    for step, batch in enumerate(items, start=1):
        with autocast(recipe.precision, DEVICE):
            parts = losses(batch)
        _update(modules, sum(parts.values()), optimizers, schedules, recipe)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.item() / recipe.log_steps
        if step % recipe.log_steps == 0:
            log({"step": step, "seconds": round(time.perf_counter() - start), **sums})
            sums = {}
        if after and (step % recipe.save_steps == 0 or step == recipe.steps):
            log({"step": step, **after(step)})
    return history


def _update(
    modules: nn.ModuleDict, loss: torch.Tensor, optimizers: list, schedules: list, recipe: Recipe
) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}: lower the learning rates")
    loss.backward()
    nn.utils.clip_grad_norm_(list(modules.parameters()), recipe.max_grad_norm)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
