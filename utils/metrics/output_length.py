"""Output length as an `evaluate` module: evaluate.load("utils/metrics/output_length.py")."""

import pandas as pd

from utils import second_view
from utils.metrics import text_metric


class OutputLength(text_metric.TextMetric):
    """Mean number of words of the predictions."""

    inputs = ("predictions",)

    def _score(self, predictions):
        return pd.DataFrame({"words": second_view.output_length(predictions)})
