"""Train a tiny decoder-only model of the small world, for trainers without encoder-decoder support.

    python -m tools.small_world.decoder --folder out/world/decoder

Without examples, it writes reports like the data's references, and cool ones if asked to be
polite. Lab 3 trains it further with TRL's `GRPOTrainer`. A prompt ends in the tokenizer's end
token, which TRL adds as well. Positions are rotary (Su et al. 2021), so that
padding on the left changes nothing; with GPT-2's absolute positions, TRL's log-probabilities would
not be those of its samples.
"""

import argparse
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, set_seed

from tools.small_world.corpus import HEATED_SHARE, SIMILAR, draw_attitude
from tools.small_world.measure import held_out_dialogues, measure_decoder
from tools.small_world.reader import IGNORED, mean_loss
from tools.small_world.speech import write_dialogue
from tools.small_world.tables import FLAN_TEMPLATES
from tools.small_world.tasks import POLITE_SHARE, Task
from tools.small_world.training import Draw, Item, Recipe, batches, padded, train
from tools.small_world.vocabulary import make_tokenizer
from tools.small_world.world import PRACTICE, Style, draw_facts, write_summary
from utils.data import NearDuplicates
from utils.prompts import PLAIN, TEMPLATES, build_prompt

RECIPE = Recipe(steps=2_000, shares=(1.0,), first_steps=0, batch_tokens=2_500, save_steps=500)


def make_decoder(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> LlamaForCausalLM:
    """Return an untrained decoder-only model for the tokenizer's vocabulary."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=5,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def reports(held_out: NearDuplicates | None = None) -> Draw:
    """Return a function that draws a prompt without examples and, as its answer, a report."""

    def draw(rng: random.Random, shots: int) -> Task:
        """Draw one prompt and its report; `shots` is always 0."""
        polite = rng.random() < POLITE_SHARE
        template = TEMPLATES["polite"] if polite else rng.choice((PLAIN, PLAIN, *FLAN_TEMPLATES))
        while True:
            facts = draw_facts(rng, rng.random() < HEATED_SHARE, PRACTICE)
            dialogue = write_dialogue(facts, rng, PRACTICE)
            if held_out is None or held_out.similarity(dialogue) < SIMILAR:
                break
        style = Style(insult="cool" if polite else draw_attitude(rng))
        answer = write_summary(facts, style, rng)
        return Task(build_prompt(dialogue, (), template), answer, dialogue, facts, style)

    return draw


def decoder_losses(model: LlamaForCausalLM) -> Callable[[list[Item]], dict[str, torch.Tensor]]:
    """Return a function that computes the loss of the answers, and a tenth of the prompts'."""

    def losses(items: list[Item]) -> dict[str, torch.Tensor]:
        """Return the weighted losses of a batch."""
        ids = padded([item.prompt + item.answer for item in items], 0)
        answers = [[IGNORED] * len(item.prompt) + item.answer for item in items]
        prompts = [item.prompt + [IGNORED] * len(item.answer) for item in items]
        logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, :-1]
        flat = logits.flatten(0, 1)
        return {
            "answer": mean_loss(flat, padded(answers, IGNORED)[:, 1:].flatten()),
            "prompt": 0.1 * mean_loss(flat, padded(prompts, IGNORED)[:, 1:].flatten()),
        }

    return losses


def train_decoder(folder: Path, recipe: Recipe = RECIPE, judged: int = 60) -> list[dict[str, Any]]:
    """Train a decoder-only model, and save it with its tokenizer, whose padding side is left."""
    tokenizer = make_tokenizer()
    model = make_decoder(tokenizer, recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    # Saved only if it is both among the initial arguments and set.
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)

    def save_and_judge(step: int) -> dict[str, Any]:
        """Save the model, and return its mean scores on validation dialogues."""
        model.save_pretrained(folder)
        means = measure_decoder(model, tokenizer, n=judged).mean(numeric_only=True)
        model.train()
        return means.round(3).to_dict()

    items = batches(recipe, tokenizer, reports(held_out_dialogues()))
    modules = nn.ModuleDict({"model": model})
    return train(modules, decoder_losses(model), items, recipe, save_and_judge)


def main() -> None:
    """Train the decoder-only model and write it to a folder."""
    parser = argparse.ArgumentParser(description="Train the small world's decoder-only model.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--seed", type=int, default=RECIPE.seed)
    arguments = parser.parse_args()
    recipe = dataclasses.replace(RECIPE, steps=arguments.steps, seed=arguments.seed)
    train_decoder(arguments.folder, recipe)


if __name__ == "__main__":
    main()
