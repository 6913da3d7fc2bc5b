"""The DialogSum paper's ROUGE: it equals py-rouge, and differs from rouge_score."""

import re

import pytest

from utils.data import group_references, load_dialogsum
from utils.rouge import paper_rouge_scores, rouge_scores

# Scores of py-rouge 1.1: Rouge(metrics=["rouge-n", "rouge-l"], max_n=2, limit_length=False,
# apply_avg=False, weight_factor=1.2). No word is in its WordNet list of irregular forms.
PY_ROUGE = [
    (
        "Anna asks Tom for the ladders.",
        "Tom lends Anna the ladder.",
        (0.727273, 0.222222, 0.603784),
    ),
    (
        "I'm gonna call you, she says.",
        "She said she is going to call; she cannot wait.",
        (0.222222, 0.0, 0.285779),
    ),
    ("He can not come.", "He cannot come.", (0.571429, 0.0, 0.628184)),
    (
        "#Person1# is repeatedly lying about flies",
        "Person1 lied repeatedly about the fly.",
        (0.5, 0.0, 0.561231),
    ),
    (
        "It's 9 o'clock and wanna go.",
        "It is nine o'clock: want to go?",
        (0.470588, 0.133333, 0.53371),
    ),
]


@pytest.mark.parametrize(("prediction", "reference", "scores"), PY_ROUGE)
def test_scores_are_those_of_py_rouge(prediction, reference, scores):
    ours = paper_rouge_scores([prediction], [reference])
    assert list(ours.columns) == ["paper_rouge1", "paper_rouge2", "paper_rougeL"]
    assert ours.iloc[0].tolist() == pytest.approx(scores, abs=1e-6)


def test_rouge_l_of_a_toy_pair_by_hand():
    """Three words in order, of six and of five: P = (3/6)^(1/1.2), R = (3/5)^(1/1.2)."""
    scores = paper_rouge_scores(
        ["Anna asks Tom for the ladders."], ["Tom lends Anna the ladder."]
    ).iloc[0]
    precision, recall = 0.5 ** (1 / 1.2), 0.6 ** (1 / 1.2)
    assert scores["paper_rougeL"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_papers_rouge_l_is_higher_than_rouge_scores_where_texts_differ():
    pair = ["Anna asks Tom for the ladders."], ["Tom lends Anna the ladder."]
    assert (
        paper_rouge_scores(*pair)["paper_rougeL"].item()
        > rouge_scores(*pair)["rougeL"].item() + 0.05
    )


def test_column_names_differ_from_those_of_rouge_scores():
    pair = ["Anna asks."], ["Tom lends."]
    assert not set(paper_rouge_scores(*pair).columns) & set(rouge_scores(*pair).columns)


def test_lines_are_read_as_one():
    one, two = (paper_rouge_scores([text], ["a b c d"]) for text in ("c d a b", "c d\na b"))
    assert one.equals(two)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_several_references_are_reduced_score_by_score(reduce):
    references = ["Anna borrows it.", "Tom is asked."]
    each = paper_rouge_scores(["Anna asks Tom."] * 2, references)
    both = paper_rouge_scores(["Anna asks Tom."], [references], reduce=reduce)
    assert both.iloc[0].tolist() == pytest.approx(each.agg(reduce).tolist())


def test_text_that_the_treebank_rules_drop_gives_a_warning():
    with pytest.warns(UserWarning, match=r"few or no words of 2 of 2 texts.*tokenizer="):
        paper_rouge_scores(["Анна спрашивает"], ["Анна спрашивает"])


def test_a_different_number_of_predictions_and_references_is_refused():
    with pytest.raises(ValueError, match="2 predictions against 1"):
        paper_rouge_scores(["a", "b"], ["a"])


@pytest.mark.slow  # the real data
def test_lead_3_of_dialogsum_scores_as_in_the_papers_table(real_data):
    """Chen et al. 2021, table 4: the first three sentences, speaker tags kept, within 0.6."""
    test = group_references(load_dialogsum(real_data)["test"])
    lead_3 = [" ".join(re.split(r"(?<=[.!?])\s+", dialogue)[:3]) for dialogue in test["dialogue"]]
    means = 100 * paper_rouge_scores(lead_3, list(test["summaries"])).mean()
    assert means.tolist() == pytest.approx([27.50, 6.81, 27.31], abs=0.6)
