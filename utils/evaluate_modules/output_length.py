"""Output length as an `evaluate` module: evaluate.load("utils/evaluate_modules/output_length.py")."""

import pandas as pd

from utils import faithfulness
from utils.evaluate_modules import text_metric


class OutputLength(text_metric.TextMetric):
    """Mean number of words of the predictions."""

    inputs = ("predictions",)

    def _score(self, predictions):
        return pd.DataFrame({"words": faithfulness.output_length(predictions)})
