"""Faithful names as an `evaluate` module."""

from utils import faithfulness
from utils.evaluate_modules import text_metric


class FaithfulNames(text_metric.TextMetric):
    """Mean share of a prediction's names found in its dialogue; `sources` are the dialogues."""

    def _score(self, predictions, sources):
        return {"faithful_names": faithfulness.faithful_names(predictions, sources)}
