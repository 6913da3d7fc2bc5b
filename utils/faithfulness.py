"""A second view beside ROUGE, cheap and offline: how long an output is, and whether it speaks of the right people.

ROUGE counts shared words; an output can share many of them and speak of people who are not in the dialogue. Speakers
stand in DialogSum's summaries as `#Person1#` and `#Person2#` where the dialogue does not tell their names. These are
checks of *who* is named, never of *who does what*: an output that swaps two people passes them all.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.bm25 import STOPWORDS_EN_PLUS

SECOND_VIEW = ("words", "right_speakers", "faithful_names")
SPEAKER = re.compile(
    r"#?\s*person\s*_?(\d+)\s*#?", re.IGNORECASE
)  # models often lose a part of the tag
TITLES = {"mr", "mrs", "ms", "miss", "dr"}
_LABEL = re.compile(r"\w+:")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")


def second_view(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    dialogues: Sequence[str],
) -> pd.DataFrame:
    """All measures of this module: one row per prediction, columns words, right_speakers, faithful_names.

    Raises:
        ValueError: lengths differ.
    """
    columns = (
        output_length(predictions),
        right_speakers(predictions, references),
        faithful_names(predictions, dialogues),
    )
    return pd.DataFrame(dict(zip(SECOND_VIEW, columns, strict=True)))


def output_length(predictions: Sequence[str]) -> np.ndarray:
    """Words of each prediction, as white space parts them."""
    return np.array([len(text.split()) for text in predictions], dtype=float)


def right_speakers(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]
) -> np.ndarray:
    """1 where the prediction speaks of the same set of `#PersonN#` as one of its references does, else 0.

    A prediction that names no speaker is right where a reference names none; a tag that lost its marks ("Person1")
    still counts. Hold it against a constant answer: "#Person1# and #Person2# talk." is right quite often.

    Raises:
        ValueError: lengths differ.
    """
    _check_lengths("references", references, predictions)
    targets = ([texts] if isinstance(texts, str) else texts for texts in references)
    return np.array(
        [
            float(any(_speakers(prediction) == _speakers(text) for text in texts))
            for prediction, texts in zip(predictions, targets, strict=True)
        ]
    )


def faithful_names(predictions: Sequence[str], dialogues: Sequence[str]) -> np.ndarray:
    """Share of the names in each prediction that occur in its dialogue; 1 where the prediction has none.

    A name is a capitalized word (people, places, days), but for titles and for a label before a colon. At the start of
    a sentence every word is capitalized: there it is a name only if it is no stop word and none of the dialogues has it
    in small letters: hold shares against each other only over the same dialogues. This is precision alone: an output
    that names nobody has no wrong name.

    Raises:
        ValueError: lengths differ.
    """
    pairs = _all_and_wrong_names(predictions, dialogues)
    return np.array([1 - len(wrong) / max(1, len(names)) for names, wrong in pairs])


def wrong_names(predictions: Sequence[str], dialogues: Sequence[str]) -> list[set[str]]:
    """The names in each prediction that do not occur in its dialogue, in small letters; names as in `faithful_names`.

    Raises:
        ValueError: lengths differ.
    """
    return [wrong for _, wrong in _all_and_wrong_names(predictions, dialogues)]


def _all_and_wrong_names(
    predictions: Sequence[str], dialogues: Sequence[str]
) -> list[tuple[set[str], set[str]]]:
    """The names in each prediction, and those of them that its dialogue has not."""
    _check_lengths("dialogues", dialogues, predictions)
    ordinary = {word for text in dialogues for word in _WORD.findall(text) if word.islower()} | set(
        STOPWORDS_EN_PLUS
    )
    pairs = []
    for prediction, dialogue in zip(predictions, dialogues, strict=True):
        names = _names(prediction, ordinary)
        pairs.append((names, names - {word.lower() for word in _words(dialogue)}))
    return pairs


def _speakers(text: str) -> set[str]:
    """Numbers of the speakers that a text names."""
    return set(SPEAKER.findall(text))


def _words(text: str) -> list[str]:
    """Words without speaker tags and possessive endings."""
    return [re.sub(r"['’]s$", "", word) for word in _WORD.findall(SPEAKER.sub(" ", text))]


def _names(text: str, ordinary: set[str]) -> set[str]:
    found = set()
    for sentence in _SENTENCE.split(text):
        starts_with_tag = SPEAKER.match(sentence.lstrip()) is not None
        for position, word in enumerate(_words(_LABEL.sub(" ", sentence))):
            if not word[0].isupper() or word.lower() in TITLES or re.split(r"['’]", word)[0] == "I":
                continue
            if position > 0 or starts_with_tag or word.lower() not in ordinary:
                found.add(word.lower())
    return found


def _check_lengths(name: str, texts: Sequence, predictions: Sequence[str]) -> None:
    if len(texts) != len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions with {len(texts)} {name}: give each prediction its own"
        )
