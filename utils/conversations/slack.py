"""Read turns from Slack's exports: a channel's messages, with the names behind users' ids."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .turns import Conversation, Turn, clean

SPOKEN = (None, "me_message", "bot_message", "thread_broadcast", "file_share")
REFERENCE = re.compile(r"<(?P<kind>[@#!]?)(?P<target>[^<>|]*)(?:\|(?P<label>[^<>]*))?>")


def is_export(value: Any) -> bool:
    """Return whether a JSON value is a channel's list of messages."""
    return isinstance(value, list) and any(
        isinstance(row, dict) and "ts" in row and {"user", "subtype", "bot_id"} & row.keys()
        for row in value
    )


def user_names(users: Any) -> dict[str, str]:
    """Return the names behind the ids of users.json."""
    users = [user for user in users if isinstance(user, dict)] if isinstance(users, list) else []
    return {user["id"]: _name(user) for user in users if "id" in user and _name(user)}


def channels(files: Mapping[str, Any], path: str, users: Mapping[str, str]) -> list[Conversation]:
    """Read the conversation of each channel; `files` are the values of an export's JSON files.

    Raises ValueError if there is no channel with messages.
    """
    users, messages = dict(users), {}
    for name, value in files.items():
        folder, _, file = name.rpartition("/")
        if file == "users.json":
            users |= user_names(value)
        elif is_export(value):
            messages.setdefault(folder, []).extend(value)
    found = [read(own, f"{path}/{folder}".rstrip("/"), users) for folder, own in messages.items()]
    if not any(channel.turns for channel in found):
        raise ValueError(f"{path} is not a Slack export: choose a single file instead")
    return [channel for channel in found if channel.turns]


def read(
    messages: Sequence[Mapping[str, Any]], place: str, users: Mapping[str, str]
) -> Conversation:
    """Read a channel's conversation, with each thread's replies after its first message.

    Joins and other notices are left out. A user whose name is not found keeps the id.
    """
    names = dict(users)
    for message in messages:
        if profile := message.get("user_profile"):
            names[message.get("user")] = _name({"profile": profile}) or message.get("user")
    try:
        threads = [(float(m.get("thread_ts") or m["ts"]), float(m["ts"]), m) for m in messages]
        messages = [message for *_, message in sorted(threads, key=lambda thread: thread[:2])]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f'{place}: a message has no time under "ts": export it again') from None
    turns = []
    for message in messages:
        user, bot = message.get("user"), message.get("bot_profile") or {}
        speaker = names.get(user) or message.get("username") or bot.get("name") or user or ""
        text = REFERENCE.sub(lambda match: _shown(match, names), message.get("text") or "")
        text = clean(html.unescape(text))
        if text and speaker and message.get("subtype") in SPOKEN:
            turns.append(Turn(clean(speaker), text))
    return Conversation(place, turns, len(messages) - len(turns))


def _name(user: Mapping[str, Any]) -> str:
    """Return the name that Slack shows for a user."""
    profile = user.get("profile") or {}
    names = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"))
    return next(filter(None, (*names, profile.get("name"), user.get("name"))), "")


def _shown(match: re.Match, names: Mapping[str, str]) -> str:
    """Return a mention, a channel or a link as Slack shows it."""
    kind, target, label = match["kind"], match["target"], match["label"]
    if kind == "@":
        return f"@{names.get(target) or label or target}"
    if kind == "!":
        return label or f"@{target}"
    return f"{kind}{label or target}"
