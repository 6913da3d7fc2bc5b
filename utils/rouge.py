"""Score summaries by ROUGE against several references, with simple baselines and human agreement.

F1 lies between 0 and 1 and equals that of the package `rouge_score` (Lin 2004). Each row of scores
is one dialogue; intervals and comparisons of such tables come from `utils.statistics`.
"""

import functools
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from itertools import chain, combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import regex
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import TreebankWordTokenizer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import fmeasure
from rouge_score.tokenize import NON_ALPHANUM_RE, tokenize
from rouge_score.tokenizers import Tokenizer

from utils.data import check_texts, turns
from utils.statistics import compare, confidence_interval, holm  # noqa: F401 (importable from here)

Texts = Sequence[str]
References = Texts | Sequence[Texts]
Tokens = Callable[[str], list[str]]
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
UNICODE_WORD = rf"(?V1){SPACELESS}|[[\p{{L}}\p{{M}}\p{{N}}]--{SPACELESS}]+"


class UnicodeTokenizer(Tokenizer):
    """Split text in any script into lower-case words, without stemming.

    In scripts without spaces between words (Chinese, Japanese, Thai), each character is a token.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return regex.findall(UNICODE_WORD, unicodedata.normalize("NFC", text.lower()))


def rouge_scores(
    predictions: Texts,
    references: References,
    reduce: str = "mean",
    use_stemmer: bool = True,
    tokenizer: Tokenizer | None = None,
) -> pd.DataFrame:
    """Compute the ROUGE F1 of each prediction against its reference or references.

    `reduce` takes the "mean" over several references (the DialogSum paper's choice) or their "max".
    `tokenizer` is any object with `tokenize(text)`, such as `UnicodeTokenizer()`; it replaces
    rouge_score's own, and `use_stemmer` then has no effect.

    Returns one row per prediction with columns rouge1, rouge2, rougeL, rougeLsum. Warns if the
    tokenizer drops most of a text, as the default one does with Chinese.

    Raises ValueError if lengths differ, a prediction has no reference, or `reduce` is unknown.
    """
    tokens = tokenizer.tokenize if tokenizer else _porter_tokens(use_stemmer)
    return _score_table(tokens, predictions, references, reduce)


def paper_rouge_scores(
    predictions: Texts, references: References, reduce: str = "mean"
) -> pd.DataFrame:
    """Compute ROUGE F1 as the DialogSum paper does, only to compare with it (Chen et al. 2021).

    The paper uses py-rouge, a port of ROUGE 1.5.5. It raises ROUGE-L's precision and recall to the
    power 1/1.2 (ROUGE-W's weight) before F1, which adds several points; it splits words by the
    Treebank rules and reads a text as one line. We leave out WordNet's irregular forms (about 0.1
    points). Returns columns paper_rouge1, paper_rouge2, paper_rougeL; otherwise as `rouge_scores`.
    """
    table = _score_table(_treebank_tokens(), predictions, references, reduce, l_power=1 / 1.2)
    return table.drop(columns="rougeLsum").add_prefix("paper_")


def lead(dialogue: str, n: int) -> str:
    """Return the first `n` turns, the usual baseline; raises ValueError if `n` is below 0."""
    _check_turns(n)
    return "\n".join(turns(dialogue)[:n])


def longest(dialogue: str, n: int) -> str:
    """Return the `n` turns with the most words, in order; raises ValueError if `n` is below 0."""
    _check_turns(n)
    by_length = sorted(enumerate(turns(dialogue)), key=lambda item: -len(item[1].split()))
    return "\n".join(turn for _, turn in sorted(by_length[:n]))


def _check_turns(n: int) -> None:
    if n < 0:
        raise ValueError(f"n={n}: ask for 0 turns or more")


def extractive_oracle(dialogue: str, references: Texts, tokenizer: Tokenizer | None = None) -> str:
    """Return a nearly optimal summary made of whole turns, chosen with the references.

    Turns are added greedily while the mean of ROUGE-1 + ROUGE-2 rises (Nallapati et al. 2017).
    """
    check_texts("references", references)
    tokens = tokenizer.tokenize if tokenizer else _porter_tokens()
    _warn_of_dropped_scripts([dialogue, *references], tokens)
    scorer, candidates = _caching_scorer(ROUGE_TYPES[:2], tokens), turns(dialogue)

    def summary(chosen: set[int]) -> str:
        return "\n".join(candidates[i] for i in sorted(chosen))

    def score(chosen: set[int]) -> float:
        scores = [scorer.score(reference, summary(chosen)).values() for reference in references]
        return float(np.mean([one.fmeasure + two.fmeasure for one, two in scores]))

    chosen, best = set(), 0.0
    while trials := {i: score(chosen | {i}) for i in range(len(candidates)) if i not in chosen}:
        winner = max(trials, key=trials.get)
        if trials[winner] <= best:
            break
        chosen, best = chosen | {winner}, trials[winner]
    return summary(chosen)


def human_agreement(
    references: Sequence[Texts], tokenizer: Tokenizer | None = None
) -> pd.DataFrame:
    """Compute each dialogue's mean ROUGE F1 over all pairs of its references.

    Raises ValueError if a dialogue has fewer than two references.
    """
    for i, texts in enumerate(references):
        check_texts(f"references[{i}]", texts)
    if lonely := [i for i, texts in enumerate(references) if len(texts) < 2]:
        raise ValueError(f"dialogue {lonely[0]} has fewer than two references: pass at least two")
    pairs = [(i, *pair) for i, texts in enumerate(references) for pair in combinations(texts, 2)]
    dialogues, first, second = np.array(pairs, dtype=object).reshape(-1, 3).T
    return rouge_scores(first, second, tokenizer=tokenizer).groupby(dialogues).mean()


def _score_table(
    tokens: Tokens, predictions: Texts, references: References, reduce: str, l_power: float = 1.0
) -> pd.DataFrame:
    """Compute F1 with ROUGE-L's precision and recall raised to `l_power`: a row per prediction."""
    check_texts("predictions", predictions)
    if isinstance(references, str):
        raise ValueError(f"references is the string {references[:40]!r}: pass a list of texts")
    if len(predictions) != len(references):
        lengths = f"{len(predictions)} predictions against {len(references)} references"
        raise ValueError(f"{lengths}: pass one entry of references per prediction")
    if reduce not in ("mean", "max"):
        raise ValueError(f"reduce={reduce!r}: choose 'mean' or 'max'")
    targets = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    if [] in targets:
        raise ValueError(f"prediction {targets.index([])} has no reference: pass one or more")
    for i, texts in enumerate(targets):
        check_texts(f"references[{i}]", texts)
    _warn_of_dropped_scripts([*predictions, *chain(*targets)], tokens)
    scorer = _caching_scorer(ROUGE_TYPES, tokens)

    def score(prediction: str, reference: str) -> list[float]:
        one_line = "\n" not in prediction and "\n" not in reference  # then rougeLsum equals rougeL
        scorer.rouge_types = ROUGE_TYPES[:3] if one_line else ROUGE_TYPES
        one, two, lcs, *lsum = scorer.score(reference, prediction).values()
        weighted = fmeasure(lcs.precision**l_power, lcs.recall**l_power)
        return [one.fmeasure, two.fmeasure, weighted, lsum[0].fmeasure if lsum else weighted]

    rows = [
        getattr(np, reduce)([score(prediction, text) for text in texts], axis=0)
        for prediction, texts in zip(predictions, targets, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(ROUGE_TYPES), dtype=float)


def _warn_of_dropped_scripts(texts: Texts, tokens: Tokens) -> None:
    """Warn if the tokenizer drops more than half of the letters and digits of a text."""
    # c * 4, because a tokenizer may drop short words
    dropped = {c for c in set().union(*texts) if c.isalnum() and not tokens(c * 4)}
    lost = [t for t in texts if 2 * sum(c in dropped for c in t) > sum(map(str.isalnum, t))]
    if lost:
        warnings.warn(
            f"the tokenizer can score few or no words of {len(lost)} of {len(texts)} texts (one is "
            f"{lost[0][:40]!r}): their ROUGE is meaningless. rouge_score reads "
            "a-z and 0-9 only; for other scripts set tokenizer=utils.rouge.UnicodeTokenizer()",
            stacklevel=4,
        )


def _caching_scorer(types: Texts, tokens: Tokens) -> RougeScorer:
    """Return a RougeScorer that tokenizes each text once, even if it is compared with many."""
    return RougeScorer(types, tokenizer=SimpleNamespace(tokenize=functools.cache(tokens)))


def _porter_tokens(use_stemmer: bool = True) -> Tokens:
    """Return rouge_score's tokenizer, which here stems each distinct word only once."""
    stemmer = SimpleNamespace(stem=functools.cache(PorterStemmer().stem)) if use_stemmer else None
    return functools.partial(tokenize, stemmer=stemmer)


def _treebank_tokens() -> Tokens:
    """Return py-rouge's tokenizer: "gonna" becomes "gon", "na", but "cannot" stays one word."""
    split = TreebankWordTokenizer().tokenize
    stem = functools.cache(PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM).stem)

    def tokens(text: str) -> list[str]:
        letters = NON_ALPHANUM_RE.sub(" ", text.lower()).replace("cannot", "_cannot_")
        words = [word.strip("_") for word in split(letters)]
        return [stem(word) if len(word) > 3 else word for word in words]

    return tokens
