"""Right speakers as an `evaluate` module."""

from utils import faithfulness
from utils.evaluate_modules import text_metric


class RightSpeakers(text_metric.TextMetric):
    """Share of predictions that name the same #PersonN# as one of their references."""

    def _score(self, predictions, references):
        return {"right_speakers": faithfulness.right_speakers(predictions, references)}
