"""ROUGE against several references, the baselines and ceilings beside it, and human agreement.

Scores are those of `rouge_score` (Lin 2004, the Google Research implementation): F1 between 0 and 1. Intervals and
comparisons come from `utils.statistics`; a row of scores is one dialogue.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from utils import overlap
from utils.data import turns
from utils.statistics import compare, confidence_interval, holm

__all__ = [
    "ROUGE_TYPES",
    "compare",
    "confidence_interval",
    "extractive_oracle",
    "holm",
    "human_agreement",
    "lead",
    "longest",
    "rouge_scores",
]

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


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
    return score_pairs(
        partial(overlap.rouge_f1, use_stemmer=use_stemmer),
        ROUGE_TYPES,
        predictions,
        references,
        reduce,
    )


def score_pairs(
    score: Callable[[str, str], Sequence[float]],
    names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    reduce: str,
) -> pd.DataFrame:
    """Score each prediction against each of its references by `score(prediction, reference)`, and reduce over them.

    Returns one row per prediction, columns `names`. Raises what `rouge_scores` raises.
    """
    if isinstance(predictions, str) or isinstance(references, str):
        raise ValueError(
            "predictions and references must be lists of texts: put a single text into a list"
        )
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
        rows.append(getattr(np, reduce)([score(prediction, target) for target in targets], axis=0))
    return pd.DataFrame(rows, columns=list(names), dtype=float)


def lead(dialogue: str, n: int) -> str:
    """Baseline: the first `n` turns."""
    return "\n".join(turns(dialogue)[:n])


def longest(dialogue: str, n: int) -> str:
    """Baseline: the `n` longest turns by words, in their order."""
    numbered = sorted(enumerate(turns(dialogue)), key=lambda item: -len(item[1].split()))[:n]
    return "\n".join(turn for _, turn in sorted(numbered))


def extractive_oracle(dialogue: str, references: Sequence[str]) -> str:
    """Nearly the best that copying whole turns can reach: turns added greedily while mean ROUGE-1 + ROUGE-2 against the
    references rises (Nallapati et al. 2017).
    """
    if isinstance(references, str):
        raise ValueError("references must be a list of texts: put a single one into a list")
    chosen: list[int] = []
    best = 0.0
    candidates = turns(dialogue)
    while True:
        trials = {
            i: _join(candidates, [*chosen, i]) for i in range(len(candidates)) if i not in chosen
        }
        scored = {i: _unigrams_and_bigrams(text, references) for i, text in trials.items()}
        winner = max(scored, key=scored.get, default=None)
        if winner is None or scored[winner] <= best:
            return _join(candidates, chosen)
        chosen.append(winner)
        best = scored[winner]


def _unigrams_and_bigrams(text: str, references: Sequence[str]) -> float:
    """Mean over the references of ROUGE-1 + ROUGE-2."""
    words = overlap.tokens(text, True)
    pairs = [(words, overlap.tokens(target, True)) for target in references]
    return float(
        np.mean([overlap.ngram_f1(*pair, 1) + overlap.ngram_f1(*pair, 2) for pair in pairs])
    )


def _join(candidates: list[str], chosen: Sequence[int]) -> str:
    return "\n".join(candidates[i] for i in sorted(chosen))


def human_agreement(references: Sequence[Sequence[str]]) -> pd.DataFrame:
    """What one annotator scores against another: the mean over all pairs of a dialogue's references, one row per
    dialogue.

    Raises:
        ValueError: a dialogue has fewer than two references.
    """
    if any(isinstance(texts, str) for texts in references):
        raise ValueError("references must be a list of texts for each dialogue")
    if lonely := [i for i, texts in enumerate(references) if len(texts) < 2]:
        raise ValueError(
            f"dialogue {lonely[0]} has fewer than two references: agreement needs two annotators"
        )
    pairs = [list(combinations(texts, 2)) for texts in references]
    flat = rouge_scores(
        [a for group in pairs for a, _ in group], [b for group in pairs for _, b in group]
    )
    return flat.groupby(np.repeat(np.arange(len(pairs)), [len(group) for group in pairs])).mean()
