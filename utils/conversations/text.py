"""Read turns from plain text: one turn on each line, with the speaker's name in front."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from .turns import Conversation, Turn, clean

TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?(?:\s?[ap]\.?\s?m\b\.?)?"
STAMP = rf"[\[(]?(?:\d{{1,4}}[-./]\d{{1,2}}[-./]\d{{1,4}}[,T\s]\s*)?{TIME}[\])]?"
BEFORE = rf"(?:[-*•–—]\s+|>+\s*|\d+[.)]\s+)?(?:{STAMP}[\s,|–-]*)?"  # a bullet, a time
NAME = r"(?=[^:：]*[^\W\d_]|\+?\d[\d ()-]{6})[^:：\n\t?!;\"“”„«»<>|]{1,60}?"
COLON = r"(?::(?!(?<=\d:)\d|//|\\|[)(DPp|/]+(?:\s|$))|：)"  # no time, address, path, emoticon
LABEL = re.compile(
    rf"{BEFORE}(?:<(?P<nick>[^<>\s]{{1,40}})>\s+"
    rf"|[*_\[]*(?P<name>{NAME})[*_\]]*\s*(?:{STAMP})?{COLON}[*_]*)\s*(?P<text>.*)",
    re.IGNORECASE,
)
PARTICLE = re.compile(r"al|and|bin|d[aeiu]|de[lnr]|[ey]|l[ae]|of|the|v[ao]n")
NO_NAME = re.compile(  # unless it recurs
    r"agenda|also|attendees|but|date|edit|example|fyi|important|location|no|note|ok(ay)?|p\.?s"
    r"|participants|please|problem|re|remember|result|so|subject|summary|time|tip|title|topic|update"
    r"|warning|well|yes"
)


class Line(NamedTuple):
    """A line: its place, its text, and its speaker if the format names one."""

    place: str
    text: str
    speaker: str = ""


def read(
    text: str,
    place: str,
    speakers: Sequence[str] = (),
    named: bool = True,
    whole: bool | None = None,
) -> list[Conversation]:
    """Read a text's conversations, separated by blank lines; a `whole` text is one conversation.

    `speakers` lists all names, if the text leaves them unclear. Unless `named`, each line is a
    turn without a speaker. Raises ValueError if a line's speaker is unclear, or if `whole` is None
    and blank lines separate all turns.
    """
    paragraphs: list[list[Line]] = [[]]
    for number, line in enumerate(text.split("\n"), start=1):
        if clean(line):
            paragraphs[-1].append(Line(f"{place}, line {number}", clean(line)))
        elif paragraphs[-1] and not whole:
            paragraphs.append([])
    paragraphs = [paragraph for paragraph in paragraphs if paragraph]
    if not named:
        return [Conversation(p[0].place, [Turn("", line.text) for line in p]) for p in paragraphs]
    names = speaker_names(list(chain(*paragraphs)), speakers)
    found = [Conversation(p[0].place, assign(p, names)) for p in paragraphs]
    if whole is None and len(found) > 1 and all(len(one.turns) == 1 for one in found):
        raise ValueError(
            f"{place}: every turn stands between blank lines. If the file is one conversation, "
            "add --format transcript to the command; if each turn is a dialogue, --format text"
        )
    return [conversation for conversation in found if conversation.turns]


def speaker_names(lines: Sequence[Line], speakers: Sequence[str] = ()) -> dict[str, str]:
    """Map each label in front of a line, in lower case, to its speaker; `speakers` are all names.

    Raises ValueError if it is unclear what is a name, or if one of `speakers` says nothing.
    """
    told = [(line, match_name(line.text)) for line in lines if not line.speaker]
    found = [(line, name) for line, name in told if name]
    tagged = dict.fromkeys(line.speaker for line in lines if line.speaker)
    counts = Counter(name.casefold() for name in [*tagged, *(name for _, name in found)])
    for name in speakers:
        if name.casefold() not in counts:
            raise ValueError(f'--speakers {name!r}: no line of the file begins with "{name}:"')
    if speakers:
        return {name.casefold(): name for name in speakers}
    capitals = any(not name[0].islower() for _, name in found)
    names, doubts = {}, []
    for line, name in found:
        unlike = name[0].islower() and capitals and (" " in name or line.text[0] in "-*•")
        usual = len(found) == len(told) and not unlike
        if (is_name := _is_name(name, counts[name.casefold()] > 1, usual)) is None:
            doubts.append(f'{line.place}: is "{name}" a speaker, or part of the text?')
        elif is_name:
            names.setdefault(name.casefold(), name)
    if doubts:
        known = " ".join(f'"{name}"' for name in [*tagged, *names.values()])
        raise ValueError(
            f"{doubts[0]} Change the line, or name all speakers in the command: --speakers {known}"
        )
    bare = {folded: re.sub(r"\s*\([^()]*\)$", "", folded) for folded in names}  # Anna (laughing)
    return {folded: names.get(bare[folded], name) for folded, name in names.items()}


def _is_name(name: str, recurs: bool, usual: bool) -> bool | None:
    """Return whether words in front of a colon are a name, or None if that is unclear.

    They are `usual` if every line begins with such words, and these look like the others.
    """
    capitals = [not word[0].islower() for word in name.split() if not PARTICLE.fullmatch(word)]
    if len(name.split()) > 4 and not all(capitals):
        return False  # a sentence
    if recurs:
        return True
    sure = usual or (any(capitals) and all(capitals))
    return True if sure and not NO_NAME.fullmatch(name.casefold().rstrip(".")) else None


def assign(lines: Sequence[Line], names: dict[str, str], named: bool = True) -> list[Turn]:
    """Give each line to its speaker; a line without a name continues the turn before it.

    Raises ValueError if `named`, and nobody has spoken before a line without a name.
    """
    turns: list[tuple[str, list[str]]] = []
    for line in lines:
        name, text = line.speaker, line.text
        if not name and (name := names.get(match_name(text).casefold(), "")):
            text = LABEL.match(text)["text"]
        if name or not (named or (turns and turns[-1][0])):
            turns.append((name, [text]))
        elif turns:
            turns[-1][1].append(text)
        else:
            raise ValueError(
                f"{line.place} has no speaker: {text[:60]!r}. Write the name and a colon in front "
                'of each turn, as in "Anna: Hello.", and remove lines that are not speech'
            )
    said = [Turn(name, " ".join(filter(None, texts))) for name, texts in turns]
    return [turn for turn in said if turn.text]


def match_name(text: str) -> str:
    """Return what may be a speaker's name in front of a line, or nothing."""
    match = LABEL.match(text)
    name = (match["nick"] or match["name"]).strip(" *_[]-–") if match else ""
    numbered = re.fullmatch(r"#Person(\d+)#?", name, re.IGNORECASE)  # DialogSum misspells some
    return f"#Person{numbered[1]}#" if numbered else name
