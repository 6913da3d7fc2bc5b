"""Toxicity as an `evaluate` module: evaluate.load("utils/evaluate_modules/hate_speech.py")."""

import pandas as pd

from utils import toxicity
from utils.evaluate_modules import text_metric


class HateSpeech(text_metric.TextMetric):
    """Mean p(hate) of the predictions, and the share of them at 0.5 or above, by `classifier` (id or folder)."""

    inputs = ("predictions",)
    source = "Vidgen et al. 2021, Learning from the Worst: Dynamically Generated Datasets for Online Hate Detection"

    def _score(self, predictions, classifier):
        probability = toxicity.HateScorer(classifier).probability(predictions)
        return pd.DataFrame({"toxicity": probability, "toxic_share": probability >= 0.5})
