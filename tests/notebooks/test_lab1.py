"""What the stored run of Lab 1 shows on the small world."""

import json

import pytest

from utils.lab.notebooks import ROOT

RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["lab1"]
COMPARED = RESULTS["compared"]


def test_stored_run_is_that_of_the_small_world():
    assert RESULTS["run"]["embedded_default"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [("zero-shot", "no instruction"), ("one-shot", "zero-shot"), ("few-shot", "one-shot")],
)
def test_each_step_of_the_prompt_gains(better, worse):
    row = COMPARED[f"{better} − {worse}"]
    assert row["low"] > 0 and row["p_holm"] < 0.05


def test_examples_raise_rouge_and_the_facts_told_and_leave_the_right_texts_as_they_are():
    """The callout of section 6: the examples teach what to mention, not how to read."""
    rouge1, told, facts = (RESULTS[measure] for measure in ("rouge1", "told", "facts"))
    assert rouge1["few_shot"]["mean"] >= 1.8 * rouge1["zero_shot"]["mean"]
    assert told["few_shot"]["low"] > told["zero_shot"]["high"]
    assert abs(facts["few_shot"]["mean"] - facts["zero_shot"]["mean"]) < 0.05


def test_baselines_stand_below_the_prompts_with_examples_and_humans_above():
    rouge1 = RESULTS["rouge1"]
    assert rouge1["lead"]["high"] < rouge1["one_shot"]["low"]
    assert rouge1["few_shot"]["high"] < rouge1["human"]["low"]


def test_choice_is_similar_examples_and_beams_make_no_clear_difference():
    """The callout of section 9."""
    first, second, chosen = (RESULTS["choice"][name] for name in ("first", "second", "chosen"))
    assert {first, second} == {"3 similar", "3 similar (4 beams)"} and chosen == "3 similar"
    row = COMPARED[f"{first} − {second}"]
    assert row["low"] <= 0 <= row["high"] or row["p_holm"] >= 0.05


def test_swapped_roles_and_a_constant_sentence_fool_the_cheap_measures():
    assert RESULTS["swapped_roles"]["rouge1"] > 80
    assert RESULTS["right_speakers"]["constant"]["mean"] > 0.2


def test_ten_dialogues_can_be_wrong_by_many_points():
    ten = RESULTS["ten_dialogues"]
    assert ten["width"] > 4 and ten["gain_high"] - ten["gain_low"] > 6


def test_a_cut_question_loses_and_a_leaked_answer_gains():
    assert COMPARED["truncated − few-shot"]["high"] < 0
    assert COMPARED["leaked − one-shot"]["low"] > 0


def test_luck_of_one_example_for_all_moves_the_score():
    assert RESULTS["one_example_for_all"]["best_minus_worst"] > 1
