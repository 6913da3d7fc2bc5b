"""Generate everyday dialogues with their facts and summaries: the data of the small world.

A dialogue is one request between #Person1# and #Person2#. It may have a reason, a day, names, small
talk, corrections ("No, Tuesday."), a third speaker and an insult. The same facts can be summarized
in three forms:

    report   Anna asks #Person2# for the ladder on Friday because the roof leaks. #Person2# agrees.
    notes    Anna and #Person2# talk about the ladder. Result: yes. When: Friday. Why: the roof
             leaks.
    diary    I asked for a loan of the ladder, Friday being the day, since the roof leaks. They were
             glad to help.

Each form may leave out the day, the reason and the third speaker, and prefers some of several ways
to say things. The references of the data are reports that tell everything. A prompt that only
says "summarize" cannot tell a model which style to use. Worked examples can, and several examples
show more of the style than one: an example whose dialogue has no day does not show whether days
are told, and an example about a ladder does not show how a visit to the doctor is told.
"""

import dataclasses
import functools
import random
from dataclasses import dataclass
from typing import Any

from tools.small_world import tables

FORMS = ("report", "notes", "diary")
ATTITUDES = ("quoting", "paraphrasing", "cool")
HOUSE = "house"  # the wording that the references of the data prefer


@dataclass(frozen=True)
class Source:
    """Where the facts of a split come from: first names, and pools of insulting words."""

    names: tuple[tuple[str, ...], ...] = (tables.NAMES["train"],)  # each list equally often
    pools: tuple[str, ...] = ("train", "train", "train", "train", "blind")  # each equally often
    invented: float = 0.0  # share of names and insulting words that are made up


TRAIN = Source()
# Training from scratch also has words that occur only once. A model that never sees such words
# learns to recognize the names and insults of its training dialogues, not to copy what it reads.
PRACTICE = Source(invented=0.6)
SOURCES = {
    "train": TRAIN,
    "validation": Source((tables.NAMES["train"], tables.NAMES["validation"])),
    "test": Source((tables.NAMES["train"], tables.NAMES["test"]), ("known", "unknown")),
}


@dataclass(frozen=True)
class Insult:
    """An insult: its two words, two others of the same strength, and who insults whom."""

    words: tuple[str, str]  # adjective, noun
    other_words: tuple[str, str]
    strength: str  # one of tables.STRENGTHS
    pool: str  # one of tables.POOLS
    by_asker: bool

    @property
    def text(self) -> str:
        """Return the insult as the dialogue has it, such as "lazy fool"."""
        return " ".join(self.words)

    @property
    def paraphrase(self) -> str:
        """Return the insult in other words of the same strength."""
        return " ".join(self.other_words)


@dataclass(frozen=True)
class Facts:
    """The facts of one dialogue; a summary tells nothing else.

    `wrong_day`, `wrong_thing` and `first_outcome` hold what the dialogue corrects; no summary may
    tell it.
    """

    kind: tables.Kind
    thing: str
    asker: str  # "#Person1#" or "#Person2#"
    outcome: str  # a key of tables.OUTCOMES
    asker_name: str | None = None
    other_name: str | None = None
    day: str | None = None
    reason: tuple[str, str] | None = None  # as it is said, and as it is reported
    third: str | None = None  # what #Person3# does, a key of tables.THIRDS
    third_name: str | None = None
    wrong_day: str | None = None
    wrong_thing: str | None = None
    first_outcome: str | None = None
    insult: Insult | None = None

    @property
    def other(self) -> str:
        """Return the tag of the person who is asked."""
        return "#Person2#" if self.asker == "#Person1#" else "#Person1#"

    @property
    def a(self) -> str:
        """Return the asker as summaries call this person: by name if the dialogue has one."""
        return self.asker_name or self.asker

    @property
    def b(self) -> str:
        """Return the person who is asked, as summaries call this person."""
        return self.other_name or self.other

    @property
    def c(self) -> str:
        """Return the third speaker as summaries call this person."""
        return self.third_name or "#Person3#"

    @property
    def insulter(self) -> str:
        """Return who insults the other, as summaries call this person."""
        return self.a if self.insult.by_asker else self.b

    @property
    def insulted(self) -> str:
        """Return who is insulted, as summaries call this person."""
        return self.b if self.insult.by_asker else self.a

    def record(self) -> dict[str, Any]:
        """Return the facts as plain values, a line of facts.jsonl."""
        record = {
            "topic": self.kind.topic,
            "asker": self.asker,
            "other": self.other,
            "asker_name": self.asker_name,
            "other_name": self.other_name,
            "thing": self.thing,
            "day": self.day,
            "reason": self.reason and self.reason[1],
            "outcome": self.outcome,
            "third": self.third,
            "third_name": self.third_name,
            "wrong_day": self.wrong_day,
            "wrong_thing": self.wrong_thing,
            "first_outcome": self.first_outcome,
            "insult": None,
        }
        if self.insult:
            who = {"insulter": self.insulter, "insulted": self.insulted}
            words = {"text": self.insult.text, "paraphrase": self.insult.paraphrase}
            rated = {"strength": self.insult.strength, "pool": self.insult.pool}
            record["insult"] = words | rated | who
        return record


