"""Seconds to score 1,500 pairs with all four ROUGE types: `rouge_score` in a loop against `utils.rouge`, cold and warm.

Both sides run in this one process on the same pairs (three references for each of 500 texts). Scores are compared too.
"""

import sys
import time

import pandas as pd
from rouge_score.rouge_scorer import RougeScorer

from utils import overlap
from utils.data import group_references, load_dialogsum
from utils.rouge import ROUGE_TYPES, lead, rouge_scores
from utils.settings import OFFLINE


def in_a_loop(predictions: list[str], references: list[str]) -> pd.DataFrame:
    """The usual way: one scorer, one pair after another."""
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    scores = (
        scorer.score(reference, text)
        for text, reference in zip(predictions, references, strict=True)
    )
    return pd.DataFrame([{name: score[name].fmeasure for name in ROUGE_TYPES} for score in scores])


def forget() -> None:
    """Empty what `utils.overlap` remembers of words and texts."""
    for remembered in (overlap.tokens, overlap._ngrams, overlap._STEMMER.stem):
        remembered.cache_clear()


def seconds(function, *arguments) -> tuple[float, pd.DataFrame]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main(dataset: str) -> None:
    """Print one row per kind of text."""
    rows = group_references(load_dialogsum(dataset)["test"])
    texts = {
        "lead-3, three lines": [lead(dialogue, 3) for dialogue in rows["dialogue"]],
        "lead-3, one line": [lead(dialogue, 3).replace("\n", " ") for dialogue in rows["dialogue"]],
        "a summary of another dialogue": [
            summaries[0] for summaries in rows["summaries"][1:] + rows["summaries"][:1]
        ],
    }
    table = []
    for name, predictions in texts.items():
        pairs = [
            (p, r)
            for p, references in zip(predictions, rows["summaries"], strict=True)
            for r in references
        ]
        flat = [list(side) for side in zip(*pairs, strict=True)]
        forget()
        loop, theirs = seconds(in_a_loop, *flat)
        cold, ours = seconds(rouge_scores, *flat)
        warm, _ = seconds(rouge_scores, *flat)
        row = {
            "texts": name,
            "pairs": len(pairs),
            "rouge_score, s": loop,
            "ours, s": cold,
            "ours again, s": warm,
        }
        difference = (theirs - ours).abs().to_numpy().max()
        table.append(
            row
            | {"times faster": loop / cold, "again": loop / warm, "largest difference": difference}
        )
    print(pd.DataFrame(table).round(3).to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(OFFLINE / "data"))
