"""Intervals and comparisons: they agree with scipy, with formulas and with counting by hand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from utils.statistics import compare, confidence_interval, holm, proportion_interval


def table(*columns) -> pd.DataFrame:
    return pd.DataFrame(
        {f"rouge{i}": column for i, column in enumerate(columns, start=1)}, dtype=float
    )


def random_scores(rows: int, seed: int) -> pd.DataFrame:
    return table(*np.random.default_rng(seed).beta(2, 3, size=(2, rows)))


def test_interval_equals_scipys_percentile_bootstrap():
    scores = random_scores(200, seed=1)
    interval = confidence_interval(scores)
    for column in scores:
        expected = stats.bootstrap(
            (scores[column],), np.mean, n_resamples=10_000, method="percentile", rng=1
        ).confidence_interval
        tolerance = 0.03 * (expected.high - expected.low)
        assert interval.loc[column, ["low", "high"]].tolist() == pytest.approx(
            list(expected), abs=tolerance
        )
        assert interval.loc[column, "mean"] == pytest.approx(scores[column].mean())


@pytest.mark.parametrize(("level", "quantile"), [(0.95, 1.96), (0.9, 1.645), (0.5, 0.6745)])
def test_interval_is_the_normal_one_where_dialogues_are_many(level, quantile):
    scores = random_scores(800, seed=2)
    half_width = quantile * scores["rouge1"].std() / 800**0.5
    low, high = confidence_interval(scores, level).loc["rouge1", ["low", "high"]]
    assert (low, high) == pytest.approx(
        (scores["rouge1"].mean() - half_width, scores["rouge1"].mean() + half_width),
        abs=0.05 * half_width,
    )


def test_interval_of_500_dialogues_is_a_little_over_one_point_of_rouge1():
    # standard deviation per dialogue about 12.6 points: 1.96 × 12.6 / √500 = 1.10
    scores = np.random.default_rng(0).normal(size=500)
    scores = table(0.4 + 0.126 * (scores - scores.mean()) / scores.std())
    low, high = confidence_interval(scores).loc["rouge1", ["low", "high"]]
    assert 100 * (high - low) / 2 == pytest.approx(1.10, abs=0.05)


def test_interval_is_reproducible_and_follows_the_seed():
    scores = random_scores(50, seed=3)
    pd.testing.assert_frame_equal(confidence_interval(scores), confidence_interval(scores))
    assert not confidence_interval(scores, seed=1).equals(confidence_interval(scores, seed=2))


def test_interval_has_a_row_per_column_and_contains_the_mean():
    interval = confidence_interval(random_scores(30, seed=4))
    assert list(interval.index) == ["rouge1", "rouge2"]
    assert list(interval.columns) == ["mean", "low", "high"]
    assert ((interval["low"] < interval["mean"]) & (interval["mean"] < interval["high"])).all()


def test_interval_treats_a_dialogue_as_one_observation():
    # three summaries of a dialogue score alike: as 1,500 rows they look √3 times too certain
    rng = np.random.default_rng(5)
    by_dialogue = rng.normal(0.4, 0.12, size=(500, 1)) + rng.normal(0, 0.01, size=(500, 3))
    honest, feigned = (
        confidence_interval(table(x)) for x in (by_dialogue.mean(axis=1), by_dialogue.ravel())
    )
    widths = [
        interval.loc["rouge1", "high"] - interval.loc["rouge1", "low"]
        for interval in (honest, feigned)
    ]
    assert widths[0] / widths[1] == pytest.approx(3**0.5, abs=0.1)


def test_rows_of_one_dialogue_are_resampled_together():
    """Three equal rows for each dialogue carry no more information than one."""
    scores = pd.DataFrame({"rouge1": np.random.default_rng(0).random(50)})
    thrice, dialogues = scores.loc[scores.index.repeat(3)], np.repeat(np.arange(50), 3)
    pd.testing.assert_frame_equal(
        confidence_interval(thrice, clusters=dialogues), confidence_interval(scores)
    )
    falsely_narrow, width = (
        t.eval("high - low").item() for t in map(confidence_interval, (thrice, scores))
    )
    assert falsely_narrow == pytest.approx(width / np.sqrt(3), rel=0.1)


def test_clusters_of_different_sizes_keep_the_plain_mean_and_the_spread_of_a_ratio():
    """The cluster bootstrap agrees with the linearized variance of a ratio (Cochran 1977, 2.10)."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 6, 400)
    levels = rng.normal(3, 1, 400)
    dialogues = rng.permutation(np.repeat(np.arange(400), sizes))
    scores = pd.DataFrame({"rouge1": levels[dialogues] + rng.normal(0, 0.2, len(dialogues))})
    interval = confidence_interval(scores, clusters=dialogues).loc["rouge1"]
    sums = scores["rouge1"].groupby(dialogues).sum()
    assert interval["mean"] == pytest.approx(scores["rouge1"].mean())
    error = np.sqrt(((sums - interval["mean"] * sizes) ** 2).sum()) / sizes.sum()
    assert interval["high"] - interval["low"] == pytest.approx(2 * 1.96 * error, rel=0.05)


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (["a", "b"], "2 clusters for 3 rows"),
        (["a", None, "b"], "row 1 has no cluster"),
        (["a", "a", "a"], "one dialogue 'a'"),
    ],
)
def test_clusters_that_do_not_fit_are_refused(clusters, message):
    with pytest.raises(ValueError, match=message):
        confidence_interval(pd.DataFrame({"rouge1": [0.1, 0.2, 0.3]}), clusters=clusters)


