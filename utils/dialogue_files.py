"""Read your own conversations from files, and check whether a model knows their words."""

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
SUFFIXES |= {"ndjson": "jsonl", "tsv": "csv"}
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
    "json", "csv", "vtt", "srt", "whatsapp" or "slack". `speakers` lists all speakers, if a text
    leaves them unclear. Unless `named`, turns need no speaker, and each line of a text is
    a turn.

    Raises OSError if the file cannot be read, and ValueError if its format or encoding is wrong, or
    its turns or speakers are unclear; the message names the place and the remedy.
    """
    file, users = Path(path), {}
    if path == "-":
        content = sys.stdin.buffer.read()
    elif file.is_dir() or file.suffix.lower() == ".zip":
        files = _files_in(file)
        if len(files) != 1 or file.is_dir():
            values = {name: _json(files[name], name) for name in files if name.endswith(".json")}
            return slack.channels(values, path, _slack_users(file))
        ((name, content),) = files.items()
        path = f"{path}/{name}"
    else:
        content = file.read_bytes()
        users = _slack_users(file) if file.suffix.lower() == ".json" else {}
    return parse_conversations(content, path, file_format, speakers, named, users)


def parse_conversations(
    content: bytes,
    path: str,
    file_format: str | None = None,
    speakers: Sequence[str] = (),
    named: bool = True,
    users: Mapping[str, str] | None = None,
) -> list[Conversation]:
    """Read the conversations of a file's content, as `read_conversations` does."""
    decoded = _decode(content, path)
    suffix = PurePosixPath(path.lower()).suffix.removeprefix(".")
    file_format = file_format or SUFFIXES.get(suffix) or format_of(decoded, path)
    options = {"speakers": speakers, "named": named}
    if file_format in ("json", "jsonl", "csv", "slack"):
        readers = {"jsonl": tables.jsonl_rows, "csv": tables.csv_rows}
        rows = readers.get(file_format, tables.json_rows)(decoded, path)
        found = tables.read(list(rows), path, **options, users=users)
    elif file_format in ("vtt", "srt"):
        from utils.conversations import subtitles  # importing its library takes a while

        found = [subtitles.read(decoded, path, file_format, **options)]
    elif file_format == "whatsapp":
        found = [whatsapp.read(decoded, path)]
    else:
        whole = {"transcript": True, "text": False}.get(file_format)
        found = text.read(decoded, path, **options, whole=whole)
    if found := [conversation for conversation in found if conversation.turns]:
        return found
    kind = "dialogue" if named else "text"
    raise ValueError(f'{path} holds no {kind}: write at least one turn, such as "Anna: Hello."')


def format_of(decoded: str, path: str) -> str | None:
    """Return the format of a text, None if it is plain; raises ValueError if it looks like JSON."""
    if decoded.lstrip().startswith("WEBVTT"):
        return "vtt"
    if re.match(r"\s*\d+\n\d+:\d\d:\d\d[,.]\d+ *-->", decoded):
        return "srt"
    if re.match(r"\s*(\[\s*)*[\[{]\s*[\"{\[]", decoded):
        raise ValueError(f"{path} looks like JSON: add --format json, jsonl or text to the command")
    return "whatsapp" if whatsapp.is_export(decoded) else None


def _decode(content: bytes, path: str) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte order mark, and normalize line endings."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8-sig")
    try:
        decoded = content.decode(encoding)
        if "\0" in decoded:
            raise ValueError("it contains null bytes")
    except ValueError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"{path} is not {name} ({error}): save it with that encoding, as text"
        ) from None
    return decoded.replace("\r\n", "\n").replace("\r", "\n")


def _files_in(path: Path) -> dict[str, bytes]:
    """Return the JSON files of a folder, or the files of a zip file that can be read, by name."""
    if path.is_dir():
        files = sorted(path.rglob("*.json"))
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    ends = (".txt", *(f".{suffix}" for suffix in SUFFIXES))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in sorted(archive.namelist()) if "__MACOSX" not in name]
            return {name: archive.read(name) for name in names if name.lower().endswith(ends)}
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: it has a password
        raise ValueError(f"{path} cannot be unpacked ({error}): unpack it yourself") from None


def _json(content: bytes, path: str) -> Any:
    return tables.parse_json(_decode(content, path), path, "export it again")


def _slack_users(path: Path) -> dict[str, str]:
    """Return the names in the users.json of the export that a folder or file belongs to."""
    for folder in (path, *path.resolve().parents[:2]):
        if (folder / "users.json").is_file():
            return slack.user_names(_json((folder / "users.json").read_bytes(), "users.json"))
    return {}


def is_of_small_world(model: str) -> bool:
    """Return whether a model has a small-world vocabulary, which fine-tuning does not change."""
    own = _vocabulary(Path(model))
    return own is not None and own in map(_vocabulary, (OFFLINE / "t5", OFFLINE / "judge"))


def _vocabulary(model: Path) -> int | None:
    """Return the number of tokens that the model in a folder knows."""
    file = model / "config.json"
    return json.loads(file.read_text(encoding="utf-8"))["vocab_size"] if file.is_file() else None


def check_words(texts: Sequence[str], model: str, limit: float = 0.2) -> None:
    """Raise ValueError if the share of a text's words unknown to a model exceeds `limit`.

    Only models of the small world are checked.
    """
    if not is_of_small_world(model):
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
