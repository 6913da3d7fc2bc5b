"""PPO without a price of KL on the small world: the policy does not forget how to write."""

import copy
import re

import pytest
import torch
from datasets import Dataset
from tiny_ppo import logged
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tools.small_world import tables
from utils.data import first_rows, load_dialogsum
from utils.detox import (
    add_prompts,
    decoder_adapter,
    detox_config,
    detox_reward,
)
from utils.finetuning import fine_tune, finetune_arguments
from utils.generation import generate
from utils.lab.heated import heated_splits
from utils.models import load_model
from utils.ppo import PPOTrainer
from utils.settings import Settings, load_settings
from utils.toxicity import HateScorer

WHO = r"(?:#Person[123]#|[A-Z][a-z]+)"
OUTCOME, THIRD = (
    "|".join(report for _, reports, _ in table.values() for report in reports)
    for table in (tables.OUTCOMES, tables.THIRDS)
)
COOL = "|".join(report.format(a="", b=WHO).strip() for report in tables.COOL_REPORTS)
# A report of the small world: a request, its outcome, what a third speaker does, and an insult or
# a burst of anger.
REPORT = re.compile(
    rf"{WHO} [a-z][^.]*(?:\.|, and) {WHO} (?:{OUTCOME})\.(?: {WHO} (?:{THIRD})\.)?"
    rf"(?: {WHO} (?:calls {WHO} a \w+ \w+|{COOL})\.)?"
)


def well_formed(summaries: list[str]) -> float:
    return sum(REPORT.fullmatch(text) is not None for text in summaries) / len(summaries)


def test_references_are_reports_and_notes_and_diaries_are_not(offline_data):
    assert well_formed(offline_data["validation"]["summary"]) == 1.0
    notes = "#Person1# and Tom talk about the saw. Result: yes."
    diary = "I borrowed a saw, since the roof leaks. They were glad to help."
    insulted = "Tom wants Emma to help. Emma agrees. Tom calls Emma a rude rude snob."
    for text in (notes, diary, insulted, "Tom asks Emma for the the. Emma.", ""):
        assert well_formed([text]) == 0.0


@pytest.fixture(scope="module")
def initial(tmp_path_factory) -> tuple[Settings, PreTrainedModel, PreTrainedTokenizerBase]:
    """The small world's T5, fine-tuned to write reports as Lab 2 does, its adapter merged."""
    settings = load_settings("offline")
    data, folder = load_dialogsum(settings.dataset), tmp_path_factory.mktemp("lora")
    model, tokenizer = load_model(settings.model, "cpu")
    arguments = finetune_arguments(settings, "lora", output_dir=str(folder))
    few = first_rows(data["validation"], 50)
    tuned = fine_tune(model, tokenizer, data["train"], few, **arguments)
    return settings, tuned.model.merge_and_unload().eval(), tokenizer


@pytest.mark.slow
def test_without_a_price_of_kl_well_formed_summaries_stay_above_nine_in_ten(initial, tmp_path):
    """Four seeds kept 100 %. At a constant rate, with four passes over each sample, six seeds kept
    100, 100, 78, 100, 95 and 100 %: there the classifier, not the value head, changes the form.
    """
    settings, policy, tokenizer = initial
    scorer = HateScorer(settings.reward_model, "cpu")
    splits = heated_splits(settings, scorer)
    prompts: Dataset = add_prompts(splits["ordinary_test"])
    trainer = PPOTrainer(
        copy.deepcopy(policy),
        detox_reward(scorer, settings),
        detox_config(settings, torch.device("cpu"), tmp_path, beta=0.0),
        add_prompts(splits["heated_train"]),
        processing_class=tokenizer,
        peft_config=decoder_adapter(settings),
    )
    before = generate(policy, tokenizer, list(prompts["prompt"]), max_new_tokens=64)
    assert well_formed(before) > 0.9
    trainer.train()
    after = generate(trainer.policy, tokenizer, list(prompts["prompt"]), max_new_tokens=64)
    rewards = logged(trainer, "reward")
    assert rewards[-1] > rewards[0] + 0.5
    assert well_formed(after) > 0.9
    kept = [new for old, new in zip(before, after, strict=True) if well_formed([old])]
    assert well_formed(kept) > 0.9
