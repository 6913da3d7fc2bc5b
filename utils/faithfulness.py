"""Check what a summary says, with cheap measures that complement ROUGE.

ROUGE counts shared words, but a summary can share many of them and still name people who are not in
the dialogue. In DialogSum, speakers without a known name are `#Person1#` and `#Person2#`.
`right_speakers` and `faithful_names` check *who* is named, not *who does what*. `facts` checks who
does what, too, but only in the small world, whose facts are known.
"""

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from utils.data import check_texts
from utils.settings import OFFLINE

Texts = Sequence[str]
References = Texts | Sequence[Texts]
SPEAKER = re.compile(r"#?\s*person\s*_?(\d+)\s*#?", re.IGNORECASE)  # models often lose a "#"
TITLES = {"mr", "mrs", "ms", "miss", "dr"}
_LABEL = re.compile(r"\w+:")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")


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
    right = [[set(SPEAKER.findall(text)) for text in texts] for texts in targets]
    pairs = zip(map(SPEAKER.findall, predictions), right, strict=True)
    return np.array([float(set(found) in several) for found, several in pairs])


def faithful_names(predictions: Texts, dialogues: Texts) -> np.ndarray:
    """Compute the share of each prediction's names that occur in its dialogue, 1 if it has none.

    A name is a capitalized word (people, places, days) other than a title or a label before a
    colon. The first word of a sentence is a name only if it is not a stop word and no dialogue has
    it in lower case, so compare shares over the same dialogues only. The share is a precision.

    Raises ValueError if lengths differ.
    """
    _check_lengths("dialogues", dialogues, predictions)
    # bm25s starts JAX if it is installed, which would reserve most of the GPU's memory
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    ordinary = {word for text in dialogues for word in _WORD.findall(text) if word.islower()}
    ordinary.update(STOPWORDS_EN_PLUS)
    names = [_names(text, ordinary) for text in predictions]
    known = [{word.lower() for word in _words(text)} for text in dialogues]
    pairs = zip(names, known, strict=True)
    return np.array([1 - len(found - words) / max(1, len(found)) for found, words in pairs])


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
    check_texts("predictions", predictions)
    if len(texts) != len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions with {len(texts)} {name}: pass one for each prediction"
        )


def load_facts(folder: str | Path) -> dict[str, dict]:
    """Load the facts of a folder's dialogues by their ids, those of `utils.data.group_references`.

    Returns an empty dictionary if the folder has no facts.jsonl: only the small world has one.
    """
    file = Path(folder) / "facts.jsonl"
    if not file.is_file():
        return {}
    records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {record["id"]: record for record in records}


def facts(predictions: Texts, records: Sequence[Mapping]) -> pd.DataFrame:
    """Check each prediction against the facts of its dialogue; 1 is right, 0 is not.

    `records` are values of `load_facts`, one for each prediction. Columns:

    - who: the asker, the other speaker, the third speaker and the insulter are who they should be
    - what, outcome: the request and its outcome are told, and told correctly
    - when, why: the day and the reason are told, and told correctly
    - facts: who, what and outcome are right, and nothing else that is told is wrong
    - told: of the request, the outcome, the day, the reason, the third speaker and the insult, as
      far as the dialogue has them, the share that the prediction states correctly

    A cell is missing where the dialogue has no such fact, and `who` also where a text is in the
    first person. Only the small world's wordings are recognized, so a text that says the same in
    other words counts as wrong.

    Raises ValueError if lengths differ.
    """
    _check_lengths("records", records, predictions)
    if unlike := [i for i, record in enumerate(records) if "thing" not in record]:
        raise ValueError(f"records[{unlike[0]}] is not a dialogue's record from load_facts")
    return pd.DataFrame([_checked(*pair) for pair in zip(predictions, records, strict=True)])


_NAME = r"#Person\d#|\b[A-Z][a-z]*"
_REASON = re.compile(r"(?:\b(?:because|as|since|given that)|Why:) ([^.,]+)")
_INSULT = re.compile(
    rf"(?:(?P<by>{_NAME}) calls (?P<to>{_NAME}) an? |Insult: |got called an? )(?P<words>\w+ \w+)\."
)
_ANGER = re.compile(
    rf"(?P<by>{_NAME}) (?:gets angry|is upset|loses patience) with (?P<to>{_NAME})"
    r"|Mood: bad|lost their temper"
)
_DETAILS = {"when": "day", "why": "reason"}


