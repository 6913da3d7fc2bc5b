"""Read your own dialogues from a file, check their words, and split those that are too long."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS = ("text", "jsonl", "csv")


def read_dialogues(path: str, file_format: str | None = None) -> list[str]:
    """Read the dialogues of a file, or of standard input for "-".

    `file_format` is "csv" (with a column dialogue), "jsonl" (one object with the key dialogue per
    line) or "text" (one turn per line, a blank line between dialogues). By default it follows the
    file's extension; a file with another extension is read as text.

    Raises OSError if the file cannot be read, and ValueError if its format or encoding is wrong, it
    has no dialogue, or a row has none; the message names the row.
    """
    text, suffix = _read_text(path), Path(path).suffix.removeprefix(".").lower()
    if file_format is None and suffix in ("json", "tsv", "xlsx", "docx", "pdf"):
        raise ValueError(
            f"{path}: .{suffix} is not one of {', '.join(FORMATS)}: convert it, or give --format"
        )
    read = {"csv": _from_csv, "jsonl": _from_jsonl}.get(file_format or suffix, _from_text)
    dialogues = [dialogue.strip() for dialogue in read(path, text)]
    if not dialogues:
        raise ValueError(f"{path} holds no dialogue: write one turn on each line of the file")
    if "" in dialogues:
        number = dialogues.index("") + 1
        raise ValueError(f"{path}: dialogue {number} is empty: fill it in, or remove the row")
    return dialogues


def read_lines(path: str) -> list[str]:
    """Read the lines of a file, or of standard input for "-", and skip blank lines.

    Raises OSError if the file cannot be read, and ValueError if it is not UTF-8 or holds no text.
    """
    lines = [line for line in _read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no text: write one on each line")
    return lines


def _read_text(path: str) -> str:
    """Read a UTF-8 file, with or without a byte order mark."""
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it with that encoding") from None


def _from_text(path: str, text: str) -> Iterator[str]:
    lines = [line if line.strip() else "" for line in text.splitlines()]
    return filter(None, "\n".join(lines).strip("\n").split("\n\n"))


def _from_csv(path: str, text: str) -> Iterator[str]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "dialogue" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has the columns {rows.fieldnames}: call one of them dialogue")
        yield from (row["dialogue"] or "" for row in rows)
    except csv.Error as error:
        place = f"{path}, after line {rows.line_num}"
        raise ValueError(f"{place}: this is not CSV ({error}): check its quotes") from None


def _from_jsonl(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} is not JSON ({error}): one object per line") from None
        if not isinstance(row, dict) or not isinstance(row.get("dialogue"), str):
            raise ValueError(f'{place} has no text under "dialogue"')
        if any("\ud800" <= character <= "\udfff" for character in row["dialogue"]):
            raise ValueError(f"{place} holds half a character (a lone surrogate): replace it")
        yield row["dialogue"]


def split_at_turns(dialogue: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[str]:
    """Split a dialogue between turns into the fewest parts whose prompts fit into `max_tokens`.

    Raises ValueError if a single turn is too long.
    """
    from utils.prompts import build_prompt, count_tokens

    parts: list[str] = []
    for turn in filter(str.strip, dialogue.splitlines()):
        longer = f"{parts[-1]}\n{turn}" if parts else turn
        if parts and count_tokens(tokenizer, build_prompt(longer)) <= max_tokens:
            parts[-1] = longer
        elif (tokens := count_tokens(tokenizer, build_prompt(turn))) <= max_tokens:
            parts.append(turn)
        else:
            raise ValueError(
                f"the turn {turn[:60]!r}… makes a prompt of {tokens} tokens, more than "
                f"max_prompt_tokens={max_tokens}: break it into lines, or raise the setting"
            )
    return parts


def check_words(texts: Sequence[str], known: Path, limit: float = 0.2) -> None:
    """Raise ValueError if more than a share of `limit` of a text's words are not in a file.

    `known` lists the words that the small world's models were trained on, in lower case.
    """
    words = set(known.read_text(encoding="utf-8").split())
    for number, text in enumerate(texts, start=1):
        said = re.findall(r"[^\W\d_]+", text.lower())
        share = sum(word not in words for word in said) / max(1, len(said))
        if share > limit:
            raise ValueError(
                f"text {number}: {share:.0%} of its words are unknown to the small world's model, "
                "which would only guess. Use the real models: choose the preset cpu or gpu"
            )
