"""Faithful names as an `evaluate` module: evaluate.load("utils/evaluate_modules/faithful_names.py")."""

import pandas as pd

from utils import faithfulness
from utils.evaluate_modules import text_metric


class FaithfulNames(text_metric.TextMetric):
    """Mean share of a prediction's names that occur in its dialogue; `sources` are the dialogues."""

    inputs = ("predictions", "sources")

    def _score(self, predictions, sources):
        return pd.DataFrame({"faithful_names": faithfulness.faithful_names(predictions, sources)})
