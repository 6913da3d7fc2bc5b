"""Right speakers as an `evaluate` module: evaluate.load("utils/metrics/right_speakers.py")."""

import pandas as pd

from utils import second_view
from utils.metrics import text_metric


class RightSpeakers(text_metric.TextMetric):
    """Share of predictions that speak of the same #PersonN# as one of their references does."""

    def _score(self, predictions, references):
        return pd.DataFrame({"right_speakers": second_view.right_speakers(predictions, references)})