def test_equal_scores_have_an_interval_of_no_width():
    assert confidence_interval(table([0.25] * 10)).loc["rouge1"].tolist() == pytest.approx(
        [0.25] * 3
    )


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, float("nan")])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(ValueError, match=f"level={level}"):
        confidence_interval(random_scores(5, seed=0), level)


@pytest.mark.parametrize("rows", [0, 1])
def test_an_interval_of_fewer_than_two_dialogues_is_refused(rows):
    with pytest.raises(ValueError, match=rf"{rows} dialogue.*at least two"):
        confidence_interval(random_scores(rows, seed=0))


def test_a_missing_score_is_refused_with_its_row():
    with pytest.raises(ValueError, match="row 2 has a missing score"):
        confidence_interval(table([0.1, 0.2, np.nan, 0.4]))


# Shares


@pytest.mark.parametrize(
    ("successes", "n", "level", "interval"),
    [
        (0, 107, 0.95, (0, 1 - 0.025 ** (1 / 107))),  # about 0.034
        (107, 107, 0.95, (0.025 ** (1 / 107), 1)),
        (1, 1, 0.9, (0.05, 1)),
        # quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k)
        (3, 10, 0.95, (stats.beta.ppf(0.025, 3, 8), stats.beta.ppf(0.975, 4, 7))),
    ],
)
def test_interval_of_a_share_is_that_of_clopper_and_pearson(successes, n, level, interval):
    assert proportion_interval(successes, n, level) == pytest.approx(interval)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_a_share_above_one_or_of_nothing_is_refused_with_both_numbers(successes, n):
    with pytest.raises(ValueError, match=f"{successes} of {n}"):
        proportion_interval(successes, n)


# Comparison


def exact_p(differences: list[float]) -> float:
    """Share of all 2ⁿ swaps whose mean difference is at least as large."""
    sums = [abs(np.dot(signs, differences)) for signs in product([1, -1], repeat=len(differences))]
    return float(np.mean([total >= abs(sum(differences)) - 1e-9 for total in sums]))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 32),  # all of one sign: only the observed and its mirror image
        (
            [3, -1, 2, 1, 1],
            8 / 32,
        ),  # |8 − 2 × flipped| ≥ 6: flipped 0 or 1 (1 + 3 ways), and mirrored
        ([1, -1, 1, -1, 0], 1.0),  # no difference at all
        ([1, 1, 1, 1, -1], 12 / 32),  # four or five alike
    ],
)
def test_p_is_that_of_all_swaps_counted_by_hand(differences, p):
    assert exact_p(differences) == p
    a, b = table(0.5 + np.array(differences) / 20), table([0.5] * 5)
    assert compare(a, b).loc["rouge1", "p"] == pytest.approx(p, abs=0.015)


def test_p_agrees_with_scipys_paired_permutation_test():
    a, b = random_scores(12, seed=6), random_scores(12, seed=7)
    expected = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue
    assert compare(a, b)["p"].tolist() == pytest.approx(expected, abs=0.015)


def test_difference_is_a_minus_b_and_its_interval_that_of_the_paired_differences():
    a, b = random_scores(40, seed=8), random_scores(40, seed=9)
    result = compare(a, b, seed=3)
    assert list(result.columns) == ["difference", "low", "high", "p"]
    np.testing.assert_allclose(result["difference"], a.mean() - b.mean())
    paired = confidence_interval(a - b, seed=3)
    np.testing.assert_allclose(result[["low", "high"]], paired[["low", "high"]])


