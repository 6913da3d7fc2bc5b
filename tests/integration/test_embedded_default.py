"""The small world is what its card says."""

import hashlib
import json

import pytest

from tools.small_world.card import classifier_f1, prompting_scores
from utils.rouge import compare
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


def test_no_dialogue_of_one_split_is_in_another(offline_data):
    splits = [set(rows["dialogue"]) for rows in offline_data.values()]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


def test_every_test_dialogue_has_three_references(offline_data):
    dialogues = list(offline_data["test"]["dialogue"])
    assert {dialogues.count(dialogue) for dialogue in dialogues} == {3}


def test_card_shows_the_measured_scores():
    card = (OFFLINE / "README.md").read_text(encoding="utf-8")
    for name, row in MANIFEST["scores"]["rouge1"].items():
        assert f"| {name} | {round(100 * row['mean'], 2):g} |" in card


def test_classifier_tells_insults_whose_words_it_never_saw_from_harmless_texts():
    f1 = classifier_f1(load_settings("offline"))
    assert f1 == pytest.approx(MANIFEST["scores"]["classifier_f1"], abs=0.005)
    assert f1 >= 0.95


def test_one_shot_prompts_beat_zero_shot_prompts_beyond_chance(offline_data):
    few = offline_data | {"test": offline_data["test"].select(range(3 * 40))}
    scores = prompting_scores(few, "test", load_settings("offline"))
    assert compare(scores["one_shot"], scores["zero_shot"]).loc["rouge1", "low"] > 0


@pytest.mark.slow
def test_prompts_score_as_the_card_says(offline_data):
    scores = prompting_scores(offline_data, "test", load_settings("offline"))
    for name, table in scores.items():
        measured = MANIFEST["scores"]["rouge1"][name]["mean"]
        assert table["rouge1"].mean() == pytest.approx(measured, abs=0.005), name
    for name in ("one_shot", "few_shot"):
        assert compare(scores[name], scores["zero_shot"]).loc["rouge1", "low"] > 0, name
