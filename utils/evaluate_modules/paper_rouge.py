"""The DialogSum paper's ROUGE as an `evaluate` module."""

from utils import rouge
from utils.evaluate_modules import text_metric


class PaperRouge(text_metric.TextMetric):
    """Mean F1 (0 to 1) as the DialogSum paper computes it (Chen et al. 2021); it always stems."""

    def _score(self, predictions, references, reduce="mean", use_stemmer=True):
        if not use_stemmer:
            raise ValueError("use_stemmer=False: the paper's ROUGE always stems; omit the option")
        return rouge.paper_rouge_scores(predictions, references, reduce)
