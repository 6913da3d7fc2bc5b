"""Output length as an `evaluate` module."""

from utils import faithfulness
from utils.evaluate_modules import text_metric


class OutputLength(text_metric.TextMetric):
    """Mean number of words of the predictions."""

    def _score(self, predictions):
        return {"words": faithfulness.output_length(predictions)}