def test_swapping_the_systems_flips_the_sign_and_keeps_p():
    a, b = random_scores(40, seed=8), random_scores(40, seed=9)
    forward, backward = compare(a, b), compare(b, a)
    np.testing.assert_allclose(forward["difference"], -backward["difference"])
    np.testing.assert_allclose(forward["p"], backward["p"])


def test_a_clear_effect_has_a_small_p_that_is_never_zero():
    b = random_scores(100, seed=10)
    result = compare(b + 0.3, b)
    assert (result["low"] > 0.29).all()
    assert result["p"].tolist() == [1 / 10_001] * 2


def test_equal_systems_have_p_one():
    scores = random_scores(30, seed=11)
    result = compare(scores, scores.copy())
    assert result["p"].tolist() == [1.0, 1.0]
    assert (result[["difference", "low", "high"]] == 0).all(axis=None)


def test_p_below_five_percent_is_as_rare_as_it_says_where_there_is_no_effect():
    a, b = np.random.default_rng(12).normal(size=(2, 25, 300))
    p = compare(pd.DataFrame(a), pd.DataFrame(b))["p"]
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.04)


def test_pairing_finds_what_the_spread_between_dialogues_hides():
    easy_or_hard = random_scores(60, seed=13)
    a = easy_or_hard + 0.02 + np.random.default_rng(14).normal(0, 0.02, size=(60, 2))
    assert (compare(a, easy_or_hard)["p"] < 0.01).all()
    assert stats.ttest_ind(a["rouge1"], easy_or_hard["rouge1"]).pvalue > 0.1


def test_comparison_is_reproducible_and_follows_the_seed():
    a, b = random_scores(20, seed=15), random_scores(20, seed=16)
    pd.testing.assert_frame_equal(compare(a, b), compare(a, b))
    assert not compare(a, b, seed=1).equals(compare(a, b, seed=2))


def test_rows_are_paired_by_position_whatever_their_labels():
    a, b = random_scores(10, seed=17), random_scores(10, seed=18)
    pd.testing.assert_frame_equal(compare(a.set_index(pd.RangeIndex(10, 20)), b), compare(a, b))


def test_the_same_rows_in_another_order_are_not_taken_for_pairs():
    scores = random_scores(10, seed=19)
    with pytest.raises(ValueError, match="another order"):
        compare(scores, scores.sample(frac=1, random_state=0))


def test_rows_of_one_dialogue_are_swapped_together():
    """Thirty rows of ten dialogues carry the information of ten rows."""
    a, b = random_scores(10, seed=20), random_scores(10, seed=21)
    thrice, dialogues = np.repeat(np.arange(10), 3), np.repeat(np.arange(10), 3)
    clustered = compare(a.iloc[thrice], b.iloc[thrice], clusters=dialogues)
    pd.testing.assert_frame_equal(clustered, compare(a, b))
    assert (compare(a.iloc[thrice], b.iloc[thrice])["p"] < clustered["p"]).all()


def test_tables_that_are_not_paired_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(4, 2\) are not paired"):
        compare(random_scores(5, seed=0), random_scores(4, seed=0))
    with pytest.raises(ValueError, match="not paired"):
        compare(table([0.1, 0.2]), table([0.1, 0.2], [0.1, 0.2]))


def test_tables_of_different_columns_are_refused_with_the_columns():
    with pytest.raises(ValueError, match=r"rouge1.*rougeL"):
        compare(table([0.1, 0.2]), table([0.1, 0.2]).rename(columns={"rouge1": "rougeL"}))


@pytest.mark.parametrize("side", [0, 1])
def test_a_comparison_with_a_missing_score_is_refused(side):
    pair = [table([0.1, 0.2, 0.3]), table([0.1, 0.2, 0.3])]
    pair[side].iloc[1, 0] = np.nan
    with pytest.raises(ValueError, match="row 1 has a missing score"):
        compare(*pair)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        (
            [0.01, 0.04, 0.03],
            [0.03, 0.06, 0.06],
        ),  # × 3, × 2, × 1 from the smallest; 0.04 may not undercut 0.06
        ([0.03, 0.2, 0.01, 0.1], [0.09, 0.2, 0.04, 0.2]),
        ([0.5, 0.6, 1.0], [1.0, 1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_adjusts_p_values_in_the_order_given(p_values, adjusted):
    assert holm(p_values).tolist() == pytest.approx(adjusted)
