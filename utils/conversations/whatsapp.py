"""Read turns from WhatsApp's exports, whatever the phone, the language and the date format."""

import re

from .turns import Conversation, Turn, clean

DATE = r"\d{1,4}\s?[-./年년]\s?\d{1,2}\s?[-./月월]\s?\d{1,4}(?:[.日일]|\sг\.)?"
WORD = r"[^\W\d_][^\d\n\[\]:–—-]{0,9}"  # am, pm, at, in any language
TIME = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?"
STAMP = rf"(?:{DATE}[,،\s]*(?:{WORD})?\s?{TIME}(?:\s?{WORD})?|{TIME}(?:\s?{WORD})?[,،\s]+{DATE})"
HEADER = re.compile(rf"(?:\[{STAMP}\]\s*|{STAMP}(?:\s[-–—]|:)\s)(?P<rest>.*)")
MESSAGE = re.compile(r"(?P<name>[^:\"“”„«»]{1,80}):(?:\s(?P<text>.*)|$)")
# In every language, iOS marks what no person wrote: "\u200eBild weggelassen", "Hi \u200e<edited>".
MARK, APP = "\u200e", "\x01"
BY_APP = re.compile(rf"^{APP}.*|\s?{APP}(<.*>|\S+(\s\S+){{0,2}})$|\s<[^<>]*\s[^<>]*>$")
NO_WORDS = re.compile(
    r"<[^<>]+>|\S[^()]*\.\w{2,4} \([^()]+\)|(image|video|audio|GIF|sticker|document) omitted"
    r"|null|(This message was|You) deleted( this message)?\.?|Missed (voice|video) call"
    r"|Messages .*end-to-end encr.*"
)


def is_export(text: str) -> bool:
    """Return whether a line of the text begins as a message of an export does."""
    headers = map(HEADER.match, map(clean, text.split("\n")))
    return any(header and MESSAGE.match(header["rest"]) for header in headers)


def read(text: str, place: str) -> Conversation:
    """Read the conversation of an export; messages without words or from the app are left out.

    Raises ValueError if the text does not begin with a message.
    """
    entries: list[tuple[str, list[str]]] = []  # a message of the app has no name
    for number, line in enumerate(text.split("\n"), start=1):
        header, marked = HEADER.match(clean(line)), clean(line.lstrip(MARK).replace(MARK, APP))
        said = marked.partition("]")[2].lstrip() if marked.startswith("[") else None
        message = header and MESSAGE.match(said or header["rest"])
        if message:
            said = BY_APP.sub("", message["text"] or "")
            said = "" if NO_WORDS.fullmatch(said) else said
            entries.append((message["name"].lstrip("~ "), [said]))
        elif header:
            entries.append(("", []))
        elif entries:
            entries[-1][1].append(BY_APP.sub("", marked))
        elif marked:
            raise ValueError(
                f"{place}, line {number} belongs to no message: {marked[:60]!r}. Remove what "
                "stands before the first message, or give --format text"
            )
    said = [Turn(name, clean(" ".join(lines).replace(APP, ""))) for name, lines in entries]
    turns = [turn for turn in said if turn.speaker and turn.text]
    return Conversation(place, turns, len(entries) - len(turns))
