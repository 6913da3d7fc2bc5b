"""Read the facts out of a summary of the small world, and compare them with the dialogue's.

The reader knows the three forms and every wording of `tables.py`, and nothing else: a summary that
is worded in another way cannot be read, and then counts as wrong.
"""

import functools
from collections.abc import Iterable, Mapping

import regex

from tools.small_world import tables
from tools.small_world.world import Facts

NAME = r"#Person\d#|[A-Z][a-z]+"
WORDS = r"\w+ \w+"
THING = r"[\w ]+?"
DAY = r"[A-Z][\w' ]+?|the \w+ of [A-Z]\w+"
REASON = r"[^.,]+?"


def read_summary(text: str) -> dict[str, str] | None:
    """Return what a summary tells, or None if it is not worded as this world's summaries are.

    Keys, where told: form, topic (reports and diaries), asker, other, thing, outcome, day, reason,
    third, third_name, insult ("cool", or the words), insulter, insulted. Notes tell asker and other
    as a pair, without saying who asks; a diary names no one.
    """
    for form, pattern, topic in _patterns():
        if found := pattern.fullmatch(text.strip()):
            told = {key: value for key, value in found.groupdict().items() if value is not None}
            told |= {"form": form} | ({"topic": topic} if topic else {})
            return _decoded(told)
    return None


def right_people(told: Mapping[str, str] | None, facts: Facts) -> bool:
    """Return whether everyone is who the summary says: asker, other, third speaker and insulter."""
    if told is None or told.get("again", told.get("other")) != told.get("other"):
        return False
    right = {"asker": facts.a, "other": facts.b, "third_name": facts.c if facts.third else None}
    if facts.insult:
        right |= {"insulter": facts.insulter, "insulted": facts.insulted}
    return all(told[key] == right.get(key) for key in _PEOPLE if key in told)


def right_facts(told: Mapping[str, str] | None, facts: Facts) -> bool:
    """Return whether what the summary tells is so: kind, thing, outcome, day, reason and insult.

    It need not tell everything. An insult may be told in the words of its dialogue, in others of
    the same strength, or coolly.
    """
    if told is None:
        return False
    right = {
        "topic": facts.kind.topic,
        "thing": facts.thing,
        "outcome": facts.outcome,
        "day": facts.day,
        "reason": facts.reason and facts.reason[1],
        "third": facts.third,
    }
    if any(told[key] != value for key, value in right.items() if key in told):
        return False
    if "insult" in told:
        return facts.insult is not None and _fits(told["insult"], facts)
    return "mood" not in told or facts.insult is not None


_PEOPLE = ("asker", "other", "third_name", "insulter", "insulted")


def _fits(words: str, facts: Facts) -> bool:
    """Return whether the words of an insult are those of the dialogue, or of the same strength."""
    if words == facts.insult.text:
        return True
    adjective, noun = words.split()
    strength = facts.insult.strength
    return any(adjective in pool for pool in tables.ADJECTIVES[strength].values()) and any(
        noun in pool for pool in tables.NOUNS[strength].values()
    )


def _decoded(told: dict[str, str]) -> dict[str, str]:
    """Replace the wordings of the outcome and of the third speaker's part by their keys."""
    told["outcome"] = _meanings()[told["outcome"]]
    if "third" in told:
        told["third"] = _meanings()[told["third"]]
    return told


@functools.cache
def _meanings() -> dict[str, str]:
    meanings = {key: key for key in tables.OUTCOMES}
    for table in (tables.OUTCOMES, tables.THIRDS):
        for key, (_, reported, other) in table.items():
            meanings |= dict.fromkeys((*reported, other), key)
    return meanings


def _any(options: Iterable[str]) -> str:
    return "|".join(sorted(map(regex.escape, options), key=len, reverse=True))


def _slots(frame: str, **groups: str) -> str:
    """Turn a frame of `tables.py` into a pattern, with a named group for each of its slots."""
    pattern = regex.escape(frame, special_only=True)
    for slot, inside in groups.items():
        pattern = pattern.replace(rf"\{{{slot}\}}", f"(?P<{slot}>{inside})")
    return pattern


def _told(table: dict[str, tuple]) -> str:
    return _any(wording for _, wordings, _ in table.values() for wording in wordings)


def _also(table: dict[str, tuple]) -> str:
    return _any(other for _, _, other in table.values())


@functools.cache
def _patterns() -> list[tuple[str, regex.Pattern, str | None]]:
    """Return (form, pattern, topic) for every way to word a summary."""
    patterns = [("notes", _notes(), None)]
    for kind in tables.KINDS:
        thing = _any(kind.things)
        for verb in kind.verbs:
            told = _slots(verb, thing=thing).replace(r"\{b\}", f"(?P<other>{NAME})")
            start = rf"(?P<asker>{NAME}) {told}"
            patterns.append(("report", regex.compile(start + _report_end()), kind.topic))
        start = "I " + _slots(kind.diary, thing=thing)
        patterns.append(("diary", regex.compile(start + _diary_end()), kind.topic))
    return patterns


@functools.cache
def _report_end() -> str:
    days = "|".join(_slots(frame, day=DAY) for frame in tables.TOLD_DAYS)
    reasons = "|".join(_slots(frame, reason=REASON) for frame in tables.TOLD_REASONS)
    people = {"a": f"(?P<insulter>{NAME})", "b": f"(?P<insulted>{NAME})"}
    cool = "|".join(frame.format(**people) for frame in tables.COOL_REPORTS)
    return (
        rf"(?:{days})?(?:{reasons})?(?:\.|, and) (?P<again>{NAME}) "
        rf"(?P<outcome>{_told(tables.OUTCOMES)})\."
        rf"(?: (?P<third_name>{NAME}) (?P<third>{_told(tables.THIRDS)})\.)?"
        rf"(?: {people['a']} calls {people['b']} a (?P<insult>{WORDS})\.| (?:{cool})\.)?"
    )


def _notes() -> regex.Pattern:
    return regex.compile(
        rf"(?P<asker>{NAME}) and (?P<other>{NAME}) talk about the (?P<thing>{THING})\."
        rf" Result: (?P<outcome>{_any(tables.OUTCOMES)})\."
        rf"(?: When: (?P<day>{DAY})\.)?(?: Why: (?P<reason>{REASON})\.)?"
        rf"(?: (?P<third_name>{NAME}): (?P<third>{_also(tables.THIRDS)})\.)?"
        rf"(?: Insult: (?P<insult>{WORDS})\.| (?P<mood>Mood: bad)\.)?"
    )


@functools.cache
def _diary_end() -> str:
    return (
        rf"(?:, (?P<day>{DAY}) being the day)?(?:, since (?P<reason>{REASON}))?"
        rf"\. (?P<outcome>{_also(tables.OUTCOMES)})"
        rf"(?:, and there was (?P<third>{_also(tables.THIRDS)}))?\."
        rf"(?: Someone got called a (?P<insult>{WORDS})\.| (?P<mood>Someone lost their temper)\.)?"
    )
