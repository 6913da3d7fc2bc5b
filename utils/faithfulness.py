"""Check whom a summary names and how long it is, with cheap measures that complement ROUGE.

ROUGE counts shared words, but a summary can share many of them and still name people who are not in
the dialogue. In DialogSum, speakers without a known name are `#Person1#` and `#Person2#`. These
measures check *who* is named, not *who does what*: a summary that swaps two people passes them all.
"""

import os
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

Texts = Sequence[str]
References = Texts | Sequence[Texts]
SPEAKER = re.compile(r"#?\s*person\s*_?(\d+)\s*#?", re.IGNORECASE)  # models often lose a "#"
TITLES = {"mr", "mrs", "ms", "miss", "dr"}
_LABEL = re.compile(r"\w+:")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")


def faithfulness_scores(
    predictions: Texts, references: References, dialogues: Texts
) -> pd.DataFrame:
    """Compute all measures: one row per prediction, columns words, right_speakers, faithful_names.

    Raises ValueError if lengths differ.
    """
    table = pd.DataFrame({"words": output_length(predictions)})
    table["right_speakers"] = right_speakers(predictions, references)
    return table.assign(faithful_names=faithful_names(predictions, dialogues))


def output_length(predictions: Texts) -> np.ndarray:
    """Count the words of each prediction, separated by white space."""
    return np.array([len(text.split()) for text in predictions], dtype=float)


def right_speakers(predictions: Texts, references: References) -> np.ndarray:
    """Return 1 where a prediction names the same speakers as one of its references, else 0.

    Two texts without any `#PersonN#` agree, and "Person1" counts as a tag. Compare with a constant
    answer: "#Person1# and #Person2# talk." is often right.

    Raises ValueError if lengths differ.
    """
    _check_lengths("references", references, predictions)
    targets = [[texts] if isinstance(texts, str) else texts for texts in references]
    pairs = zip(predictions, targets, strict=True)
    return np.array([float(_speakers(text) in map(_speakers, right)) for text, right in pairs])


def faithful_names(predictions: Texts, dialogues: Texts) -> np.ndarray:
    """Compute the share of each prediction's names that occur in its dialogue, 1 if it has none.

    A name is a capitalized word (people, places, days) other than a title or a label before a
    colon. The first word of a sentence is a name only if it is not a stop word and no dialogue has
    it in lower case, so compare shares over the same dialogues only. The share is a precision: a
    prediction without names has no wrong ones.

    Raises ValueError if lengths differ.
    """
    pairs = _names_and_wrong_names(predictions, dialogues)
    return np.array([1 - len(wrong) / max(1, len(names)) for names, wrong in pairs])


def wrong_names(predictions: Texts, dialogues: Texts) -> list[set[str]]:
    """Return the names in each prediction that its dialogue lacks, in lower case.

    Names are defined as in `faithful_names`. Raises ValueError if lengths differ.
    """
    return [wrong for _, wrong in _names_and_wrong_names(predictions, dialogues)]


def _names_and_wrong_names(predictions: Texts, dialogues: Texts) -> list[tuple[set, set]]:
    # bm25s starts JAX if it is installed, which would reserve most of the GPU's memory
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    _check_lengths("dialogues", dialogues, predictions)
    ordinary = {word for text in dialogues for word in _WORD.findall(text) if word.islower()}
    ordinary.update(STOPWORDS_EN_PLUS)
    names = [_names(text, ordinary) for text in predictions]
    known = [{word.lower() for word in _words(text)} for text in dialogues]
    return [(found, found - words) for found, words in zip(names, known, strict=True)]


def _speakers(text: str) -> set[str]:
    """Return the numbers of the speakers that a text names."""
    return set(SPEAKER.findall(text))


def _words(text: str) -> list[str]:
    """Return a text's words without speaker tags and possessive endings."""
    return [re.sub(r"['’]s$", "", word) for word in _WORD.findall(SPEAKER.sub(" ", text))]


def _names(text: str, ordinary: set[str]) -> set[str]:
    """Return a text's names in lower case; `ordinary` words do not count at a sentence's start."""
    found = set()
    for sentence in _SENTENCE.split(text):
        starts_with_tag = SPEAKER.match(sentence.lstrip()) is not None
        for position, word in enumerate(_words(_LABEL.sub(" ", sentence))):
            if not word[0].isupper() or word.lower() in TITLES or re.split(r"['’]", word)[0] == "I":
                continue
            if position > 0 or starts_with_tag or word.lower() not in ordinary:
                found.add(word.lower())
    return found


def _check_lengths(name: str, texts: Sequence, predictions: Texts) -> None:
    if len(texts) != len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions with {len(texts)} {name}: pass one for each prediction"
        )
