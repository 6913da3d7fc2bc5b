"""The DialogSum paper's ROUGE as an `evaluate` module: evaluate.load("utils/evaluate_modules/paper_rouge.py")."""

from utils import paper_rouge
from utils.evaluate_modules import text_metric


class PaperRouge(text_metric.TextMetric):
    """Mean F1 (0 to 1) as py-rouge counts it; see `utils.paper_rouge` for how it differs from rouge_score. The paper
    stems always.
    """

    source = "Chen et al. 2021, DialogSum: A Real-Life Scenario Dialogue Summarization Dataset"

    def _score(self, predictions, references, reduce="mean", use_stemmer=True):
        if not use_stemmer:
            raise ValueError(
                "use_stemmer=False: the paper's ROUGE stems always; leave the option out"
            )
        return paper_rouge.paper_rouge_scores(predictions, references, reduce=reduce)
