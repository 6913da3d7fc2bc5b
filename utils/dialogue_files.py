"""Dialogues of one's own: read from a file, and cut at their turns where they are longer than a prompt may be."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from utils.prompts import PLAIN, build_prompt, count_tokens

FORMATS = ("text", "jsonl", "csv")


def read_dialogues(path: str, file_format: str | None = None) -> list[str]:
    """The dialogues of a file, or of standard input for "-".

    `file_format` is "csv" (a column dialogue), "jsonl" (an object with "dialogue" on each line) or "text" (dialogues
    apart by blank lines, a turn on each line); by default the file's ending decides, and anything else is text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no dialogue, or a row without one; the message names the row.
    """
    text = read_text(path)
    ending = Path(path).suffix.removeprefix(".").lower()
    if file_format is None and ending in ("json", "tsv", "xlsx", "docx", "pdf"):
        raise ValueError(
            f"{path}: .{ending} is none of {', '.join(FORMATS)}: convert it, or say which it is with --format"
        )
    read = {"csv": _from_csv, "jsonl": _from_jsonl}.get(file_format or ending, _from_text)
    dialogues = [dialogue.strip() for dialogue in read(path, text)]
    if not dialogues:
        raise ValueError(
            f"{path} holds no dialogue: write a turn on each line, and a blank line between dialogues"
        )
    for number, dialogue in enumerate(dialogues, start=1):
        if not dialogue:
            raise ValueError(f"{path}: dialogue {number} is empty: write it, or take the row out")
    return dialogues


def read_text(path: str) -> str:
    """A file's text, or that of standard input for "-"; UTF-8, with or without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no UTF-8.
    """
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}): save it with that encoding") from None


def _from_text(path: str, text: str) -> Iterator[str]:
    lines = ["" if not line.strip() else line for line in text.splitlines()]
    return filter(None, "\n".join(lines).strip("\n").split("\n\n"))


def _from_csv(path: str, text: str) -> Iterator[str]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "dialogue" not in (rows.fieldnames or ()):
            raise ValueError(
                f"{path} has the columns {rows.fieldnames}: one must be called dialogue"
            )
        yield from (row["dialogue"] or "" for row in rows)
    except csv.Error as error:
        raise ValueError(
            f"{path} is no CSV after line {rows.line_num} ({error}): check its quotes"
        ) from None


def _from_jsonl(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}): write one object on each line"
            ) from None
        if not isinstance(row, dict) or not isinstance(row.get("dialogue"), str):
            raise ValueError(f'{path}, line {number} has no text under "dialogue"')
        if any("\ud800" <= sign <= "\udfff" for sign in row["dialogue"]):
            raise ValueError(
                f"{path}, line {number} holds half a character (a lone surrogate): write it anew"
            )
        yield row["dialogue"]


def split_at_turns(
    dialogue: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int, template: str = PLAIN
) -> list[str]:
    """Cut a dialogue into the fewest runs of whole turns whose prompts have at most `max_tokens`; a turn is a line.

    Raises:
        ValueError: a single turn is too long.
    """
    parts: list[list[str]] = []
    for turn in filter(str.strip, dialogue.splitlines()):
        longer = [*parts[-1], turn] if parts else [turn]
        if parts and _tokens(longer, tokenizer, template) <= max_tokens:
            parts[-1] = longer
        elif (tokens := _tokens([turn], tokenizer, template)) <= max_tokens:
            parts.append([turn])
        else:
            raise ValueError(
                f"the turn {turn[:60]!r}… makes a prompt of {tokens} tokens, over max_prompt_tokens={max_tokens}: "
                "break it into several lines, or raise the setting"
            )
    return ["\n".join(turns) for turns in parts]


def _tokens(turns: list[str], tokenizer: PreTrainedTokenizerBase, template: str) -> int:
    return count_tokens(tokenizer, build_prompt("\n".join(turns), template=template))
