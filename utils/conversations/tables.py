"""Read turns from JSON, JSONL and CSV: each row is a turn, or a dialogue."""

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
SHAPES = 'write rows with "dialogue", or with "speaker" and "text"'
Row = tuple[str, Any]  # where it stands, and the value


def csv_rows(content: str, place: str) -> Iterator[Row]:
    """Read the rows of a CSV file, with commas, semicolons or tabs between its columns.

    Raises ValueError if it is not CSV, has no column of turns, or a row has too many cells.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    if content.startswith("sep="):  # Excel's own first line
        content = content.partition("\n")[2]
    content = content.lstrip("\n")
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
            yield where, parse_json(line, where, "write one object per line, or give --format json")


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
    if rows and _is_turn(rows[0][1]):
        return _turns(rows, place, named)
    found = []
    for where, row in rows:
        own = row
        if isinstance(row, dict):
            own = next((row[key] for key in DIALOGUE if key in row), None)
        if isinstance(own, list) and own and all(isinstance(line, str) for line in own):
            own = "\n".join(own)
        if isinstance(own, str) and own is not row:
            own = text.read(own, where, speakers, named, whole=True)
        elif isinstance(own, list):
            turns = [(f"{where}, turn {i}", turn) for i, turn in enumerate(own, start=1)]
            own = read(turns, where, speakers, named, users)
        else:
            raise ValueError(f"{where} is {repr(row)[:60]}: {SHAPES}")
        if not own:
            raise ValueError(f"{where} is empty: fill it in, or remove it")
        found += own
    return found


def _lower(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {str(key).strip().lower(): value for key, value in row.items()}


def _is_turn(row: Any) -> bool:
    """Return whether a row is a turn, which may name its dialogue under "dialogue"."""
    if not isinstance(row, dict) or not any(key in row for key in TEXT):
        return False
    inner = [row[key] for key in DIALOGUE if key in row]
    named = any(key in row for key in SPEAKER)
    return not any(isinstance(value, list) or not named or "\n" in str(value) for value in inner)


def _turns(rows: Sequence[Row], place: str, named: bool) -> list[Conversation]:
    """Read the turns of rows; rows with the same dialogue id belong together."""
    found: dict[str, Conversation] = {}
    for where, row in rows:
        if not _is_turn(row):
            raise ValueError(f"{where} is {repr(row)[:60]}, unlike the first: {SHAPES}")
        group = str(next((row[key] for key in GROUP if key in row), ""))
        own = found.setdefault(group, Conversation(f"{place}, {group}" if group else place, []))
        said, name = _value(row, TEXT, where), _value(row, SPEAKER, where)
        if isinstance(said, list):  # Telegram's formatted text
            said = "".join(part if isinstance(part, str) else part["text"] for part in said)
        name = clean(str(name)) if isinstance(name, str | int) else ""
        if not isinstance(said, str) or (clean(said) and named and not name):
            missing = "speaker" if isinstance(said, str) else "text"
            raise ValueError(f'{where} has no "{missing}": {SHAPES}')
        own.turns += [Turn(name, clean(said))] if clean(said) else []
        own.dropped += not clean(said)
    ids = [str(row["id"]) for _, row in rows if "id" in row]
    if len(found) == 1 < len(set(ids)) < len(ids):
        raise ValueError(f'{place}: rows share an "id": call it dialogue_id, or leave it out')
    return list(found.values())


def _value(row: Mapping[str, Any], keys: Sequence[str], place: str) -> Any:
    """Return the value under the first of the keys, or else under the only key that is present."""
    present = [key for key in keys if key in row]
    if len(present) > 1 and present[0] != keys[0]:
        raise ValueError(f'{place} has {" and ".join(present)}: call one of them "{keys[0]}"')
    return row[present[0]] if present else None