@dataclass(frozen=True)
class Style:
    """How a summary is written: its form, what it tells, and which of several wordings it prefers.

    `insult` says what happens to an insult: "quoting" repeats it, "paraphrasing" uses other words
    of the same strength, "cool" only reports the anger. `wording` names a preference, which is
    followed with probability `loyalty`.
    """

    form: str = "report"
    day: bool = True
    reason: bool = True
    third: bool = True
    insult: str = "quoting"
    wording: str = HOUSE
    loyalty: float = 0.65

    def choose(self, slot: str, options: tuple[str, ...], rng: random.Random) -> str:
        """Choose one of several wordings: the preferred one, or any."""
        if rng.random() < self.loyalty:
            return options[_preference(self.wording, slot, len(options))]
        return rng.choice(options)


@functools.lru_cache(maxsize=10_000)
def _preference(wording: str, slot: str, n: int) -> int:
    return random.Random(f"{wording}-{slot}").randrange(n)


def draw_facts(
    rng: random.Random, heated: bool, source: Source = TRAIN, kind: tables.Kind | None = None
) -> Facts:
    """Draw the facts of one dialogue; a heated dialogue has an insult, and no third speaker."""
    kind = kind or rng.choice(tables.KINDS)
    thing, wrong_thing = rng.sample(kind.things, 2)
    day, wrong_day = _draw_days(rng)
    outcome, first_outcome = rng.sample(sorted(tables.OUTCOMES), 2)
    names = draw_names(rng, 3, source)
    third = not heated and rng.random() < 0.3
    has_day = rng.random() < 0.55
    return Facts(
        kind=kind,
        thing=thing,
        asker=rng.choice(("#Person1#", "#Person2#")),
        outcome=outcome,
        asker_name=names[0] if rng.random() < 0.35 else None,
        other_name=names[1] if rng.random() < 0.35 else None,
        day=day if has_day else None,
        reason=_draw_reason(kind, rng) if rng.random() < 0.5 else None,
        third=rng.choice(sorted(tables.THIRDS)) if third else None,
        third_name=names[2] if third and rng.random() < 0.35 else None,
        wrong_day=wrong_day if has_day and rng.random() < 0.3 else None,
        wrong_thing=wrong_thing if rng.random() < 0.12 else None,
        first_outcome=first_outcome if rng.random() < 0.12 else None,
        insult=draw_insult(rng, source) if heated else None,
    )


def draw_names(rng: random.Random, n: int, source: Source = TRAIN) -> list[str]:
    """Draw `n` different first names."""
    names: list[str] = []
    while len(names) < n:
        name = rng.choice(rng.choice(source.names))
        if source.invented and rng.random() < source.invented:
            name = _invented(rng, tables.NAMES["train"])
        if name not in names:
            names.append(name)
    return names


def draw_insult(rng: random.Random, source: Source = TRAIN) -> Insult:
    """Draw an insult and its paraphrase: two pairs of words of the same strength and pool.

    The pool "blind" has one pair for each strength. Its paraphrase, and now and then that of a pair
    of "train", comes from the other of these two pools.
    """
    strength, pool = rng.choice(tables.STRENGTHS), rng.choice(source.pools)
    other_pool = pool
    if "blind" in source.pools:
        other_pool = "train" if pool == "blind" else rng.choice(source.pools)
    words = _draw_words(rng, strength, pool)
    if source.invented and rng.random() < source.invented:
        words = tuple(_invented(rng, _material()).lower() for _ in words)
    other_words = words
    while set(words) & set(other_words):
        other_words = _draw_words(rng, strength, other_pool)
    return Insult(words, other_words, strength, pool, by_asker=rng.random() < 0.5)


