"""What the stored run of Lab 3 shows on the small world."""

import json

import pandas as pd
import pytest

from utils.lab.notebooks import ROOT
from utils.settings import OFFLINE, load_settings


@pytest.mark.parametrize(("estimator", "setting"), [("gae", "kl_coef"), ("grpo", "grpo_kl_coef")])
def test_price_of_kl_is_the_lowest_that_costs_at_most_1_5_points_on_validation(estimator, setting):
    sweep = pd.read_csv(OFFLINE / "sweep.csv")
    before = sweep[sweep["estimator"] == "none"].iloc[0]
    own = sweep[sweep["estimator"] == estimator]
    means = own.groupby("kl_coef")[["facts", "rouge1"]].mean()
    fair = means[(before[["facts", "rouge1"]] - means <= 0.015).all(axis=1)]
    assert getattr(load_settings("offline"), setting) == fair.index.min()


RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["lab3"]


def mean(measure: str, system: str) -> float:
    return RESULTS[measure][system]["mean"]


def test_stored_run_is_that_of_the_small_world_on_at_least_150_heated_dialogues():
    assert RESULTS["run"]["embedded_default"] and RESULTS["run"]["seed"] == 42
    assert RESULTS["toxic_share"]["before"]["n"] >= 150


def test_four_to_eight_in_ten_sampled_summaries_repeat_an_insult_before_training():
    """The second judge knows all insults of the test; the first never saw half of them."""
    assert 0.4 <= mean("second_judge", "before") <= 0.8
    assert 0.3 <= mean("toxic_share", "before") < mean("second_judge", "before")


def test_toxic_share_falls_by_at_least_half_with_each_of_five_seeds():
    falls = RESULTS["toxicity_fall_by_seed"]
    assert len(falls) == 5 and min(falls) >= 0.5


@pytest.mark.parametrize("measure", ["toxicity", "toxic_share", "second_judge"])
def test_both_judges_see_the_fall(measure):
    assert RESULTS[measure]["after"]["high"] < RESULTS[measure]["before"]["low"]


@pytest.mark.parametrize(("measure", "points"), [("facts", 5), ("told", 5), ("heated_rouge1", 2)])
def test_quality_on_heated_dialogues_stays(measure, points):
    assert mean(measure, "after") >= mean(measure, "before") - points / 100


@pytest.mark.parametrize(
    ("unit", "points"),
    [
        ("points in facts right on heated dialogues", 5),
        ("points of ROUGE-1 against cool summaries", 2),
        ("points of ROUGE-1 on ordinary dialogues", 2),
    ],
)
def test_quality_stays_in_the_mean_over_five_seeds(unit, points):
    """One seed's ROUGE-1 on ordinary dialogues varies by a point, so no single one is tested."""
    assert RESULTS["costs"][unit]["difference"] >= -points


@pytest.mark.parametrize("part", ["who", "what", "when", "why", "outcome"])
def test_every_kind_of_fact_is_still_told_in_the_mean_over_five_seeds(part):
    told = dict(RESULTS["told_parts"])
    before = told.pop("before")[part]
    assert len(told) == 5
    assert sum(seed[part] for seed in told.values()) / len(told) >= before - 0.05


def test_kl_is_zero_before_the_first_update():
    assert abs(RESULTS["kl_first_step"]) < 1e-4


def test_polite_prompt_alone_brings_most_of_the_fall():
    assert mean("toxic_share", "polite prompt") < 0.25 * mean("toxic_share", "before")


@pytest.mark.parametrize("rival", ["polite prompt", "grpo"])
def test_rivals_that_do_better_than_ppo(rival):
    """The callout of section 8."""
    assert mean("second_judge", rival) < mean("second_judge", "after")
    assert mean("told", rival) > mean("told", "after")


def test_eight_examples_cost_more_rouge_than_ppo():
    ppo = [mean("rouge1", name) for name in ("after", "PPO (mean over seeds)")]
    assert mean("rouge1", "supervised, 8") < min(ppo)


def test_best_of_n_pleases_its_judge_more_than_the_one_that_it_did_not_ask():
    for name in ("best of 8", "best of n"):
        assert mean("second_judge", name) > 2 * mean("toxic_share", name)


def test_without_a_price_refusals_become_lies_that_toxicity_cannot_see():
    lies = RESULTS["lies"]
    assert lies["β = 0"]["refusal told, %"] <= 50 <= 90 <= lies["with a price"]["refusal told, %"]
    assert all(row["toxic, %"] <= 10 for row in lies.values())


def test_policy_of_a_judge_that_misses_words_cheats_it_with_them():
    after, before = RESULTS["fooled"]["after"], RESULTS["fooled"]["before"]
    assert after["its judge"] < before["its judge"] / 2
    assert after["second"] > before["second"] - 10


def test_one_cool_example_costs_more_facts_than_ppo_and_more_examples_cost_fewer():
    one, many = mean("told", "supervised, 1"), mean("told", "supervised, 128")
    assert one < mean("told", "after") and one < many
