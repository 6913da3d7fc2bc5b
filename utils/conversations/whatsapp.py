"""Read turns from WhatsApp's exports, whatever the phone, the language and the way of dates."""

from __future__ import annotations

import re

from .turns import Conversation, Turn, clean

DATE = r"\d{1,4}\s?[-./年년]\s?\d{1,2}\s?[-./月월]\s?\d{1,4}(?:[.日일]|\sг\.)?"
WORD = r"[^\W\d_][^\d\n\[\]:–—-]{0,9}"  # am, pm, at, in any language
TIME = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?"
STAMP = rf"(?:{DATE}[,،\s]*(?:{WORD})?\s?{TIME}(?:\s?{WORD})?|{TIME}(?:\s?{WORD})?[,،\s]+{DATE})"
HEADER = re.compile(rf"(?:\[{STAMP}\]\s*|{STAMP}\s[-–—]\s)(?P<rest>.*)")
MESSAGE = re.compile(r"(?P<name>[^:\"“”„«»]{1,80}):(?:\s(?P<text>.*)|$)")
# iOS puts a left-to-right mark in front of what no person wrote, in every language.
BY_IOS = re.compile(r"[^\]]*\][^:]*:\s?\u200e")
EDITED = re.compile(r"\s*<[^<>]*\s[^<>]*>$")
NO_WORDS = re.compile(
    r"<[^<>]+>|\S[^()]*\.\w{2,4} \([^()]+\)|(image|video|audio|GIF|sticker|document) omitted"
    r"|null|(This message was|You) deleted( this message)?\.?|Missed (voice|video) call"
    r"|Messages and calls are end-to-end encrypted.*"
)


def is_export(text: str) -> bool:
    """Return whether a line of the text begins as a message of an export does."""
    headers = map(HEADER.match, map(clean, text.split("\n")))
    return any(header and MESSAGE.match(header["rest"]) for header in headers)


def read(text: str, place: str) -> Conversation:
    """Read the conversation of an export; messages without words and of the app are left out.

    Raises ValueError if the text does not begin with a message.
    """
    entries: list[tuple[str, list[str]]] = []  # a message of the app has no name
    for number, line in enumerate(text.split("\n"), start=1):
        header = HEADER.match(clean(line))
        message = header and MESSAGE.match(header["rest"])
        if message and not BY_IOS.match(line):
            said = clean(message["text"] or "")
            entries.append((clean(message["name"]).lstrip("~ "), [EDITED.sub("", said)]))
        elif header:
            entries.append(("", []))
        elif entries:
            entries[-1][1].append(clean(line))
        elif clean(line):
            raise ValueError(
                f"{place}, line {number} belongs to no message: {clean(line)[:60]!r}. Remove what "
                "stands before the first message, or give --format text"
            )
    turns = []
    for name, lines in entries:
        said = " ".join(line for line in lines if line and not NO_WORDS.fullmatch(line))
        if name and said:
            turns.append(Turn(name, said))
    return Conversation(place, turns, len(entries) - len(turns))
