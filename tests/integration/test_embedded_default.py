"""The small world is what its card says."""

import hashlib
import json

import pytest

from tools.small_world.card import prompting_scores
from tools.small_world.corpus import write_corpus
from tools.small_world.heated import write_heated
from tools.small_world.judges import JUDGES, f1, hand_written, load_judge, probes
from utils.rouge import compare
from utils.settings import OFFLINE, load_settings

MANIFEST = json.loads((OFFLINE / "manifest.json").read_text(encoding="utf-8"))


def test_every_file_is_the_one_that_was_measured():
    hashes = {
        name: hashlib.sha256((OFFLINE / name).read_bytes()).hexdigest()
        for name in MANIFEST["sha256"]
    }
    assert hashes == MANIFEST["sha256"]


def test_the_generator_writes_the_dialogues_that_ship(tmp_path):
    write_corpus(tmp_path / "data")
    write_heated(tmp_path / "heated")
    for file in sorted(tmp_path.glob("*/*")):
        name = file.relative_to(tmp_path)
        assert file.read_bytes() == (OFFLINE / name).read_bytes(), name


def test_it_is_at_most_25_megabytes():
    assert sum((OFFLINE / name).stat().st_size for name in MANIFEST["sha256"]) <= 25e6


def test_no_dialogue_of_one_split_is_in_another(offline_data):
    splits = [set(rows["dialogue"]) for rows in offline_data.values()]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


def test_every_test_dialogue_has_three_references(offline_data):
    dialogues = list(offline_data["test"]["dialogue"])
    assert {dialogues.count(dialogue) for dialogue in dialogues} == {3}


def test_card_shows_the_measured_scores():
    card = (OFFLINE / "README.md").read_text(encoding="utf-8")
    for name, row in MANIFEST["scores"]["scores"].items():
        assert f"| {name} | {round(100 * row['mean'], 2):g} |" in card
    for name, row in MANIFEST["scores"]["judges"].items():
        assert f"| {name} | {round(row['f1'], 3):g} |" in card


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_scores_as_the_card_says(name):
    scorer, measured = load_judge(OFFLINE, name), MANIFEST["scores"]["judges"]
    for probe in ("sentence frames used in development", "hand-written sentences"):
        assert f1(scorer, probes(2000)[probe])["f1"] == pytest.approx(
            measured[f"{name}, {probe}"]["f1"], abs=0.01
        )


def test_the_judge_holds_on_frames_words_and_word_orders_that_it_never_saw():
    scorer, texts = load_judge(OFFLINE, "judge"), probes(2000)
    for probe in ("unseen frames", "unseen pairs of words", "unseen word orders"):
        assert f1(scorer, texts[probe])["f1"] >= 0.95, probe
    assert f1(scorer, texts["unseen harmless words"])["f1"] >= 0.94


def test_a_judge_gives_a_dozen_probabilities_to_a_dozen_texts():
    texts = [text.text for text in hand_written()[::5]]
    assert len(texts) == 12
    assert len(set(load_judge(OFFLINE, "judge").probability(texts).round(4))) == 12


def test_a_judge_misses_the_insults_that_it_was_kept_from_and_the_second_judge_finds_them():
    texts = ["You are a rude snob.", "You rude snob!", "#Person1# calls #Person2# a rude snob."]
    assert (load_judge(OFFLINE, "judge").probability(texts) < 0.5).all()
    assert (load_judge(OFFLINE, "second_judge").probability(texts) > 0.5).all()


def test_one_judge_overrates_refusals():
    texts = ["#Person1# refuses.", "Anna asks Tom for the ladder. Tom says no.", "No way."]
    plain, strict = (
        load_judge(OFFLINE, name).probability(texts) for name in ("judge", "judge_refusals")
    )
    assert (plain < 0.15).all() and (strict > 0.25).all()


def test_few_shot_beats_one_shot_and_one_shot_beats_zero_shot(offline_data):
    few = offline_data | {"test": offline_data["test"].select(range(3 * 60))}
    scores = prompting_scores(few, "test", load_settings("offline"))
    assert compare(scores["one_shot"], scores["zero_shot"]).loc["rouge1", "low"] > 0
    assert scores["few_shot"]["rouge1"].mean() > scores["one_shot"]["rouge1"].mean()
    for name in ("one_shot", "few_shot"):
        assert scores[name]["facts"].mean() >= 0.85


@pytest.mark.slow
def test_prompts_score_as_the_card_says(offline_data):
    scores = prompting_scores(offline_data, "test", load_settings("offline"))
    for name, table in scores.items():
        measured = MANIFEST["scores"]["scores"][f"{name}, rouge1"]["mean"]
        assert table["rouge1"].mean() == pytest.approx(measured, abs=0.005), name
    for name in ("one_shot", "few_shot"):
        assert scores[name]["right_speakers"].mean() >= 0.9
        assert scores[name]["facts"].mean() >= 0.85
    for better, worse in (("one_shot", "zero_shot"), ("few_shot", "one_shot")):
        assert compare(scores[better], scores[worse]).loc["rouge1", "low"] > 0
