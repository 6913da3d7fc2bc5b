"""What a lab found: comparisons, the sentence for each, and their tables."""

import numpy as np
import pandas as pd
import pytest

from utils.lab.findings import compare_systems, comparison_table, finding
from utils.rouge import compare


def shifted(points: float, n: int = 200, noise: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"rouge1": 0.4 + points / 100 + noise * rng.normal(size=n)})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            (11.4, 9.9, 12.8, 0.01),
            "One-shot beats zero-shot by 11.4 points of ROUGE-1 [9.9, 12.8].",
        ),
        (
            (-5.0, -6.9, -3.8, 0.01),
            "Zero-shot beats one-shot by 5.0 points of ROUGE-1 [3.8, 6.9].",
        ),
        (
            (0.4, -1.1, 1.9, 0.6),
            "No clear difference between one-shot and zero-shot: "
            "+0.4 points of ROUGE-1 [−1.1, 1.9].",
        ),
        (
            (-0.01, -0.04, 0.1, 1.0),
            "No clear difference between one-shot and zero-shot: "
            "+0.0 points of ROUGE-1 [0.0, 0.1].",
        ),
        (
            (2.0, 0.1, 3.9, 0.08),
            "No clear difference between one-shot and zero-shot: "
            "+2.0 points of ROUGE-1 [0.1, 3.9].",
        ),
        (
            (1.0, -3.1, 5.1, 0.6),
            "Too few dialogues to tell one-shot from zero-shot: differences under 4.1 points "
            "of ROUGE-1 would not show.",
        ),
    ],
)
def test_finding_says_what_a_comparison_shows(row, said, capsys):
    columns = ["difference", "low", "high", "p_holm"]
    finding(pd.Series(row, columns, name="one-shot − zero-shot"))
    assert capsys.readouterr().out.strip() == said


def test_every_finding_names_its_measure(capsys):
    columns = ["difference", "low", "high", "p_holm"]
    for numbers in [(9.0, 8.0, 10.0, 0.01), (0.1, -1.0, 1.0, 0.9), (1.0, -4.0, 6.0, 0.9)]:
        finding(pd.Series(numbers, columns, name="a − b"), "points of right facts")
    assert all("points of right facts" in said for said in capsys.readouterr().out.splitlines())


def test_no_p_value_is_shown_as_zero():
    row = {"difference": 1.26, "low": -0.04, "high": 2.0}
    table = pd.DataFrame([row | {"p_holm": p} for p in (0.0001, 0.00099, 0.001, 0.04, 1.0)])
    shown = comparison_table(table)
    assert shown["p_holm"].tolist() == ["< 0.001", "< 0.001", "0.001", "0.040", "1.000"]
    assert shown.loc[0, ["difference", "low"]].tolist() == [1.3, 0.0]
    assert "-0.0" not in shown.to_string()


def test_finding_about_words_and_about_humans(capsys):
    columns = ["difference", "low", "high", "p_holm"]
    finding(pd.Series((2.0, 1.0, 3.0, 0.01), columns, name="humans − LoRA"), unit="words")
    finding(pd.Series((2.0, 1.0, 3.0, 0.01), columns, name="humans − LoRA"))
    assert capsys.readouterr().out.splitlines() == [
        "Humans write 2.0 more words than LoRA [1.0, 3.0].",
        "Humans beat LoRA by 2.0 points of ROUGE-1 [1.0, 3.0].",
    ]


def test_systems_are_compared_in_points_under_readable_names_with_holm():
    scores = {"zero_shot": shifted(0), "one_shot": shifted(10), "lead": shifted(0, noise=0.1)}
    table = compare_systems(scores, [("one_shot", "zero_shot"), ("lead", "zero_shot")])
    assert table.index.tolist() == ["one-shot − zero-shot", "lead-2 − zero-shot"]
    assert list(table) == ["difference", "low", "high", "p_holm"]
    assert table.loc["one-shot − zero-shot", "difference"] == pytest.approx(10)
    assert table["p_holm"].between(0, 1).all()
    alone = compare(scores["one_shot"], scores["zero_shot"]).loc["rouge1", "p"]
    assert table.loc["one-shot − zero-shot", "p_holm"] == pytest.approx(2 * alone)


def test_words_stay_words():
    longer, shorter = (pd.DataFrame({"words": [n, n + 1.0]}) for n in (14, 10))
    table = compare_systems({"a": longer, "b": shorter}, [("a", "b")], "words")
    assert table.loc["a − b", "difference"] == 4


def test_comparing_needs_a_pair():
    with pytest.raises(ValueError, match="at least one pair"):
        compare_systems({}, [])
