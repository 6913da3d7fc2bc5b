"""Compare `utils.rouge` with plain `rouge_score` on 1,500 pairs, with all four ROUGE types.

Both sides run in one process:

    python tests/benchmarks/bench_rouge.py [path/to/dialogsum]

Prints seconds, their ratio, and the largest difference of the scores, which must be 0.
"""

import sys
import time

import pandas as pd
from rouge_score.rouge_scorer import RougeScorer

from utils.data import group_references, load_dialogsum
from utils.rouge import ROUGE_TYPES, extractive_oracle, lead, rouge_scores
from utils.settings import OFFLINE


def plain_scores(predictions: list[str], references: list[str]) -> pd.DataFrame:
    """Score pair by pair with one RougeScorer, as its documentation shows."""
    scorer = RougeScorer(ROUGE_TYPES, use_stemmer=True)
    pairs = zip(references, predictions, strict=True)
    scores = [scorer.score(reference, prediction) for reference, prediction in pairs]
    return pd.DataFrame([{name: score[name].fmeasure for name in ROUGE_TYPES} for score in scores])


def compare_speed(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """Time both sides on every pair of a prediction and one of its references."""
    repeated = [p for p, own in zip(predictions, references, strict=True) for _ in own]
    flat = [text for own in references for text in own]
    start = time.perf_counter()
    plain = plain_scores(repeated, flat)
    middle = time.perf_counter()
    ours = rouge_scores(repeated, flat)
    end = time.perf_counter()
    return {
        "pairs": len(flat),
        "rouge_score, s": middle - start,
        "utils.rouge, s": end - middle,
        "ratio": (middle - start) / (end - middle),
        "largest difference": (plain - ours).abs().to_numpy().max(),
    }


def main(dataset: str) -> None:
    """Print one row per kind of text, and the time of the extractive oracle."""
    rows = group_references(load_dialogsum(dataset)["test"])
    dialogues, references = list(rows["dialogue"]), list(rows["summaries"])
    texts = {
        "lead-3, three lines": [lead(dialogue, 3) for dialogue in dialogues],
        "lead-3, one line": [lead(dialogue, 3).replace("\n", " ") for dialogue in dialogues],
        "summary of another dialogue": [own[0] for own in references[1:] + references[:1]],
    }
    table = pd.DataFrame({name: compare_speed(own, references) for name, own in texts.items()}).T
    print(table.round(2).to_string())
    total = table[["rouge_score, s", "utils.rouge, s"]].sum()
    print(f"all together: {total.iloc[0] / total.iloc[1]:.2f} times faster than rouge_score")
    start = time.perf_counter()
    for dialogue, own in zip(dialogues, references, strict=True):
        extractive_oracle(dialogue, own)
    print(f"extractive oracle of {len(dialogues)} dialogues: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(OFFLINE / "data"))
