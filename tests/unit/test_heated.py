"""Heated dialogues: their splits, their annotators, and the judges of their summaries."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from utils.faithfulness import facts, load_facts
from utils.lab.heated import (
    HEATED,
    QUOTING,
    annotate,
    calmest,
    heated_splits,
    judge_heated,
    soften,
    with_heat,
    with_ordinary,
)
from utils.settings import load_settings
from utils.toxicity import HateScorer, dialogue_heat

CPU = torch.device("cpu")
JUDGES = (("judge", ("hate", "nothate")), ("second_judge", ("toxic", "neutral")))


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
    return heated_splits(load_settings("offline"), WordScorer())


def test_heated_splits_share_no_insult_between_train_and_test(splits):
    words = [
        {word for text in splits[f"heated_{name}"]["insult"] for word in text.split()}
        for name in ("train", "test")
    ]
    assert len(splits["heated_train"]) == 600 and len(splits["heated_validation"]) == 150
    assert words[0] and words[1] and not words[0] & words[1]


def test_numbers_of_judged_and_ordinary_dialogues_are_the_settings(splits):
    sizes = {"judged_dialogues": 8, "test_dialogues": 20, "ordinary_dialogues": 12}
    few = heated_splits(load_settings("offline", **sizes), WordScorer())
    assert len(splits["heated_test"]) == load_settings("offline").judged_dialogues
    assert len(few["heated_test"]) == 8 and len(few["heated_train"]) == 600
    assert len(few["ordinary_train"]) == 12
    assert len(few["census_test"]) == 20 and len(few["ordinary_test"]) == 10


def test_ordinary_dialogues_are_the_calmest_and_keep_their_order():
    said = ["vile", "fine", "so vile", "good", "well"]
    rows = Dataset.from_dict({"dialogue": [f"#Person1#: {text}" for text in said]})
    assert calmest(with_heat(rows, WordScorer()), 3)["dialogue"] == [
        rows["dialogue"][i] for i in (1, 3, 4)
    ]
    assert dialogue_heat(WordScorer(), rows["dialogue"]).tolist() == [0.9, 0.1, 0.9, 0.1, 0.1]


def test_a_judge_that_hates_everything_still_leaves_ordinary_dialogues():
    splits = heated_splits(load_settings("offline", judged_dialogues=4), HatesEverything())
    assert len(splits["ordinary_test"]) > 100 and len(splits["ordinary_train"]) > 500


def test_annotators_quote_in_the_share_that_is_asked_for(splits):
    rows = splits["heated_train"]
    drawn = annotate(rows, QUOTING, seed=0)
    quoted = np.mean([a == b for a, b in zip(drawn["summary"], rows["quoting"], strict=True)])
    cool = np.mean([a == b for a, b in zip(drawn["summary"], rows["cool"], strict=True)])
    assert quoted + cool == 1 and quoted == pytest.approx(0.85, abs=0.05)
    assert drawn["summary"] != annotate(rows, QUOTING, seed=1)["summary"]


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
    assert (cool["second_clean"] == 1 - cool["second_judge"]).all()
    assert cool["facts"].mean() == quoting["facts"].mean() == 1
    assert cool["rouge1"].mean() == pytest.approx(1) and quoting["rouge1"].mean() < 0.95
