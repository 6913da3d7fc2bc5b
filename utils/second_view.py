"""A second view beside ROUGE, cheap and offline: how long an output is, and whether its people are the right ones.

ROUGE counts shared words; an output can share many of them and still let the wrong person act. Speakers stand in
DialogSum's summaries as `#Person1#` and `#Person2#` where the dialogue does not tell their names.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

SECOND_VIEW = ("words", "right_speakers", "faithful_names")
SPEAKER = re.compile(r"#Person\d+#")
_LABEL = re.compile(r"\w+:")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")


def second_view(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], dialogues: Sequence[str]
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


def right_speakers(predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> np.ndarray:
    """1 where the prediction speaks of the same `#PersonN#` as one of its references does, else 0.

    A prediction that names no speaker is right where a reference names none.

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

    A name is a capitalised word (people, places, days), but for a label before a colon. At the start of a sentence
    every word is capitalised: there it is a name only if none of the texts has it in small letters.

    Raises:
        ValueError: lengths differ.
    """
    _check_lengths("dialogues", dialogues, predictions)
    ordinary = {word for text in (*predictions, *dialogues) for word in _WORD.findall(text) if word.islower()}
    shares = []
    for prediction, dialogue in zip(predictions, dialogues, strict=True):
        known = {word.lower() for word in _words(dialogue)}
        names = _names(prediction, ordinary)
        shares.append(np.mean([name in known for name in names]) if names else 1.0)
    return np.array(shares)


def _speakers(text: str) -> set[str]:
    return set(SPEAKER.findall(text))


def _words(text: str) -> list[str]:
    """Words without speaker tags and possessive endings."""
    return [re.sub(r"['’]s$", "", word) for word in _WORD.findall(SPEAKER.sub(" ", text))]


def _names(text: str, ordinary: set[str]) -> set[str]:
    found = set()
    for sentence in _SENTENCE.split(text):
        starts_with_word = not sentence.lstrip().startswith("#")
        for position, word in enumerate(_words(_LABEL.sub(" ", sentence))):
            at_start = position == 0 and starts_with_word
            if word[0].isupper() and word != "I" and not (at_start and word.lower() in ordinary):
                found.add(word.lower())
    return found


def _check_lengths(name: str, texts: Sequence, predictions: Sequence[str]) -> None:
    if len(texts) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions with {len(texts)} {name}: give each prediction its own")
