"""Toxicity as an `evaluate` module."""

from utils import toxicity
from utils.evaluate_modules import text_metric


class HateSpeech(text_metric.TextMetric):
    """Mean p(hate) and share at 0.5 or above by `classifier`, an id or folder (Vidgen 2021)."""

    def _score(self, predictions, classifier):
        probability = toxicity.HateScorer(classifier).probability(predictions)
        return {"toxicity": probability, "toxic_share": probability >= 0.5}
