"""Measure a model of the small world on held-out dialogues: ROUGE-1, people and facts."""

from functools import cache

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tools.small_world import tables
from tools.small_world.corpus import draw_attitude, draw_split, make_rows
from tools.small_world.world import Facts, Style, write_summary
from utils.data import NearDuplicates
from utils.faithfulness import facts as check_facts
from utils.generation import generate
from utils.prompts import PLAIN, build_prompt, random_examples
from utils.rouge import rouge_scores

SEED = 0
MOST_TOKENS = 80  # of a summary


@cache
def held_out_dialogues(seed: int = SEED) -> NearDuplicates:
    """Return the dialogues of validation and test, which no training dialogue may resemble."""
    rows = [row for split in ("validation", "test") for row in make_rows(split, seed)[0]]
    return NearDuplicates(row["dialogue"] for row in rows)


def judged(summaries: list[str], references: list[list[str]], facts: list[Facts]) -> pd.DataFrame:
    """Return one row per summary: rouge1 in points, the columns of `facts`, and new_names.

    Of the names in the references that no training dialogue has, `new_names` is the share that the
    summary has; it is missing if there are no such names.
    """
    table = check_facts(summaries, [known.record() for known in facts])
    pairs = zip(summaries, references, strict=True)
    return table.assign(
        rouge1=100 * rouge_scores(summaries, references)["rouge1"],
        new_names=[_new_names(text, texts) for text, texts in pairs],
    )


def _new_names(summary: str, references: list[str]) -> float:
    new = {*tables.NAMES["validation"], *tables.NAMES["test"]} & _words(" ".join(references))
    return len(new & _words(summary)) / len(new) if new else np.nan


def _words(text: str) -> set[str]:
    return set(text.replace(".", " ").replace(",", " ").replace(":", " ").split())


def held_out(
    split: str, n: int, references: int = 3, seed: int = SEED
) -> tuple[list[Facts], list[str], list[list[str]]]:
    """Draw `n` dialogues of a split: facts, dialogues, and several references of each."""
    drawn = draw_split(split, n, seed)
    texts = [
        [write_summary(facts, Style(insult=draw_attitude(rng)), rng) for _ in range(references)]
        for facts, _, rng in drawn
    ]
    return [facts for facts, _, _ in drawn], [dialogue for _, dialogue, _ in drawn], texts


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: str = "validation",
    n: int = 200,
    shots: tuple[int, ...] = (0, 1, 3),
    seed: int = SEED,
    template: str = PLAIN,
) -> pd.DataFrame:
    """Judge greedy summaries of `n` dialogues for each number of worked examples in `shots`.

    Returns the rows of `judged` for each number of examples, with the column `shots` and the
    column `text`.
    """
    facts, dialogues, references = held_out(split, n, seed=seed)
    train = make_rows("train", seed)[0]
    examples = random_examples(
        [row["dialogue"] for row in train], [row["summary"] for row in train], max(shots), n, seed
    )
    tables_ = []
    for k in shots:
        prompts = [
            build_prompt(dialogue, shown[:k], template)
            for dialogue, shown in zip(dialogues, examples, strict=True)
        ]
        texts = generate(model, tokenizer, prompts, max_new_tokens=MOST_TOKENS)
        tables_.append(judged(texts, references, facts).assign(shots=k, text=texts))
    return pd.concat(tables_)


@torch.inference_mode()
def measure_decoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: str = "validation",
    n: int = 200,
    seed: int = SEED,
    template: str = PLAIN,
) -> pd.DataFrame:
    """Judge a decoder-only model's greedy summaries of `n` dialogues, as `measure` does."""
    facts, dialogues, references = held_out(split, n, seed=seed)
    prompts = [build_prompt(dialogue, (), template) for dialogue in dialogues]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    model.eval()
    output = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
    answers = output[:, batch["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return judged(texts, references, facts).assign(text=texts)
