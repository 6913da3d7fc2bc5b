"""Baselines, intervals and prompts on the real DialogSum; skipped where it is absent."""

import pytest
from datasets import Dataset

from utils.data import group_references
from utils.prompts import TEMPLATES, build_prompts, count_tokens, random_examples
from utils.rouge import (
    confidence_interval,
    extractive_oracle,
    human_agreement,
    lead,
    longest,
    rouge_scores,
)


@pytest.fixture(scope="module")
def test_rows(dialogsum) -> Dataset:
    return group_references(dialogsum["test"])


def test_longest_lead_oracle_and_people_rank_in_this_order(test_rows):
    few = slice(0, 50)
    dialogues, summaries = test_rows["dialogue"][few], test_rows["summaries"][few]
    oracle = [extractive_oracle(d, s) for d, s in zip(dialogues, summaries, strict=True)]
    scores = [
        rouge_scores([longest(d, 3) for d in dialogues], summaries),
        rouge_scores([lead(d, 2) for d in dialogues], summaries),
        rouge_scores(oracle, summaries),
        human_agreement(summaries),
    ]
    means = [table["rouge1"].mean() for table in scores]
    assert means == sorted(means)


def test_interval_of_lead_is_about_two_points_wide_on_500_dialogues(test_rows):
    scores = rouge_scores([lead(d, 2) for d in test_rows["dialogue"]], list(test_rows["summaries"]))
    interval = confidence_interval(scores).loc["rouge1"]
    assert 0.012 < interval["high"] - interval["low"] < 0.022


def test_a_dialogue_longer_than_the_budget_gets_no_examples_and_stays_whole(
    dialogsum, test_rows, offline_model
):
    _, tokenizer = offline_model
    train = dialogsum["train"].select(range(200))
    longest_dialogue = max(test_rows["dialogue"], key=len)
    examples = random_examples(train["dialogue"], train["summary"], 3, 1)
    (prompt,) = build_prompts([longest_dialogue], examples, TEMPLATES["plain"], tokenizer, 256)
    assert longest_dialogue in prompt
    assert count_tokens(tokenizer, prompt) > 256
    assert not any(dialogue in prompt for dialogue, _ in examples[0])
