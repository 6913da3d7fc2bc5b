"""ROUGE as an `evaluate` module: evaluate.load("utils/evaluate_modules/dialogue_rouge.py")."""

from utils.evaluate_modules import text_metric
from utils.rouge import rouge_scores


class DialogueRouge(text_metric.TextMetric):
    """Mean F1 (0 to 1) of rouge1, rouge2, rougeL and rougeLsum over dialogues. With several references for a dialogue,
    their mean or their max counts (`reduce`). Scores are those of the rouge_score package; means are plain means, not
    medians of a bootstrap.
    """

    source = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries"

    def _score(self, predictions, references, reduce="mean", use_stemmer=True):
        return rouge_scores(predictions, references, reduce=reduce, use_stemmer=use_stemmer)