def _checked(text: str, record: Mapping) -> dict[str, float]:
    request, _, rest = _at_thing(text, record["thing"])
    insult = _INSULT.search(rest) or _ANGER.search(rest)
    outcomes, thirds = _found("outcomes", rest), _found("thirds", rest)
    told = {
        "outcome": {key for _, key in outcomes},
        "third": {key for _, key in thirds},
        "day": set(re.findall(rf"\b(?:{any_of(wordings()['days'])})\b", text)),
        "reason": set(_REASON.findall(rest)),
    }
    right = {name: values == {record[name]} for name, values in told.items()}
    people = _right_people(request or rest, outcomes + thirds, insult, record)
    wrong = any(told[name] and not right[name] for name in ("third", "day", "reason"))
    wrong = wrong or (insult is not None and not _right_insult(insult, record["insult"]))
    row = {"who": np.nan if text.startswith("I ") else people}
    words = set(re.findall(r"\w+", re.sub(_NAME, " ", request)))
    usual = {*wordings()["requests"][record["topic"]], *wordings()["requests"]["any"], "I"}
    row |= {"what": bool(request) and words <= usual}
    row |= {name: right[key] if record[key] else np.nan for name, key in _DETAILS.items()}
    row |= {"outcome": right["outcome"]}
    row |= {"facts": people and row["what"] and row["outcome"] and not wrong}
    rest = [right[key] for key in ("day", "reason", "third") if record[key]]
    if record["insult"]:
        rest.append(insult is not None and _right_insult(insult, record["insult"]))
    row |= {"told": np.mean([row["what"], row["outcome"], *rest])}
    return {name: float(value) for name, value in row.items()}


def _at_thing(text: str, thing: str) -> tuple[str, str, str]:
    """Split a text at the thing that is asked for; if it is absent, all text is the rest."""
    ends = any_of(wordings()["request_ends"])
    found = re.search(rf"(?<!\w){re.escape(thing)}(?!\w)(?:{ends})?", text)
    return (text[: found.start()], thing, text[found.end() :]) if found else ("", "", text)


def _right_people(
    request: str, doings: list[tuple[str | None, str]], insult: re.Match | None, record: Mapping
) -> bool:
    """Return whether all people named in a text have the right roles; an initial "I" is allowed."""
    asker, other = (record[f"{role}_name"] or record[role] for role in ("asker", "other"))
    third = (record["third_name"] or "#Person3#") if record["third"] else None
    pairs = [(name, other if key in wordings()["outcomes"] else third) for name, key in doings]
    first, *others = re.findall(_NAME, request) or [None]
    pairs += [(first, "I" if request.startswith("I ") else asker)]
    pairs += [(name, other) for name in others[:1]]
    if insult and record["insult"]:
        roles = {"by": "insulter", "to": "insulted"}
        pairs += [(insult[told], record["insult"][role]) for told, role in roles.items()]
    return first is not None and all(a in (None, b) for a, b in pairs)


def _right_insult(told: re.Match, insult: Mapping | None) -> bool:
    """Return whether an insult is reported coolly, verbatim, or in equally strong words."""
    if insult is None or told.re is _ANGER:
        return insult is not None
    adjectives, nouns = wordings()["insults"][insult["strength"]]
    adjective, noun = told["words"].split()
    return told["words"] == insult["text"] or (adjective in adjectives and noun in nouns)


def _found(table: str, text: str) -> list[tuple[str | None, str]]:
    """For each wording in the text, return who does what: a name (None if not named) and a key."""
    keys = {said: key for key, several in wordings()[table].items() for said in several}
    before = rf"(?:Result: |there was |\. |(?P<who>{_NAME}):? )"
    found = re.finditer(rf"{before}(?P<said>{any_of(keys)})\b", text)
    return [(match["who"], keys[match["said"]]) for match in found]


def any_of(texts: Iterable[str]) -> str:
    """Return a regular expression that matches any of the texts, the longest first."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


@functools.cache
def wordings() -> dict:
    """Return how texts of the small world say the facts, by kind of fact."""
    return json.loads((OFFLINE / "data" / "wordings.json").read_text(encoding="utf-8"))
