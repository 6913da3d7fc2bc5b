"""The embedded default is what its card says."""

import hashlib
import json

import pytest

from tools.small_world.card import classifier_f1, prompting_scores
from utils.data import load_dialogsum
from utils.settings import OFFLINE, load_settings

MANIFEST = json.loads((OFFLINE / "manifest.json").read_text(encoding="utf-8"))


def test_every_file_is_the_one_that_was_measured():
    hashes = {
        name: hashlib.sha256((OFFLINE / name).read_bytes()).hexdigest()
        for name in MANIFEST["sha256"]
    }
    assert hashes == MANIFEST["sha256"]


def test_it_is_smaller_than_20_megabytes():
    assert sum((OFFLINE / name).stat().st_size for name in MANIFEST["sha256"]) < 20e6


@pytest.mark.parametrize(
    "pair", ["one_shot − zero_shot", "few_shot − zero_shot", "full − zero_shot"]
)
def test_measured_gain_is_significant(pair):
    assert MANIFEST["scores"]["differences"][pair]["low"] > 0


def test_full_fine_tuning_gains_at_least_15_points():
    assert MANIFEST["scores"]["differences"]["full − zero_shot"]["difference"] >= 0.15


def test_fine_tuned_summaries_of_heated_dialogues_are_toxic():
    assert MANIFEST["scores"]["toxicity"]["full"]["mean"] >= 0.3
    assert MANIFEST["scores"]["toxicity"]["lora"]["mean"] >= 0.3


def test_classifier_scores_as_the_card_says():
    f1 = classifier_f1(load_settings("offline"))
    assert f1 == pytest.approx(MANIFEST["scores"]["classifier_f1"], abs=0.005)
    assert f1 >= 0.95


def test_prompts_score_as_the_card_says():
    settings = load_settings("offline")
    scores = prompting_scores(load_dialogsum(settings.dataset), "test", settings)
    for name, table in scores.items():
        measured = MANIFEST["scores"]["rouge1"][name]["mean"]
        assert table["rouge1"].mean() == pytest.approx(measured, abs=0.005), name


def test_card_shows_the_scores():
    card = (OFFLINE / "README.md").read_text(encoding="utf-8")
    for name, row in MANIFEST["scores"]["rouge1"].items():
        assert f"| {name} | {round(100 * row['mean'], 2):g} |" in card


def test_no_dialogue_of_one_split_is_in_another():
    dataset = load_dialogsum(str(OFFLINE / "data"))
    splits = [set(rows["dialogue"]) for rows in dataset.values()]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


def test_test_split_has_three_references():
    dataset = load_dialogsum(str(OFFLINE / "data"))
    assert len(dataset["test"]) == 3 * len(set(dataset["test"]["dialogue"]))
