"""ROUGE as the DialogSum paper counts it, to hold a result against its table; never mix it with rouge_score.

The paper scores with py-rouge, a port of the official ROUGE 1.5.5 script. It differs from `utils.rouge` in that

- precision and recall of ROUGE-L are raised to the power 1/1.2 before F1 is taken (py-rouge applies ROUGE-W's weight to
  ROUGE-L too), which alone lifts it by several points;
- words are split by the Treebank rules ("gonna" → "gon", "na") and stemmed by Porter's original algorithm.

py-rouge also looks irregular forms up in WordNet, which moves the means on DialogSum by about 0.1 points and is left
out. Texts are read as one line, as in the paper's files: py-rouge would score the lines of a longer text one by one.
"""

import functools
from collections.abc import Sequence

import pandas as pd
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import TreebankWordTokenizer
from rouge_score import tokenize

from utils import overlap
from utils.rouge import score_pairs

PAPER_ROUGE_TYPES = ("paper_rouge1", "paper_rouge2", "paper_rougeL")
WEIGHT = 1.2

_split = TreebankWordTokenizer().tokenize
_stem = functools.lru_cache(maxsize=100_000)(PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM).stem)


def paper_rouge_scores(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    reduce: str = "mean",
) -> pd.DataFrame:
    """F1 as in the DialogSum paper, 0 to 1: one row per prediction, columns paper_rouge1, paper_rouge2, paper_rougeL.

    `reduce` and errors are those of `utils.rouge.rouge_scores`.
    """
    return score_pairs(_paper_rouge_f1, PAPER_ROUGE_TYPES, predictions, references, reduce)


def _paper_rouge_f1(prediction: str, reference: str) -> tuple[float, float, float]:
    predicted, referenced = _tokens(prediction), _tokens(reference)
    return (
        overlap.ngram_f1(predicted, referenced, 1),
        overlap.ngram_f1(predicted, referenced, 2),
        overlap.lcs_f1(predicted, referenced, WEIGHT),
    )


@functools.lru_cache(maxsize=100_000)
def _tokens(text: str) -> overlap.Tokens:
    """Lower-case words and numbers, stemmed if they are longer than three characters; "cannot" stays one word."""
    letters = tokenize.NON_ALPHANUM_RE.sub(" ", text.lower())
    words = (word.strip("_") for word in _split(letters.replace("cannot", "_cannot_")))
    return tuple(_stem(word) if len(word) > 3 else word for word in words)
