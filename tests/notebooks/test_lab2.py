"""What the stored run of Lab 2 shows on the small world."""

import json

import pytest

from utils.lab.notebooks import ROOT
from utils.settings import load_settings

RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["lab2"]


def test_stored_run_is_that_of_the_small_world():
    assert RESULTS["run"]["embedded_default"] and RESULTS["run"]["seed"] == 42


@pytest.mark.parametrize("method", ["full", "lora"])
def test_fine_tuning_beats_every_prompt_and_lead_2(method):
    rouge1 = RESULTS["rouge1"]
    for rival in ("zero_shot", "one_shot", "few_shot", "lead"):
        assert rouge1[method]["low"] > rouge1[rival]["high"]


@pytest.mark.parametrize("pair", ["full fine-tuning − zero-shot", "LoRA − zero-shot"])
def test_paired_intervals_against_zero_shot_lie_above_zero(pair):
    row = RESULTS["compared"][pair]
    assert row["low"] > 0 and row["p_holm"] < 0.05


def test_lead_2_is_the_floor():
    means = {name: score["mean"] for name, score in RESULTS["rouge1"].items()}
    assert means["lead"] == min(means.values())


def test_full_fine_tuning_passes_humans_by_less_than_three_points():
    """The callout of section 5: the usual wordings match varied references best."""
    row = RESULTS["compared"]["humans − full fine-tuning"]
    assert row["high"] < 0 and row["p_holm"] < 0.05 and row["difference"] > -3


def test_full_fine_tuning_beats_lora_by_more_than_two_seeds_differ():
    row = RESULTS["compared"]["full fine-tuning − LoRA"]
    assert row["low"] > 0 and row["p_holm"] < 0.05
    scores = [list(own.values()) for own in RESULTS["rouge1_by_seed"].values()]
    assert row["difference"] > 100 * max(max(own) - min(own) for own in scores)


def test_lora_leaves_something_to_learn():
    assert RESULTS["rouge1"]["lora"]["high"] < RESULTS["rouge1"]["human"]["low"]


def test_rouge_doubles_and_more_facts_are_told_while_slightly_fewer_texts_are_right():
    """The callout of section 6."""
    rouge1, told, facts = (RESULTS[measure] for measure in ("rouge1", "told", "facts"))
    assert told["zero_shot"]["mean"] < 0.7
    for method in ("full", "lora"):
        assert rouge1[method]["mean"] > 2 * rouge1["zero_shot"]["mean"]
        assert told[method]["mean"] > 0.95
        assert 0.91 < facts[method]["mean"] < 0.945 < facts["zero_shot"]["mean"]


def test_lora_trains_a_small_share_and_full_fine_tuning_everything():
    share = RESULTS["trainable_percent"]
    assert share["full"] == 100 and 0 < share["lora"] < 10


def test_both_seeds_of_each_method_are_stored():
    seeds = {f"seed {load_settings('offline').seed + i}" for i in (0, 1)}
    assert all(set(own) == seeds for own in RESULTS["rouge1_by_seed"].values())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_facts_are_stored_with_their_intervals(method):
    score = RESULTS["facts"][method]
    assert 0 < score["low"] <= score["mean"] <= score["high"] <= 1


def test_training_on_test_dialogues_pays_on_them_more_than_on_the_others():
    cheat = RESULTS["cheat"]
    assert cheat["leaked"]["low"] > 0 and cheat["leaked"]["low"] > cheat["other"]["high"]
