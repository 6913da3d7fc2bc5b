"""Read turns from subtitles, with the speakers in voice tags or in front of what they say."""

import html
import io
import re
from collections.abc import Sequence
from itertools import groupby

from webvtt import WebVTT
from webvtt.errors import MalformedCaptionError, MalformedFileError

from .text import Line, assign, match_name, speaker_names
from .turns import Conversation, Turn, clean

VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")
TAG = re.compile(r"</?[a-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}", re.IGNORECASE)
SOUND = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|[♪♫].*[♪♫]|[♪♫]+")


def read(
    text: str, place: str, file_format: str, speakers: Sequence[str] = (), named: bool = True
) -> Conversation:
    """Read the conversation of a .vtt or .srt file; a name holds until the next one.

    Raises ValueError if the file is malformed, or if a cue's speaker is unclear.
    """
    try:
        cues = WebVTT.from_buffer(io.StringIO(text.strip() + "\n"), format=file_format).captions
    except (MalformedCaptionError, MalformedFileError) as error:
        raise ValueError(
            f"{place} cannot be read as .{file_format} ({error}): correct it"
        ) from None
    if len(cues) < (timed := len(re.findall(r"-->.*\n.*\S", text))):
        raise ValueError(f"{place}: cues to correct (wrong time or number): {timed - len(cues)}")
    spoken = [cue for cue in cues if clean(cue.text) and not SOUND.fullmatch(clean(cue.text))]
    lines = [line for cue in spoken for line in _lines(cue.raw_text, f"{place}, cue {cue.start}")]
    if not named:
        return Conversation(place, assign(lines, {}, named), len(cues) - len(spoken))
    for line in lines:
        if line.text[0] in "->–" and not line.speaker and not match_name(line.text):
            raise ValueError(
                f"{line.place}: {line.text[:60]!r} starts a turn without a name: add it"
            )
    turns = groupby(assign(lines, speaker_names(lines, speakers)), key=lambda turn: turn.speaker)
    joined = [Turn(name, " ".join(turn.text for turn in group)) for name, group in turns]
    return Conversation(place, joined, len(cues) - len(spoken))


def _lines(cue: str, place: str) -> list[Line]:
    """Split a cue where a voice or a name begins; its other lines continue the one before."""
    before, *voices = VOICE.split(cue)
    lines: list[Line] = []
    for text in filter(None, map(_plain, before.split("\n"))):
        if lines and text[0] not in "->–" and not match_name(text):
            text = f"{lines.pop().text} {text}"
        lines.append(Line(place, text))
    plain = list(map(_plain, voices))
    pairs = zip(plain[::2], plain[1::2], strict=True)
    return lines + [Line(place, text, name) for name, text in pairs if text]


def _plain(text: str) -> str:
    return clean(html.unescape(TAG.sub("", text)))
