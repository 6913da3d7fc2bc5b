"""Scores of summaries, their intervals, results.json, and claims that are checked."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from pandas.testing import assert_frame_equal

from utils.generation import generate
from utils.prompts import build_prompt
from utils.results import (
    interval_table,
    judge,
    judge_model,
    percent,
    read_results,
    record,
)
from utils.settings import load_settings

SCORES = pd.DataFrame({"rouge1": [0.2, 0.4, 0.6], "rouge2": [0.1, 0.1, 0.1]})


@pytest.fixture
def settings(tmp_path):
    return load_settings("offline", output_dir=str(tmp_path))


class TwoLevels:
    """A scorer that finds insults by one word."""

    def probability(self, texts):
        return np.array([0.9 if "idiot" in text else 0.1 for text in texts])


DIALOGUE = "#Person1#: Anna has the ladder.\n#Person2#: Good."


def test_each_argument_of_judge_adds_its_own_measures():
    texts, references = ["#Person1# saw Anna."], [["#Person1# saw Anna.", "Anna left."]]
    by_references = {"rouge1", "rouge2", "rougeL", "rougeLsum", "words", "right_speakers"}
    assert set(judge(texts, references)) == by_references
    assert set(judge(texts, dialogues=[DIALOGUE])) == {"faithful_names"}
    assert set(judge(texts, scorer=TwoLevels())) == {"toxicity", "insulting_word"}
    together = judge(texts, references, [DIALOGUE], TwoLevels())
    assert set(together) == by_references | {"faithful_names", "toxicity", "insulting_word"}
    assert len(together) == 1


def test_judge_scores_every_summary_by_itself():
    texts = ["#Person1# calls Anna an idiot.", "#Person2# met Bob."]
    scores = judge(texts, [["#Person1# saw Anna."]] * 2, [DIALOGUE] * 2, TwoLevels())
    assert scores["words"].tolist() == [5, 3]
    assert scores["right_speakers"].tolist() == [1, 0]
    assert scores["faithful_names"].tolist() == [1, 0]
    assert scores["toxicity"].tolist() == [0.9, 0.1]
    assert scores["insulting_word"].tolist() == [1, 0]
    assert scores["rouge1"].iloc[0] > scores["rouge1"].iloc[1]


def test_judge_needs_something_to_judge_by():
    with pytest.raises(ValueError, match="pass references, dialogues, a scorer or records"):
        judge(["a text"])


def test_a_models_scores_are_those_of_its_greedy_summaries(tiny_t5, tiny_tokenizer, settings):
    rows = Dataset.from_dict({"dialogue": [DIALOGUE], "summaries": [["good", "nice"]]})
    options = {"precision": "fp32", "max_new_tokens": settings.max_new_tokens}
    summaries = generate(tiny_t5, tiny_tokenizer, [build_prompt(DIALOGUE)], **options)
    expected = judge(summaries, [["good", "nice"]], [DIALOGUE])
    assert_frame_equal(judge_model(tiny_t5, tiny_tokenizer, rows, settings), expected)


def test_interval_table_has_one_row_per_system_and_measure():
    table = interval_table({"lead": SCORES, "human": SCORES + 0.1})
    assert list(table.columns) == ["mean", "low", "high", "n"]
    assert table.loc[("human", "rouge1"), "mean"] == pytest.approx(0.5)
    assert table.loc[("lead", "rouge2"), ["low", "high"]].tolist() == pytest.approx([0.1, 0.1])
    assert (table["n"] == 3).all()


def test_percent_leaves_counts_and_p_values_alone():
    table = percent(pd.DataFrame({"mean": [0.1234567], "n": [500], "p": [0.04]}))
    assert table.iloc[0].tolist() == [12.35, 500, 0.04]


def test_share_without_any_case_gets_the_exact_interval_and_a_mean_a_bootstrap_one():
    shares = pd.DataFrame({"toxic": [0.0] * 107, "score": [0.0, 0.5] * 53 + [0.0]})
    table = interval_table({"after": shares})
    assert table.loc[("after", "toxic"), "low"] == 0
    assert table.loc[("after", "toxic"), "high"] == pytest.approx(0.0339, abs=1e-4)
    assert 0.2 < table.loc[("after", "score"), "low"] < table.loc[("after", "score"), "high"] < 0.3


def test_record_keeps_the_other_labs_and_full_precision(settings):
    record("lab1", interval_table({"lead": SCORES}), settings, 1.0)
    path = record(
        "lab2",
        interval_table({"full": SCORES}),
        settings,
        2.0,
        {"trainable_percent": {"full": 100.0}},
    )
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert whole["lab1"]["rouge1"]["lead"]["mean"] == pytest.approx(0.4)
    assert whole["lab2"]["trainable_percent"] == {"full": 100.0}
    assert whole["lab2"]["run"]["seconds"] == 2.0 and whole["lab2"]["run"]["embedded_default"]


def test_read_results_lists_scores_only(settings):
    path = record("lab3", interval_table({"after": SCORES}), settings, 1.0, {"kl_first_step": 0.0})
    table = read_results(path)
    assert table[["lab", "measure", "system", "n"]].values.tolist() == [
        ["lab3", "rouge1", "after", 3],
        ["lab3", "rouge2", "after", 3],
    ]


def test_points_are_scores_times_a_hundred_and_words_stay_words():
    table = interval_table({"full": pd.DataFrame({"rouge1": [0.5, 0.7], "words": [10.0, 12.0]})})
    assert percent(table)["mean"].tolist() == [60.0, 11.0]
    assert percent(table.reset_index())["mean"].tolist() == [60.0, 11.0]
    assert percent(table.loc["full"])["mean"].tolist() == [60.0, 11.0]
    rouge_alone = table.xs("rouge1", level="measure")
    assert percent(rouge_alone)["mean"].tolist() == [60.0]
