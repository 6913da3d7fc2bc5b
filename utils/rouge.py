"""ROUGE against several references, extractive baselines, and intervals and comparisons that treat one dialogue as one
observation.

Scores are those of `rouge_score` (Lin 2004, the Google Research implementation): F1 between 0 and 1.
"""

import functools
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from rouge_score import rouge_scorer, tokenizers

from utils.data import turns

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
RESAMPLES = 10_000


class _MemoTokenizer(tokenizers.DefaultTokenizer):
    """rouge_score's own tokenizer, remembering each text: references meet many predictions."""

    def __init__(self, use_stemmer: bool):
        super().__init__(use_stemmer)
        self.tokenize = functools.lru_cache(maxsize=100_000)(super().tokenize)


@functools.cache
def _scorer(use_stemmer: bool, types: tuple[str, ...] = ROUGE_TYPES) -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(list(types), tokenizer=_MemoTokenizer(use_stemmer))


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    reduce: str = "mean",
    use_stemmer: bool = True,
) -> pd.DataFrame:
    """F1 of each prediction against its reference or references.

    Returns one row per prediction, columns rouge1, rouge2, rougeL, rougeLsum. With several references, `reduce` takes
    their "mean" (what a summary is worth to an average annotator; the DialogSum paper's choice) or their "max".

    Raises:
        ValueError: lengths differ, a prediction has no reference, or `reduce` is neither.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions against {len(references)} references: "
            "give one entry of references per prediction"
        )
    if reduce not in ("mean", "max"):
        raise ValueError(f"reduce={reduce!r}: choose 'mean' or 'max'")
    rows = []
    for number, (prediction, targets) in enumerate(zip(predictions, references, strict=True)):
        targets = [targets] if isinstance(targets, str) else list(targets)
        if not targets:
            raise ValueError(f"prediction {number} has no reference: give it at least one")
        rows.append(getattr(np, reduce)([_f1(prediction, target, use_stemmer) for target in targets], axis=0))
    return pd.DataFrame(rows, columns=list(ROUGE_TYPES), dtype=float)


def _f1(prediction: str, target: str, use_stemmer: bool) -> list[float]:
    scores = _scorer(use_stemmer).score(target, prediction)
    return [scores[name].fmeasure for name in ROUGE_TYPES]


def confidence_interval(scores: pd.DataFrame, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Percentile bootstrap interval of each column's mean; a row is one dialogue, the unit that is resampled (Efron
    1979).

    Returns one row per column of `scores`, with columns mean, low, high.

    Raises:
        ValueError: fewer than two rows, a missing score, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a share between 0 and 1, such as 0.95")
    values = _checked(scores)
    weights = np.random.default_rng(seed).multinomial(
        len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES
    )
    means = weights @ values / len(values)  # (resamples, columns)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame({"mean": values.mean(axis=0), "low": low, "high": high}, index=scores.columns)


def compare(scores_a: pd.DataFrame, scores_b: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Paired comparison of two systems on the same dialogues: mean of a − b with its 95 % bootstrap interval, and p.

    p is the two-sided approximate-randomisation test's (Noreen 1989): the share of random swaps of a and b, dialogue by
    dialogue, whose mean difference is at least as large; it is at least 1 / (resamples + 1).

    Raises:
        ValueError: the tables differ in rows or columns.
    """
    if scores_a.shape != scores_b.shape or list(scores_a.columns) != list(scores_b.columns):
        raise ValueError(
            f"tables of shape {scores_a.shape} and {scores_b.shape} are not paired: "
            "score both systems on the same dialogues"
        )
    differences = scores_a.reset_index(drop=True) - scores_b.reset_index(drop=True)
    values = _checked(differences)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(RESAMPLES, len(values)))
    swapped = np.abs(signs @ values)
    observed = np.abs(values.sum(axis=0))
    p = (1 + (swapped >= observed - 1e-12).sum(axis=0)) / (1 + RESAMPLES)
    return confidence_interval(differences, seed=seed).rename(columns={"mean": "difference"}).assign(p=p)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for being many, in the order given (Holm 1979).

    The k-th smallest of m is multiplied by m − k + 1, and is never smaller than the one before it or larger than 1.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted[np.argsort(order)]


def _checked(scores: pd.DataFrame) -> np.ndarray:
    values = scores.to_numpy(dtype=float)
    if len(values) < 2:
        raise ValueError(f"{len(values)} dialogue(s) give no interval: score at least two")
    if np.isnan(values).any():
        raise ValueError(f"row {int(np.isnan(values).any(axis=1).argmax())} has a missing score: score every dialogue")
    return values


def lead(dialogue: str, n: int) -> str:
    """Baseline: the first `n` turns."""
    return "\n".join(turns(dialogue)[:n])


def longest(dialogue: str, n: int) -> str:
    """Baseline: the `n` longest turns by words, in their order."""
    numbered = sorted(enumerate(turns(dialogue)), key=lambda item: -len(item[1].split()))[:n]
    return "\n".join(turn for _, turn in sorted(numbered))


def extractive_oracle(dialogue: str, references: Sequence[str]) -> str:
    """Ceiling of copying: turns added greedily while mean ROUGE-1 + ROUGE-2 against the references rises (Nallapati et
    al. 2017).
    """
    chosen: list[int] = []
    best = 0.0
    candidates = turns(dialogue)
    while True:
        trials = {i: _join(candidates, [*chosen, i]) for i in range(len(candidates)) if i not in chosen}
        scored = {i: _bigram_gain(text, references) for i, text in trials.items()}
        winner = max(scored, key=scored.get, default=None)
        if winner is None or scored[winner] <= best:
            return _join(candidates, chosen)
        chosen.append(winner)
        best = scored[winner]


def _bigram_gain(text: str, references: Sequence[str]) -> float:
    """Mean over the references of ROUGE-1 + ROUGE-2."""
    scorer = _scorer(True, ("rouge1", "rouge2"))
    return float(np.mean([sum(s.fmeasure for s in scorer.score(target, text).values()) for target in references]))


def _join(candidates: list[str], chosen: Sequence[int]) -> str:
    return "\n".join(candidates[i] for i in sorted(chosen))


def human_agreement(references: Sequence[Sequence[str]]) -> pd.DataFrame:
    """What one annotator scores against another: the mean over all pairs of a dialogue's references, one row per
    dialogue.

    Raises:
        ValueError: a dialogue has fewer than two references.
    """
    if lonely := [i for i, texts in enumerate(references) if len(texts) < 2]:
        raise ValueError(f"dialogue {lonely[0]} has fewer than two references: agreement needs two annotators")
    pairs = [list(combinations(texts, 2)) for texts in references]
    flat = rouge_scores([a for group in pairs for a, _ in group], [b for group in pairs for _, b in group])
    return flat.groupby(np.repeat(np.arange(len(pairs)), [len(group) for group in pairs])).mean()
