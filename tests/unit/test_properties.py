"""What holds for every input, tried on inputs that hypothesis makes up."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from transformers import AutoTokenizer

from utils.conversations.turns import Turn, number_speakers, restore_names
from utils.dialogue_files import FORMATS, parse_conversations
from utils.generation import _batches
from utils.ppo.losses import kl_estimates, response_mask, token_rewards, whiten
from utils.prompts import TEMPLATES, build_prompt, count_tokens
from utils.rouge import rouge_scores
from utils.settings import OFFLINE
from utils.statistics import confidence_interval, holm, proportion_interval

settings.register_profile("labs", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("labs")
WORDS = st.lists(st.sampled_from(["anna", "asks", "tom", "for", "the", "ladder"]), min_size=1)
WORDS = WORDS.map(" ".join)
# Whatever a person may type, also the template's own words and the model's special tokens
TYPED = st.text(max_size=80) | st.sampled_from(
    ["{dialogue}", "Summary:", "</s>", "<extra_id_0>", "😀 مرحبا", "<b>&amp;</b>", "\x00\x07"]
)
NAMES = st.text(st.characters(categories=["L"]), min_size=1, max_size=8).filter(
    lambda name: name == " ".join(name.split())
)
SAID = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=40).map(
    lambda text: " ".join(text.split())
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(OFFLINE / "t5")


# Prompts


@given(dialogue=TYPED, example=st.tuples(TYPED, TYPED), name=st.sampled_from(sorted(TEMPLATES)))
def test_a_prompt_holds_the_dialogue_word_for_word_whatever_it_says(dialogue, example, name):
    before, after = TEMPLATES[name].split("{dialogue}")
    prompt = build_prompt(dialogue, [example], TEMPLATES[name])
    assert prompt.endswith(before + dialogue + after)
    assert prompt.startswith(before + example[0] + after)


@given(examples=st.lists(st.tuples(TYPED, TYPED), max_size=4), budget=st.integers(60, 400))
def test_a_prompt_keeps_within_its_budget_and_drops_the_last_examples_first(
    tokenizer, examples, budget
):
    prompt = build_prompt("#Person1#: Hi.", examples, TEMPLATES["plain"], tokenizer, budget)
    assert count_tokens(tokenizer, prompt) <= budget
    kept = [build_prompt("#Person1#: Hi.", examples[:n]) for n in range(len(examples) + 1)]
    assert prompt in kept


# Batches and masks


@given(st.lists(st.integers(1, 900), min_size=1, max_size=60), st.none() | st.integers(1, 9))
def test_batches_hold_every_row_once_and_no_more_tokens_than_fit(lengths, size):
    batches = list(_batches(lengths, size, 1_000))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in batch) for batch in batches]
    for batch, tokens in zip(batches, longest, strict=True):
        most = size or max(1, 1_000 // tokens)
        assert len(batch) <= most
    assert longest == sorted(longest, reverse=True)


IDS = st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5)


@given(IDS)
def test_a_response_ends_with_its_first_end_of_sequence_token(rows):
    mask = response_mask(torch.tensor(rows), 1)
    for row, kept in zip(rows, mask.tolist(), strict=True):
        length = row.index(1) + 1 if 1 in row else len(row)
        assert kept == [1] * length + [0] * (len(row) - length)


@given(IDS, st.integers(0, 2**31))
def test_whitened_tokens_have_mean_0_and_variance_1_and_what_is_masked_stays_out(rows, seed):
    mask = response_mask(torch.tensor(rows), 1)
    assume(mask.sum() >= 2)
    x = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))
    other = x + 1e3 * (1 - mask)
    white = whiten(x, mask)
    torch.testing.assert_close(whiten(other, mask), white)
    kept = white[mask.bool()]
    assert abs(kept.mean()) < 1e-5 and abs(kept.var() - 1) < 1e-3
    assert not white[~mask.bool()].any()


@given(IDS, st.integers(0, 2**31), st.floats(0, 3))
def test_rewards_of_tokens_add_up_to_the_score_minus_the_price_of_kl(rows, seed, beta):
    mask = response_mask(torch.tensor(rows), 1)
    generator = torch.Generator().manual_seed(seed)
    policy, reference = (-torch.rand(mask.shape, generator=generator) for _ in range(2))
    score = torch.randn(len(rows), generator=generator)
    k1, k2, k3 = kl_estimates(policy, reference)
    total = token_rewards(score, k1, mask, beta).sum(dim=1)
    torch.testing.assert_close(total, score - beta * (k1 * mask).sum(dim=1))
    assert (k2 >= 0).all() and (k3 >= -1e-6).all()


# ROUGE


@given(WORDS, WORDS)
def test_rouge_lies_between_0_and_1_and_does_not_care_which_text_is_the_reference(one, other):
    there, back = (rouge_scores([a], [b]).iloc[0] for a, b in ((one, other), (other, one)))
    assert there.between(0, 1).all()
    pd.testing.assert_series_equal(there, back)


@given(WORDS)
def test_rouge_of_a_text_with_itself_is_1(text):
    scores = rouge_scores([text], [text]).iloc[0]
    assert (scores.drop("rouge2") == 1).all()
    assert scores["rouge2"] == (len(text.split()) > 1)  # one word has no pair


# Conversations


@given(st.lists(st.tuples(NAMES, SAID.filter(bool)), min_size=1, max_size=6))
def test_turns_written_as_json_are_read_back(turns):
    rows = json.dumps([{"speaker": name, "text": said} for name, said in turns])
    (read,) = parse_conversations(rows.encode(), "chat.json")
    assert read.turns == [Turn(*turn) for turn in turns]


@given(st.lists(st.tuples(NAMES, SAID), min_size=1, max_size=6))
def test_names_come_back_from_their_numbers(turns):
    numbered, names = number_speakers([Turn(*turn) for turn in turns])
    back = [(restore_names(turn.speaker, names), turn.text) for turn in numbered]
    assert back == turns


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from(FORMATS))
@settings(max_examples=300)
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(content, file_format):
    try:
        assert parse_conversations(content, "chat.x", file_format)
    except ValueError as error:
        assert "chat.x" in str(error)


# Intervals


@pytest.mark.parametrize("n", [30, 100, 500])
def test_a_95_percent_bootstrap_interval_holds_the_true_mean_in_93_to_97_of_100_samples(n):
    """Each column of one table is a sample, with a true mean of its own."""
    rng, samples = np.random.default_rng(0), max(500, 120_000 // n)
    means = rng.random(samples)
    scores = pd.DataFrame(means + rng.normal(scale=0.2, size=(n, samples)))
    found = confidence_interval(scores)
    held = (found["low"] <= means) & (means <= found["high"])
    assert 0.93 <= held.mean() <= 0.97


@given(st.integers(1, 200), st.floats(0.001, 0.999))
@settings(max_examples=20)
def test_an_exact_interval_holds_the_true_share_in_at_least_95_of_100_samples(n, share):
    counts = np.arange(n + 1)
    probable = counts[binom.pmf(counts, n, share) > 1e-6]
    ends = {k: proportion_interval(int(k), n) for k in probable}
    missed = [k for k, (low, high) in ends.items() if not low <= share <= high]
    assert binom.pmf(missed, n, share).sum() <= 0.05 + 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_raises_p_values_keeps_their_order_and_at_most_multiplies_by_their_number(p):
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= -1e-12).all()
