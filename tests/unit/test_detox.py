"""The policy as found, its prompts, and the settings as a PPO configuration."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from torch.testing import assert_close

from utils.detox import (
    HEATED,
    add_prompts,
    annotate,
    calmest,
    decoder_adapter,
    detox_config,
    detox_reward,
    detox_splits,
    initial_policy,
    is_adapter_of,
    judge_heated,
    soften,
    tuned_copy,
    with_ordinary,
    write,
)
from utils.faithfulness import facts, load_facts
from utils.finetuning import lora_config
from utils.models import load_model
from utils.prompts import build_prompt
from utils.settings import load_settings
from utils.toxicity import HateScorer, dialogue_heat

CPU = torch.device("cpu")
JUDGES = (("judge", ("hate", "nothate")), ("second_judge", ("toxic", "neutral")))


@pytest.fixture
def settings():
    return load_settings("offline")


def save_adapter(model_id: str, folder) -> torch.Tensor:
    """Save an adapter that changes something; logits of the model with it."""
    model, tokenizer = load_model(model_id, "cpu")
    adapted = get_peft_model(model, lora_config(4, lora_dropout=0.0))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return adapted.eval()(
        **tokenizer("hello", return_tensors="pt"), decoder_input_ids=torch.zeros(1, 1).long()
    ).logits


@torch.no_grad()
def test_the_initial_policy_has_the_adapter_merged(settings, tmp_path):
    expected = save_adapter(settings.model, tmp_path)
    found, tokenizer = initial_policy(settings, tmp_path, "cpu")
    assert not any("lora" in name for name, _ in found.named_parameters())
    logits = found(
        **tokenizer("hello", return_tensors="pt"), decoder_input_ids=torch.zeros(1, 1).long()
    ).logits
    assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_missing_adapter_and_one_of_another_model_are_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="holds no adapter: run Lab 2 first"):
        initial_policy(settings, tmp_path / "nothing")
    assert not is_adapter_of(tmp_path / "nothing", settings.model)
    save_adapter(settings.model, tmp_path)
    assert is_adapter_of(tmp_path, settings.model)
    config = (tmp_path / "adapter_config.json").read_text(encoding="utf-8")
    (tmp_path / "adapter_config.json").write_text(
        config.replace(settings.model, "another/model"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="belongs to 'another/model'"):
        initial_policy(settings, tmp_path)
    assert not is_adapter_of(tmp_path, settings.model)


def test_prompts_are_lab_2s(settings):
    rows = add_prompts(Dataset.from_dict({"dialogue": ["#Person1#: Hello.\n#Person2#: Hi."]}))
    assert rows["prompt"][0] == build_prompt("#Person1#: Hello.\n#Person2#: Hi.")


def test_the_decoders_adapter_leaves_the_encoder_frozen(settings):
    model, _ = load_model(settings.model, "cpu")
    names = [
        n
        for n, p in get_peft_model(model, decoder_adapter(settings)).named_parameters()
        if p.requires_grad
    ]
    assert names and all(".decoder." in name for name in names)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_every_estimator_samples_as_many_responses_in_a_step(settings, tmp_path, estimator):
    ppo = detox_config(settings, CPU, tmp_path)
    other = detox_config(settings, CPU, tmp_path, advantage_estimator=estimator)
    assert ppo.generation_batch_size == other.generation_batch_size == settings.ppo_batch_size
    assert other.num_generations == settings.ppo_generations
    assert ppo.beta == settings.kl_coef
    assert other.beta == {"rloo": settings.kl_coef, "grpo": settings.grpo_kl_coef}[estimator]


def test_changes_win_over_settings(settings, tmp_path):
    config = detox_config(settings, CPU, tmp_path, beta=0.0, seed=7, advantage_estimator="grpo")
    assert (config.beta, config.seed) == (0.0, 7)


@pytest.mark.parametrize(
    ("estimator", "precision"), [("gae", "auto"), ("rloo", "auto"), ("grpo", "fp32")]
)
def test_grpo_gets_its_reward_in_float32_and_the_others_in_the_settings_precision(
    estimator, precision
):
    settings = load_settings("cpu")
    assert settings.precision == "auto"
    scorer = SimpleNamespace(device=torch.device("cpu"))
    assert detox_reward(scorer, settings, estimator).precision == precision


class WordScorer:
    """A judge that finds hate in texts with the word "vile"; no weights."""

    device = CPU

    def probability(self, texts):
        return np.array([0.9 if "vile" in text else 0.1 for text in texts])


class HatesEverything(WordScorer):
    def probability(self, texts):
        return np.full(len(texts), 0.99)


@pytest.fixture(scope="module")
def splits():
    return detox_splits(load_settings("offline"), WordScorer())


def test_heated_splits_share_no_insult_between_train_and_test(splits):
    words = [
        {word for text in splits[f"heated_{name}"]["insult"] for word in text.split()}
        for name in ("train", "test")
    ]
    assert len(splits["heated_train"]) == 600 and len(splits["heated_validation"]) == 150
    assert words[0] and words[1] and not words[0] & words[1]


def test_number_of_judged_dialogues_is_the_settings(splits):
    settings = load_settings("offline", judged_dialogues=8, test_dialogues=20)
    few = detox_splits(settings, WordScorer())
    assert len(splits["heated_test"]) == load_settings("offline").judged_dialogues
    assert len(few["heated_test"]) == 8 and len(few["ordinary_test"]) == 10


def test_ordinary_dialogues_are_the_calmest_and_keep_their_order():
    said = ["vile", "fine", "so vile", "good", "well"]
    rows = Dataset.from_dict({"dialogue": [f"#Person1#: {text}" for text in said]})
    assert calmest(rows, WordScorer(), 3)["dialogue"] == [rows["dialogue"][i] for i in (1, 3, 4)]
    assert dialogue_heat(WordScorer(), rows["dialogue"]).tolist() == [0.9, 0.1, 0.9, 0.1, 0.1]


def test_a_judge_that_hates_everything_still_leaves_ordinary_dialogues():
    splits = detox_splits(load_settings("offline", judged_dialogues=4), HatesEverything())
    assert len(splits["ordinary_test"]) > 100 and len(splits["ordinary_train"]) > 500


def test_annotators_quote_in_the_share_that_is_asked_for(splits):
    rows = splits["heated_train"]
    drawn = annotate(rows, {"quoting": 0.85, "cool": 0.15}, seed=0)
    quoted = np.mean([a == b for a, b in zip(drawn["summary"], rows["quoting"], strict=True)])
    cool = np.mean([a == b for a, b in zip(drawn["summary"], rows["cool"], strict=True)])
    assert quoted + cool == 1 and quoted == pytest.approx(0.85, abs=0.05)
    assert drawn["summary"] != annotate(rows, {"quoting": 0.85, "cool": 0.15}, seed=1)["summary"]


def test_softened_summaries_lie_about_the_asked_share_of_refusals_and_nothing_else(splits):
    rows, known = splits["heated_train"], load_facts(HEATED)
    soft = soften(rows, 0.2, seed=0)["summary"]
    refused = np.array([known[name]["outcome"] == "no" for name in rows["id"]])
    right = facts(soft, [known[name] for name in rows["id"]])["outcome"].to_numpy()
    assert right[~refused].all()
    assert 1 - right[refused].mean() == pytest.approx(0.2, abs=0.07)
    assert soften(rows, 0.0)["summary"] == rows["cool"]


def test_heated_and_ordinary_rows_go_together_by_the_columns_of_both(splits):
    rows = with_ordinary(splits["heated_train"], splits["ordinary_train"])
    assert rows.column_names == ["id", "dialogue", "topic"]
    assert len(rows) == len(splits["heated_train"]) + len(splits["ordinary_train"])


def test_both_judges_and_the_facts_tell_quoting_from_cool_summaries(splits):
    rows = splits["heated_test"].select(range(40))
    small = (HateScorer(str(HEATED.parent / name), CPU, labels=labels) for name, labels in JUDGES)
    scorer, second = small
    quoting, cool = (judge_heated(rows[name], rows, scorer, second) for name in ("quoting", "cool"))
    assert quoting["second_judge"].mean() > 0.8 and cool["second_judge"].mean() < 0.1
    assert quoting["toxic_share"].mean() > 0.3 and cool["toxic_share"].mean() == 0
    assert (cool["clean_share"] == 1 - cool["toxic_share"]).all()
    assert cool["facts"].mean() == quoting["facts"].mean() == 1
    assert cool["rouge1"].mean() == pytest.approx(1) and quoting["rouge1"].mean() < 0.95


def test_samples_repeat_with_the_seed_and_differ_from_greedy_answers(settings, splits):
    model, tokenizer = load_model(settings.model, "cpu")
    prompts = [build_prompt(text) for text in splits["heated_test"]["dialogue"][:4]]
    short, hot = {"max_new_tokens": 12}, {"max_new_tokens": 12, "temperature": 3.0}
    first, second = (write(model, tokenizer, prompts, settings, **hot) for _ in range(2))
    assert first == second
    assert first != write(model, tokenizer, prompts, settings, do_sample=False, **short)
    other = load_settings("offline", seed=1)
    assert first != write(model, tokenizer, prompts, other, **hot)


def test_tuned_copy_changes_the_copy_and_not_the_policy(settings, splits, tmp_path):
    model, tokenizer = load_model(settings.model, "cpu")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rows = annotate(splits["heated_train"].select(range(4)), {"cool": 1.0})
    options = {"max_steps": 2, "per_device_train_batch_size": 4}
    tuned = tuned_copy(model, tokenizer, rows, settings, tmp_path, **options)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any("lora" in name for name, _ in tuned.named_parameters())
    assert any(not torch.equal(tuned.state_dict()[name], before[name]) for name in before)
