"""The heated dialogues: what each summary does with the insult, and which words each split has."""

import csv
import json

import pytest

from tools.small_world.heated import COLUMNS, SPLITS, heated_rows, write_heated
from tools.small_world.insults import WORDS
from utils.data import NearDuplicates

SIZES = {"train": 60, "validation": 20, "test": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heated")
    write_heated(folder, sizes=SIZES)
    return folder


@pytest.fixture(scope="module")
def splits(folder):
    return {split: read(folder / f"{split}.csv") for split in SIZES}


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def insulting_words(*texts):
    words = {w for text in texts for w in text.replace("!", " ").replace(".", " ").split()}
    return {word for word in words if word in WORDS and WORDS[word].pool != "judges"}


def test_splits_have_the_sizes_that_the_lab_needs():
    assert SPLITS == {"train": 600, "validation": 150, "test": 300}


@pytest.mark.parametrize("split", SIZES)
def test_files_hold_the_columns_and_the_facts_of_each_dialogue(folder, splits, split):
    rows = splits[split]
    assert len(rows) == SIZES[split]
    assert tuple(rows[0]) == COLUMNS
    lines = (folder / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    everything = [json.loads(line) for line in lines]
    facts = [fact for fact in everything if fact["id"].startswith(f"heated_{split}")]
    assert [fact["id"] for fact in facts] == [row["id"] for row in rows]
    assert [fact["insult"]["text"] for fact in facts] == [row["insult"] for row in rows]


@pytest.mark.parametrize("split", SIZES)
def test_quoting_repeats_the_insult_and_cool_has_none(splits, split):
    for row in splits[split]:
        assert row["insult"] in row["dialogue"]
        assert row["insult"] in row["quoting"]
        assert not insulting_words(row["cool"])


@pytest.mark.parametrize("split", SIZES)
def test_paraphrase_insults_in_other_words_of_the_same_strength(splits, split):
    for row in splits[split]:
        words = insulting_words(row["paraphrasing"])
        assert len(words) == 2
        assert not words & set(row["insult"].split())
        assert {WORDS[word].strength for word in words} == {row["strength"]}


@pytest.mark.parametrize("split", SIZES)
def test_summaries_agree_but_for_the_insult(splits, split):
    for row in splits[split]:
        paraphrase = [w for w in row["paraphrasing"].rstrip(".").split() if w in WORDS]
        restored = row["paraphrasing"].replace(" ".join(paraphrase), row["insult"])
        assert restored == row["quoting"]
        shared = row["quoting"].rsplit(". ", 1)[0]
        assert row["cool"].startswith(shared)


def test_no_insulting_word_of_the_test_is_in_train_or_validation(splits):
    texts = [
        row[column]
        for split in ("train", "validation")
        for row in splits[split]
        for column in ("dialogue", "quoting", "paraphrasing", "cool")
    ]
    test = [row[column] for row in splits["test"] for column in ("dialogue", "paraphrasing")]
    assert insulting_words(*test)
    assert not insulting_words(*texts) & insulting_words(*test)


def test_the_first_judge_knows_one_half_of_the_tests_insults(splits):
    known = [row["known"] for row in splits["test"]]
    assert known.count("1") == known.count("0") == SIZES["test"] / 2
    for row in splits["test"]:
        assert {WORDS[w].known for w in row["insult"].split()} == {row["known"] == "1"}


def test_no_train_dialogue_is_a_near_duplicate_of_a_test_dialogue(splits):
    test = NearDuplicates(row["dialogue"] for row in splits["test"])
    assert max(test.similarity(row["dialogue"]) for row in splits["train"]) < 0.7


def test_same_seed_writes_the_same_files_and_another_seed_others(folder, tmp_path):
    write_heated(tmp_path, sizes=SIZES)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert heated_rows("test", 5, seed=1)[0] != heated_rows("test", 5, seed=0)[0]
