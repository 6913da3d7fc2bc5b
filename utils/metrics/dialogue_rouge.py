"""Multi-reference ROUGE as an `evaluate` module: evaluate.load("utils/metrics/dialogue_rouge.py"), without network."""

import datasets
import evaluate

from utils.rouge import ROUGE_TYPES, rouge_scores

_DESCRIPTION = """\
Mean F1 (0 to 1) of rouge1, rouge2, rougeL and rougeLsum over dialogues. With several references for a dialogue, their
mean or their max counts. Scores are those of the rouge_score package; means are plain means, not bootstrap medians.
"""


class DialogueRouge(evaluate.Metric):
    """ROUGE of one prediction per dialogue against one or several references."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description="predictions: list of texts; references: list of texts or list of lists of texts",
            features=[
                datasets.Features({"predictions": texts, "references": datasets.Sequence(texts)}),
                datasets.Features({"predictions": texts, "references": texts}),
            ],
        )

    def _compute(self, predictions, references, reduce: str = "mean", use_stemmer: bool = True) -> dict[str, float]:
        means = rouge_scores(predictions, references, reduce=reduce, use_stemmer=use_stemmer).mean()
        return {name: float(means[name]) for name in ROUGE_TYPES}
