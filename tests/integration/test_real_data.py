"""The labs' data, baseline and ROUGE code on the real DialogSum; skipped where it is absent."""

import pytest

from utils.data import group_references, load_dialogsum
from utils.models import load_model
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
def test_rows(real_data):
    return group_references(load_dialogsum(real_data)["test"])


def test_baselines_and_ceilings_stand_in_their_order(test_rows):
    dialogues, summaries = list(test_rows["dialogue"]), list(test_rows["summaries"])
    few = slice(0, 100)
    oracle = [extractive_oracle(d, s) for d, s in zip(dialogues[few], summaries[few], strict=True)]
    scores = {
        "longest": rouge_scores([longest(d, 3) for d in dialogues[few]], summaries[few]),
        "lead": rouge_scores([lead(d, 2) for d in dialogues[few]], summaries[few]),
        "oracle": rouge_scores(oracle, summaries[few]),
        "human": human_agreement(summaries[few]),
    }
    means = [table["rouge1"].mean() for table in scores.values()]
    assert means == sorted(means)


def test_interval_of_lead_is_about_a_point_wide_on_500_dialogues(test_rows):
    scores = rouge_scores([lead(d, 2) for d in test_rows["dialogue"]], list(test_rows["summaries"]))
    interval = confidence_interval(scores).loc["rouge1"]
    assert 0.012 < interval["high"] - interval["low"] < 0.022


def test_a_dialogue_longer_than_the_budget_stands_alone_and_whole(real_data, test_rows, offline_t5):
    _, tokenizer = load_model(offline_t5)
    train = load_dialogsum(real_data)["train"].select(range(200))
    longest_dialogue = max(test_rows["dialogue"], key=len)
    examples = random_examples(train["dialogue"], train["summary"], 3, 1)
    (prompt,) = build_prompts([longest_dialogue], examples, TEMPLATES["plain"], tokenizer, 256)
    assert longest_dialogue in prompt
    assert count_tokens(tokenizer, prompt) > 256
    assert not any(dialogue in prompt for dialogue, _ in examples[0])