def _invented(rng: random.Random, words: tuple[str, ...]) -> str:
    """Make up a word from the first half of one word and the second half of another."""
    first, second = rng.sample(words, 2)
    return first[: (len(first) + 1) // 2] + second[len(second) // 2 :]


@functools.cache
def _material() -> tuple[str, ...]:
    """Return what insulting words are made up from: those of training, and as many names.

    Words made up from insulting words alone are too few, and a model learns to recognize them
    instead of copying: unseen insults then come out as known ones.
    """
    by_strength = (*tables.ADJECTIVES.values(), *tables.NOUNS.values())
    insulting = tuple(word for pools in by_strength for word in pools["train"])
    return insulting * (len(tables.NAMES["train"]) // len(insulting)) + tables.NAMES["train"]


def _draw_words(rng: random.Random, strength: str, pool: str) -> tuple[str, str]:
    return rng.choice(tables.ADJECTIVES[strength][pool]), rng.choice(tables.NOUNS[strength][pool])


def _draw_days(rng: random.Random) -> tuple[str, str]:
    """Draw a day, and another day of the same sort that could be mistaken for it."""
    sort = rng.random()
    if sort < 0.5:
        return tuple(rng.sample(tables.WEEKDAYS, 2))
    if sort < 0.65:
        return tuple(rng.sample(tables.FEASTS, 2))
    first, second = rng.sample(tables.ORDINALS, 2)
    month = rng.choice(tables.MONTHS)
    return f"the {first} of {month}", f"the {second} of {month}"


def _draw_reason(kind: tables.Kind, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.6:
        return rng.choice(kind.reasons)
    kin, state = rng.choice(tables.KIN), rng.choice(tables.STATES)
    return f"My {kin} {state}.", f"the {kin} {state}"


def write_summary(facts: Facts, style: Style, rng: random.Random) -> str:
    """Summarize the facts in a style, in one to three sentences (notes: up to five)."""
    return {"report": _report, "notes": _notes, "diary": _diary}[style.form](facts, style, rng)


def _report(facts: Facts, style: Style, rng: random.Random) -> str:
    verb = style.choose(facts.kind.topic, facts.kind.verbs, rng)
    text = f"{facts.a} {verb.format(b=facts.b, thing=facts.thing)}"
    if style.day and facts.day:
        text += style.choose("day", tables.TOLD_DAYS, rng).format(day=facts.day)
    if style.reason and facts.reason:
        told = style.choose("reason", tables.TOLD_REASONS, rng)
        text += told.format(reason=facts.reason[1])
    told = style.choose(facts.outcome, tables.OUTCOMES[facts.outcome][1], rng)
    text += rng.choice((". ", ". ", ", and ")) + f"{facts.b} {told}."
    if style.third and facts.third:
        text += f" {facts.c} {style.choose(facts.third, tables.THIRDS[facts.third][1], rng)}."
    return text + _insult(facts, style, rng, " {a} calls {b} a {words}.", None)


def _notes(facts: Facts, style: Style, rng: random.Random) -> str:
    text = f"{facts.a} and {facts.b} talk about the {facts.thing}. Result: {facts.outcome}."
    if style.day and facts.day:
        text += f" When: {facts.day}."
    if style.reason and facts.reason:
        text += f" Why: {facts.reason[1]}."
    if style.third and facts.third:
        text += f" {facts.c}: {tables.THIRDS[facts.third][2]}."
    return text + _insult(facts, style, rng, " Insult: {words}.", " Mood: bad.")


def _diary(facts: Facts, style: Style, rng: random.Random) -> str:
    text = f"I {facts.kind.diary.format(thing=facts.thing)}"
    if style.day and facts.day:
        text += f", {facts.day} being the day"
    if style.reason and facts.reason:
        text += f", since {facts.reason[1]}"
    text += f". {tables.OUTCOMES[facts.outcome][2]}"
    if style.third and facts.third:
        text += f", and there was {tables.THIRDS[facts.third][2]}"
    return (
        text
        + "."
        + _insult(
            facts, style, rng, " Someone got called a {words}.", " Someone lost their temper."
        )
    )


def _insult(facts: Facts, style: Style, rng: random.Random, told: str, cool: str | None) -> str:
    """Return the sentence about the insult, with a space in front, or nothing without an insult."""
    if not facts.insult:
        return ""
    a, b = facts.insulter, facts.insulted
    if style.insult == "cool":
        return cool or f" {style.choose('cool', tables.COOL_REPORTS, rng).format(a=a, b=b)}."
    words = facts.insult.text if style.insult == "quoting" else facts.insult.paraphrase
    return told.format(a=a, b=b, words=words)


def heated_summaries(facts: Facts, rng: random.Random) -> dict[str, str]:
    """Write a quoting, a paraphrasing and a cool report of a heated dialogue.

    They differ in the sentence about the insult only. Raises ValueError if there is no insult.
    """
    if not facts.insult:
        raise ValueError(f"no insult in the dialogue about {facts.thing!r}: draw a heated one")
    seed = rng.random()
    return {
        attitude: write_summary(facts, Style(insult=attitude), random.Random(seed))
        for attitude in ATTITUDES
    }


def calm(facts: Facts) -> Facts:
    """Return the same facts without the insult."""
    return dataclasses.replace(facts, insult=None)
