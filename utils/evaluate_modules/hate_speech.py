"""Toxicity as an `evaluate` module."""

from utils import toxicity
from utils.evaluate_modules import text_metric


class HateSpeech(text_metric.TextMetric):
    """Mean p(hate), and share of texts at 0.5 or above; `classifier` is a hub id or folder."""

    def _score(self, predictions, classifier):
        probability = toxicity.HateScorer(classifier).probability(predictions)
        return {"toxicity": probability, "toxic_share": probability >= 0.5}
