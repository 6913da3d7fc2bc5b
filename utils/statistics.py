"""Intervals for means and comparisons of systems, with the dialogue as the unit of observation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500  # keeps the weights of 10,000 dialogues within 40 MB


def confidence_interval(
    scores: pd.DataFrame, level: float = 0.95, seed: int = 0, clusters: Sequence | None = None
) -> pd.DataFrame:
    """Percentile bootstrap interval of each column's mean; a row is one dialogue, the unit that is resampled (Efron
    1979).

    Where several rows belong to one dialogue (its references, or several seeds), `clusters` names the dialogue of each
    row, and whole dialogues are resampled with all their rows (the cluster bootstrap, Davison and Hinkley 1997, 3.8).

    Returns one row per column of `scores`, with columns mean, low, high. Below some 30 dialogues a percentile interval
    is too narrow: at ten, one of nominally 95 % holds the true mean of skewed scores in about 89 %.

    Raises:
        ValueError: fewer than two dialogues, a missing score, clusters that do not fit, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a share between 0 and 1, such as 0.95")
    values = _checked(scores)
    sums, counts = _totals(values, clusters)
    rng, n = np.random.default_rng(seed), len(sums)
    means = []
    for _ in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES_AT_ONCE)
        means.append(weights @ sums / (weights @ counts)[:, None])  # (resamples, columns)
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame(
        {"mean": values.mean(axis=0), "low": low, "high": high}, index=scores.columns
    )


def compare(
    scores_a: pd.DataFrame, scores_b: pd.DataFrame, seed: int = 0, clusters: Sequence | None = None
) -> pd.DataFrame:
    """Paired comparison of two systems on the same dialogues: mean of a − b with its 95 % bootstrap interval, and p.

    Rows are paired by position. p is the two-sided approximate-randomization test's (Noreen 1989): the share of random
    swaps of a and b, dialogue by dialogue, whose mean difference is at least as large in absolute value. Its null
    hypothesis is that the two systems are exchangeable on every dialogue; it is at least 1 / (resamples + 1). Where
    several rows belong to one dialogue, `clusters` names the dialogue of each row, and whole dialogues are swapped.

    Raises:
        ValueError: the tables differ in rows or columns, or hold the same rows in another order.
    """
    if list(scores_a.columns) != list(scores_b.columns):
        raise ValueError(
            f"tables of columns {list(scores_a.columns)} and {list(scores_b.columns)} are not paired: "
            "compare the same scores of both systems"
        )
    if len(scores_a) != len(scores_b):
        raise ValueError(
            f"tables of shape {scores_a.shape} and {scores_b.shape} are not paired: "
            "score both systems on the same dialogues"
        )
    if not scores_a.index.equals(scores_b.index) and scores_a.index.sort_values().equals(
        scores_b.index.sort_values()
    ):
        raise ValueError(
            "the tables hold the same rows in another order: bring them into one, as with .sort_index()"
        )
    differences = scores_a.reset_index(drop=True) - scores_b.reset_index(drop=True)
    sums, _ = _totals(_checked(differences), clusters)
    rng = np.random.default_rng(seed)
    observed = np.abs(sums.sum(axis=0))
    as_large = np.zeros(sums.shape[1])
    for _ in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        signs = rng.choice([-1.0, 1.0], size=(RESAMPLES_AT_ONCE, len(sums)))
        as_large += (np.abs(signs @ sums) >= observed - 1e-12).sum(axis=0)
    p = (1 + as_large) / (1 + RESAMPLES)
    interval = confidence_interval(differences, seed=seed, clusters=clusters)
    return interval.rename(columns={"mean": "difference"}).assign(p=p)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for being many, in the order given (Holm 1979).

    The k-th smallest of m is multiplied by m − k + 1, and is never smaller than the one before it or larger than 1.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted[np.argsort(order)]


def _totals(values: np.ndarray, clusters: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the rows and number of rows of each cluster: (clusters, columns) and (clusters,)."""
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(
            f"{len(clusters)} clusters for {len(values)} rows: name the dialogue of every row"
        )
    codes, names = pd.factorize(pd.Series(clusters))
    if (codes < 0).any():
        raise ValueError(
            f"row {int((codes < 0).argmax())} has no cluster: name the dialogue of every row"
        )
    if len(names) < 2:
        raise ValueError(f"all rows belong to the one dialogue {names[0]!r}: score at least two")
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums, np.bincount(codes).astype(float)


def _checked(scores: pd.DataFrame) -> np.ndarray:
    values = scores.to_numpy(dtype=float)
    if len(values) < 2:
        raise ValueError(f"{len(values)} dialogue(s) give no interval: score at least two")
    if np.isnan(values).any():
        raise ValueError(
            f"row {int(np.isnan(values).any(axis=1).argmax())} has a missing score: score every dialogue"
        )
    return values
