"""Read your own conversations from files, and check whether a model knows their words."""

from __future__ import annotations

import codecs
import json
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from utils.conversations import slack, tables, text, whatsapp
from utils.conversations.turns import Conversation
from utils.settings import OFFLINE

FORMATS = ("text", "transcript", "jsonl", "json", "csv", "vtt", "srt", "whatsapp", "slack")
SUFFIXES = {name: name for name in ("jsonl", "json", "csv", "vtt", "srt")}
SUFFIXES |= {"tsv": "csv", "ndjson": "jsonl"}
CONVERT = ("doc", "docx", "odt", "pdf", "rtf", "htm", "html", "xls", "xlsx", "ods", "xml")
MARKS = {  # byte order marks; that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_dialogues(path: str, file_format: str | None = None) -> list[str]:
    """Read dialogues as `read_conversations` does, as texts with one turn on each line."""
    return [str(conversation) for conversation in read_conversations(path, file_format)]


def read_conversations(
    path: str, file_format: str | None = None, speakers: Sequence[str] = (), named: bool = True
) -> list[Conversation]:
    """Read the conversations of a file, of a folder or zip file, or of standard input for "-".

    By default, the format follows the file's extension and content: "text" (one turn on each line,
    a blank line between conversations), "transcript" (a text that is one conversation), "jsonl",
    "json", "csv", "vtt", "srt", "whatsapp" or "slack". `speakers` are all names of speakers, for a
    text that does not tell them. Unless `named`, turns need no speaker, and each line of a text is
    a turn.

    Raises OSError if the file cannot be read, and ValueError if its format or encoding is wrong, or
    it does not tell its turns and speakers; the message names the place and the remedy.
    """
    if path == "-":
        return parse_conversations(sys.stdin.buffer.read(), path, file_format, speakers, named)
    file = Path(path)
    if file.is_dir() or file.suffix.lower() == ".zip":
        files = _members(file)
        if chats := [name for name in files if name.endswith("_chat.txt")]:  # WhatsApp's, on iOS
            files = {name: files[name] for name in chats}
        if len(files) != 1 or file.is_dir():
            rows = {
                name: _json(files[name], f"{path}/{name}")
                for name in files
                if _suffix(name) == "json"
            }
            return slack.channels(rows, path, _users_near(file))
        ((name, content),) = files.items()
        return parse_conversations(content, f"{path}/{name}", file_format, speakers, named)
    users = _users_near(file) if _suffix(path) == "json" or file_format == "slack" else {}
    return parse_conversations(file.read_bytes(), path, file_format, speakers, named, users)


def parse_conversations(
    content: bytes,
    path: str,
    file_format: str | None = None,
    speakers: Sequence[str] = (),
    named: bool = True,
    users: Mapping[str, str] | None = None,
) -> list[Conversation]:
    """Read the conversations of a file's content, as `read_conversations` does."""
    suffix = _suffix(path)
    if file_format is None and suffix in CONVERT:
        raise ValueError(f"{path}: .{suffix} cannot be read: save it as text, or give --format")
    decoded = _decode(content, path)
    file_format = file_format or SUFFIXES.get(suffix) or format_of(decoded, path)
    if file_format in ("json", "jsonl", "csv", "slack"):
        rows = {"jsonl": tables.jsonl_rows, "csv": tables.csv_rows}.get(
            file_format, tables.json_rows
        )(decoded, path)
        found = tables.read(list(rows), path, speakers, named, users)
    elif file_format in ("vtt", "srt"):
        from utils.conversations import subtitles  # its library takes a while

        found = [subtitles.read(decoded, path, file_format, speakers, named)]
    elif file_format == "whatsapp":
        found = [whatsapp.read(decoded, path)]
    else:
        whole = {"transcript": True, "text": False}.get(file_format)
        found = text.read(decoded, path, speakers, named, whole)
    if found := [conversation for conversation in found if conversation.turns]:
        return found
    kind = "dialogue" if named else "text"
    raise ValueError(f"{path} holds no {kind}: write one turn on each line of the file")


def _suffix(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).suffix.removeprefix(".").lower()


def _decode(content: bytes, path: str) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark, and end all lines alike."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        decoded = content.decode(encoding)
    except UnicodeDecodeError as error:
        shown = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"{path} is not {shown} ({error}): save it with that encoding, such as UTF-8"
        ) from None
    if "\0" in decoded:
        raise ValueError(f"{path} is not a text in UTF-8 (it holds zero bytes): save it as one")
    return decoded.replace("\r\n", "\n").replace("\r", "\n")


def format_of(decoded: str, path: str) -> str | None:
    """Return the format of a text that shows it, or None for plain text."""
    if decoded.lstrip().startswith("WEBVTT"):
        return "vtt"
    if re.match(r"\s*\d+\n\d+:\d\d:\d\d[,.]\d+ *-->", decoded):
        return "srt"
    if whatsapp.is_export(decoded):
        return "whatsapp"
    if re.match(r"\s*(\[\s*)*[\[{]\s*[\"{\[]", decoded):
        raise ValueError(f"{path} looks like JSON: give --format json, jsonl or text")
    return None


def _members(path: Path) -> dict[str, bytes]:
    """Return what the files of a folder (its JSON) or a zip file (its texts) hold, by name."""
    if path.is_dir():
        return {
            file.relative_to(path).as_posix(): file.read_bytes()
            for file in sorted(path.rglob("*.json"))
        }
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if "__MACOSX" not in name)
            return {
                name: archive.read(name) for name in names if _suffix(name) in ("txt", *SUFFIXES)
            }
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: it has a password
        raise ValueError(
            f"{path} cannot be unpacked ({error}): unpack it, and name a file"
        ) from None


def _json(content: bytes, path: str) -> Any:
    return tables.parse_json(_decode(content, path), path, "export it again")


def _users_near(path: Path) -> dict[str, str]:
    """Return the names in the users.json of the Slack export that a path belongs to."""
    folders = (path, *path.resolve().parents[:2])
    file = next(
        (folder / "users.json" for folder in folders if (folder / "users.json").is_file()), None
    )
    return slack.user_names(_json(file.read_bytes(), str(file))) if file else {}


def check_words(texts: Sequence[str], model: str, limit: float = 0.2) -> None:
    """Raise ValueError if a model of the small world does not know a text's words.

    It does not if more than a share of `limit` of them are none that it was trained on. A model has
    the small world's vocabulary also after fine-tuning.
    """
    if _vocabulary(Path(model)) not in map(_vocabulary, (OFFLINE / "t5", OFFLINE / "judge")):
        return
    known = set((OFFLINE / "data" / "words.txt").read_text(encoding="utf-8").split())
    for number, said in enumerate(texts, start=1):
        words = re.findall(r"[^\W\d_]+", said.lower())
        share = sum(word not in known for word in words) / max(1, len(words))
        if share > limit:
            raise ValueError(
                f"text {number}: {share:.0%} of its words are unknown to the small world's model, "
                "which would only guess. Use the real models: choose the preset cpu or gpu"
            )


def _vocabulary(model: Path) -> int | None:
    """Return the number of tokens that the model of a folder knows."""
    file = model / "config.json"
    return json.loads(file.read_text(encoding="utf-8"))["vocab_size"] if file.is_file() else None
