"""Train the small T5 to read its prompt, on its answers and on probes of the encoder's output.

    python -m tools.small_world.reader --folder out/world/t5

A probe is one linear layer that must tell, from the encoder's output, what a good reader knows:
which tokens belong to the dialogue that is asked about, whose turn a token is in, which fact it
tells, and which style the examples show. The probes are thrown away after training. Without them,
a model this small needs several times as many steps to read the right dialogue and to follow
examples.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration, set_seed

from tools.small_world.measure import held_out_dialogues, measure
from tools.small_world.tasks import DETAILS, FEW_SHOT_FORMS, PARTS
from tools.small_world.training import Item, Recipe, batches, mixture, padded, train
from tools.small_world.vocabulary import make_tokenizer

WEIGHTS = {"asked": 0.3, "roles": 0.3, "parts": 0.3, "styles": 0.2}
CLASSES = {"asked": 2, "roles": 3, "parts": 1 + len(PARTS)}
IGNORED = -100


def make_model(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> T5ForConditionalGeneration:
    """Return an untrained T5 for the tokenizer's vocabulary, without dropout."""
    set_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=384,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,  # tasks never repeat, so dropout is not needed
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


class Probes(nn.Module):
    """Linear layers that predict the labels of `tasks.Labels` from the encoder's output."""

    def __init__(self, width: int):
        super().__init__()
        self.tokens = nn.ModuleDict({name: nn.Linear(width, n) for name, n in CLASSES.items()})
        self.styles = nn.Linear(width, len(FEW_SHOT_FORMS) + 2 * len(DETAILS))

    def forward(self, hidden: torch.Tensor, items: list[Item]) -> dict[str, torch.Tensor]:
        """Return the loss of each probe; `hidden` is (batch, time, width)."""
        losses = {}
        for name, probe in self.tokens.items():
            labels = padded([getattr(item.labels, name) for item in items], IGNORED)
            losses[name] = mean_loss(probe(hidden).flatten(0, 1), labels.flatten())
        ends = torch.tensor([len(item.prompt) - 1 for item in items])
        logits = self.styles(hidden[torch.arange(len(items)), ends])
        labels = torch.tensor([item.labels.styles for item in items])  # (batch, 1 + details)
        form, details = logits.split([len(FEW_SHOT_FORMS), 2 * len(DETAILS)], dim=1)
        losses["styles"] = mean_loss(form, labels[:, 0]) + mean_loss(
            details.reshape(-1, 2), labels[:, 1:].flatten()
        )
        return losses


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over the labels that are not ignored, 0 if there are none."""
    total = cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def reader_losses(
    model: T5ForConditionalGeneration, probes: Probes | None
) -> Callable[[list[Item]], dict[str, torch.Tensor]]:
    """Return a function that computes a batch's weighted losses: the answer's and each probe's."""

    def losses(items: list[Item]) -> dict[str, torch.Tensor]:
        """Return the weighted losses of a batch."""
        ids = padded([item.prompt for item in items], 0)
        labels = padded([item.answer for item in items], IGNORED)
        output = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels)
        parts = {"answer": mean_loss(output.logits.flatten(0, 1), labels.flatten())}
        if probes is not None:
            told = probes(output.encoder_last_hidden_state, items)
            parts |= {name: WEIGHTS[name] * value for name, value in told.items()}
        return parts

    return losses


def train_reader(
    folder: Path, recipe: Recipe, with_probes: bool = True, judged: int = 60
) -> list[dict[str, Any]]:
    """Train a T5 and save it with its tokenizer, with dropout 0.1 for fine-tuning.

    Every `save_steps` steps it is saved and judged on validation dialogues. Returns the log, which
    is also printed, one line of JSON for each entry.
    """
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, recipe.seed)
    modules = nn.ModuleDict({"model": model})
    if with_probes:
        modules["probes"] = Probes(model.config.d_model)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)

    def save_and_judge(step: int) -> dict[str, Any]:
        """Save the model, and return its mean scores for each number of examples."""
        model.config.dropout_rate = 0.1
        model.save_pretrained(folder)
        scores = measure(model, tokenizer, "validation", judged).groupby("shots")
        means = scores.mean(numeric_only=True)
        model.train()
        return means.round(3).to_dict("index")

    items = batches(recipe, tokenizer, mixture(recipe, held_out_dialogues()))
    losses = reader_losses(model, probes=modules["probes"] if with_probes else None)
    return train(modules, losses, items, recipe, save_and_judge)


def main() -> None:
    """Train the T5 and write it to a folder."""
    parser = argparse.ArgumentParser(description="Train the small world's T5 from scratch.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed)
    train_reader(arguments.folder, recipe)


if __name__ == "__main__":
    main()
