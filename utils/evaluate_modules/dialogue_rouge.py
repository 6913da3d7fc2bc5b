"""ROUGE as an `evaluate` module."""

from utils import rouge
from utils.evaluate_modules import text_metric


class DialogueRouge(text_metric.TextMetric):
    """Mean F1 (0 to 1) of rouge1, rouge2, rougeL and rougeLsum over dialogues (Lin 2004).

    `reduce` takes the "mean" or the "max" over several references of a dialogue.
    """

    def _score(self, predictions, references, reduce="mean", use_stemmer=True):
        return rouge.rouge_scores(predictions, references, reduce, use_stemmer)
