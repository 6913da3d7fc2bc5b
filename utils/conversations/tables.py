"""Read turns from JSON, JSONL and CSV: each row is a turn, or a dialogue."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import slack, text
from .turns import Conversation, Turn, clean

DIALOGUE = ("dialogue", "dialog", "conversation", "conversations", "transcript", "turns")
DIALOGUE += ("messages", "utterances", "segments")
SPEAKER = ("speaker", "name", "author", "user", "username", "sender", "from", "role")
TEXT = ("text", "message", "content", "utterance", "body", "value")
GROUP = ("dialogue_id", "dialog_id", "conversation_id", "chat_id", "dialogue", "conversation")
SHAPES = 'rows with "dialogue", or with "speaker" and "text"'
Row = tuple[str, Any]  # where it stands, and the value


def csv_rows(content: str, place: str) -> Iterator[Row]:
    """Read the rows of a CSV file, with commas, semicolons or tabs between its columns.

    Raises ValueError if it is not CSV, has no column of turns, or a row has too many cells.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    if content.startswith("sep="):  # Excel's own first line
        content = content.partition("\n")[2]
    header = content.partition("\n")[0]
    between = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(content, newline=""), strict=True, delimiter=between)
    try:
        if not {*DIALOGUE, *TEXT} & {str(name).strip().lower() for name in rows.fieldnames or ()}:
            raise ValueError(
                f"{place} has the columns {rows.fieldnames}: call one of them dialogue, or two of "
                "them speaker and text"
            )
        for number, row in enumerate(rows, start=1):
            if None in row:
                where = f"{place}, row {number}"
                raise ValueError(f"{where} has more cells than the header: put texts in quotes")
            yield f"{place}, row {number}", row
    except csv.Error as error:
        after = f"{place}, after line {rows.line_num}"
        raise ValueError(f"{after}: this is not CSV ({error}): check its quotes") from None


def jsonl_rows(content: str, place: str) -> Iterator[Row]:
    """Read the lines of a JSONL file; raises ValueError if one is not JSON."""
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            where = f"{place}, line {number}"
            yield where, parse_json(line, where, "one object per line, or give --format json")


def json_rows(content: str, place: str) -> list[Row]:
    """Read the entries of a JSON file; raises ValueError if it is not JSON."""
    value = parse_json(content, place, "correct it, or give --format jsonl if each line is JSON")
    if not isinstance(value, list):
        return [(place, value)]
    return [(f"{place}, entry {number}", row) for number, row in enumerate(value, start=1)]


def parse_json(content: str, place: str, remedy: str) -> Any:
    """Parse JSON; raises ValueError with the place and the remedy if that is impossible."""
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} holds half a character (a lone surrogate): replace it") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}): {remedy}") from None
    return value


def read(
    rows: Sequence[Row],
    place: str,
    speakers: Sequence[str] = (),
    named: bool = True,
    users: Mapping[str, str] | None = None,
) -> list[Conversation]:
    """Read the conversations of rows; `users` are the names behind Slack's ids.

    Raises ValueError if a row's shape is unknown, or if it has no speaker (with `named`) or text.
    """
    if slack.is_export([row for _, row in rows]):
        return [slack.read([row for _, row in rows], place, users or {})]
    rows = [(where, _lower(row)) for where, row in rows]
    dialogues = [(where, _dialogue(row)) for where, row in rows]
    if rows and all(dialogue is None for _, dialogue in dialogues):
        return _turns(rows, place, named)
    found = []
    for where, dialogue in dialogues:
        if isinstance(dialogue, list) and any(isinstance(line, str) for line in dialogue):
            dialogue = "\n".join(map(str, dialogue))
        if isinstance(dialogue, str):
            own = text.read(dialogue, where, speakers, named, whole=True)
        elif isinstance(dialogue, list):
            inner = [(f"{where}, turn {i}", turn) for i, turn in enumerate(dialogue, start=1)]
            own = read(inner, where, speakers, named, users)
        else:
            raise ValueError(f'{where} has no text under "dialogue": write {SHAPES}')
        if not own:
            raise ValueError(f"{where} is empty: fill it in, or remove it")
        found += own
    return found


def _lower(row: Any) -> Any:
    """Return an object with its keys in lower case."""
    if not isinstance(row, dict):
        return row
    return {str(key).strip().lower(): value for key, value in row.items()}


def _dialogue(row: Any) -> Any:
    """Return the dialogue of a row, or None if the row is a turn."""
    if not isinstance(row, dict):
        return row if isinstance(row, list) else 0
    values = [row[key] for key in DIALOGUE if key in row]
    is_turn = any(key in row for key in TEXT) and any(key in row for key in SPEAKER)
    values = [v for v in values if isinstance(v, list) or not is_turn or "\n" in str(v)]
    return values[0] if values else None


def _turns(rows: Sequence[Row], place: str, named: bool) -> list[Conversation]:
    """Read the turns of rows; rows with the same id of a dialogue belong together."""
    found: dict[str, Conversation] = {}
    for where, row in rows:
        group = str(next((row[key] for key in GROUP if key in row), ""))
        own = found.setdefault(group, Conversation(f"{place}, {group}" if group else place, []))
        said, name = _value(row, TEXT, where), _value(row, SPEAKER, where)
        if isinstance(said, list):  # Telegram's formatted text
            said = "".join(part if isinstance(part, str) else part["text"] for part in said)
        if not isinstance(said, str):
            raise ValueError(f'{where} has no text under "text": write {SHAPES}')
        name = clean(str(name)) if isinstance(name, str | int) else ""
        if not clean(said):
            own.dropped += 1
        elif not name and named:
            raise ValueError(f'{where} has no "speaker": write {SHAPES}')
        else:
            own.turns.append(Turn(name, clean(said)))
    return [conversation for conversation in found.values() if conversation.turns]


def _value(row: Mapping[str, Any], keys: Sequence[str], place: str) -> Any:
    """Return the value under the first key, or under the only other one."""
    present = [key for key in keys if key in row]
    if len(present) > 1 and present[0] != keys[0]:
        raise ValueError(f'{place} has {" and ".join(present)}: call one of them "{keys[0]}"')
    return row[present[0]] if present else None
