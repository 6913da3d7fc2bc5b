"""Right speakers as an `evaluate` module: evaluate.load("utils/evaluate_modules/right_speakers.py")."""

import pandas as pd

from utils import faithfulness
from utils.evaluate_modules import text_metric


class RightSpeakers(text_metric.TextMetric):
    """Share of predictions that speak of the same #PersonN# as one of their references does."""

    def _score(self, predictions, references):
        return pd.DataFrame(
            {"right_speakers": faithfulness.right_speakers(predictions, references)}
        )
