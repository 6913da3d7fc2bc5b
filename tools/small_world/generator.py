"""Generate everyday dialogues with summaries in several styles: the data of the small world.

A dialogue is one request between #Person1# and #Person2#. It may have a reason, a day, names,
small talk and an insult. The same facts can be summarized in three styles:

    report   Anna asks #Person2# for the ladder on Friday because the roof leaks. #Person2# agrees.
    notes    Anna and #Person2# talk about the ladder. Result: yes. When: Friday. Why: the roof
             leaks.
    diary    I asked for a loan of the ladder, Friday being the day, since the roof leaks. They were
             glad to help.

Each style may leave out the day and the reason. The references of the data are reports with all
facts. A prompt that only says "summarize" cannot tell a model which style to use; worked examples
can, and several examples show more of the style than one (an example whose dialogue has no day
does not show whether days are reported).
"""

import dataclasses
import random
from dataclasses import dataclass

from tools.small_world import scenarios as tables

STYLES = ("report", "notes", "diary")
QUOTED_SHARE = 0.65  # share of summaries of heated dialogues that repeat the insult


@dataclass(frozen=True)
class Style:
    """How a summary is written: its form, and whether it reports the day and the reason.

    With `quote` it repeats an insult; without, it only reports the anger.
    """

    form: str = "report"
    day: bool = True
    reason: bool = True
    quote: bool = True


@dataclass(frozen=True)
class Facts:
    """The facts of one dialogue; a summary reports nothing else."""

    scenario: tables.Scenario
    thing: str
    asker: str  # "#Person1#" or "#Person2#"
    outcome: str
    asker_name: str | None
    other_name: str | None
    day: str | None
    reason: tuple[str, str] | None
    insult: tuple[str, str] | None
    insulter_is_asker: bool

    @property
    def other(self) -> str:
        """Return the tag of the person who is asked."""
        return "#Person2#" if self.asker == "#Person1#" else "#Person1#"


def draw_facts(rng: random.Random, heated: bool) -> Facts:
    """Draw the facts of one dialogue; a heated dialogue has an insult."""
    scenario = rng.choice(tables.SCENARIOS)
    asker_name, other_name = rng.sample(tables.NAMES, 2)
    return Facts(
        scenario=scenario,
        thing=rng.choice(scenario.things),
        asker=rng.choice(("#Person1#", "#Person2#")),
        outcome=rng.choice(("yes", "no", "maybe")),
        asker_name=asker_name if rng.random() < 0.3 else None,
        other_name=other_name if rng.random() < 0.3 else None,
        day=rng.choice(tables.DAYS) if rng.random() < 0.5 else None,
        reason=rng.choice(scenario.reasons) if rng.random() < 0.5 else None,
        insult=(rng.choice(tables.INSULT_ADJECTIVES), rng.choice(tables.INSULT_NOUNS))
        if heated
        else None,
        insulter_is_asker=rng.random() < 0.5,
    )


def write_dialogue(facts: Facts, rng: random.Random) -> str:
    """Write a dialogue with these facts, one turn per line."""
    turns = _opening(facts, rng)
    details = [_reason_turns(facts, rng), _day_turns(facts, rng)]
    rng.shuffle(details)
    talk = _small_talk(facts, rng)
    turns += (
        talk + details[0] + details[1] if rng.random() < 0.5 else details[0] + talk + details[1]
    )
    turns += _ending(facts, rng)
    return "\n".join(f"{speaker}: {line[0].upper()}{line[1:]}" for speaker, line in _joined(turns))


def write_summary(facts: Facts, style: Style, rng: random.Random) -> str:
    """Summarize the facts in a style; `rng` chooses among synonyms."""
    return {"report": _report, "notes": _notes, "diary": _diary}[style.form](facts, style, rng)


def make_rows(
    n: int, seed: int, split: str, heated_share: float, references: int = 1
) -> list[dict[str, str]]:
    """Generate `n` dialogues as rows in DialogSum's format, one row per reference.

    A row has the keys id, dialogue, summary and topic.
    """
    rng = random.Random(f"{split}-{seed}")
    rows = []
    for i in range(n):
        facts = draw_facts(rng, heated=rng.random() < heated_share)
        dialogue = write_dialogue(facts, rng)
        for k in range(references):
            name = f"{split}_{i}" if references == 1 else f"{split}_{i}_{k + 1}"
            style = Style(quote=rng.random() < QUOTED_SHARE)
            row = {"id": name, "dialogue": dialogue, "summary": write_summary(facts, style, rng)}
            rows.append(row | {"topic": facts.scenario.topic})
    return rows


def labeled_texts(n: int, seed: int, held_out: bool) -> list[tuple[str, int]]:
    """Generate texts with label 1 (an insult to a person) or 0 (no insult), half of each.

    Texts are turns, summaries, and harmless uses of the same words. One pair of insulting words in
    five is reserved for `held_out` texts; the other pairs are for training.
    """
    rng = random.Random(f"labeled-{seed}-{held_out}")
    pairs = [
        (a, b)
        for i, a in enumerate(tables.INSULT_ADJECTIVES)
        for j, b in enumerate(tables.INSULT_NOUNS)
        if ((i + j) % 5 == 0) == held_out
    ]
    return [
        (_insulting_text(rng, rng.choice(pairs)), 1) if i % 2 else (_harmless_text(rng), 0)
        for i in range(n)
    ]


def _insulting_text(rng: random.Random, insult: tuple[str, str]) -> str:
    facts = dataclasses.replace(draw_facts(rng, heated=True), insult=insult)
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(tables.INSULTS).format(adjective=insult[0], noun=insult[1])
    if kind < 0.4:
        turn = write_dialogue(facts, rng).split("\n")[-2]  # the second-to-last turn is the insult
        return turn.split(": ", 1)[1]
    return write_summary(
        facts, Style(rng.choice(STYLES), rng.random() < 0.5, rng.random() < 0.5, quote=True), rng
    )


def _harmless_text(rng: random.Random) -> str:
    facts = draw_facts(rng, heated=rng.random() < 0.5)
    adjective, noun = rng.choice(tables.INSULT_ADJECTIVES), rng.choice(tables.INSULT_NOUNS)
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(tables.HARMLESS).format(adjective=adjective, noun=noun, thing=facts.thing)
    if kind < 0.65:
        calm = dataclasses.replace(facts, insult=None)
        return rng.choice(write_dialogue(calm, rng).split("\n")).split(": ", 1)[1]
    return write_summary(
        facts, Style(rng.choice(STYLES), rng.random() < 0.5, rng.random() < 0.5, quote=False), rng
    )


def _opening(facts: Facts, rng: random.Random) -> list[tuple[str, str]]:
    hi = rng.choice(tables.GREETINGS)
    request = rng.choice(facts.scenario.requests).format(thing=facts.thing)
    named = f"{hi}, {facts.other_name}." if facts.other_name else f"{hi}."
    if facts.asker == "#Person1#":
        return [(facts.asker, f"{named} {request}")]
    opener = rng.choice(tables.OPENERS).format(hi=hi)
    return [
        (facts.other, opener),
        (facts.asker, f"{named} {request}" if facts.other_name else request),
    ]


def _reason_turns(facts: Facts, rng: random.Random) -> list[tuple[str, str]]:
    if not facts.reason:
        return []
    spoken = facts.reason[0]
    frame = rng.choice(tables.REASON)
    keep = spoken.startswith("I ") or not frame.startswith(("Well", "You", "To"))
    answer = frame.format(reason=spoken if keep else spoken[0].lower() + spoken[1:])
    return [(facts.other, rng.choice(tables.ASK_WHY)), (facts.asker, answer)]


def _day_turns(facts: Facts, rng: random.Random) -> list[tuple[str, str]]:
    if not facts.day:
        return []
    return [
        (facts.other, rng.choice(tables.ASK_WHEN)),
        (facts.asker, rng.choice(tables.WHEN).format(day=facts.day)),
    ]


def _small_talk(facts: Facts, rng: random.Random) -> list[tuple[str, str]]:
    if rng.random() < 0.6:
        return []
    line, reply = rng.choice(tables.SMALL_TALK)
    return [(facts.other, line), (facts.asker, reply)]


def _ending(facts: Facts, rng: random.Random) -> list[tuple[str, str]]:
    name = f", {facts.asker_name}" if facts.asker_name else ""
    turns = [(facts.other, rng.choice(tables.OUTCOMES[facts.outcome][0]).format(name=name))]
    if not facts.insult:
        return [*turns, (facts.asker, rng.choice(tables.CLOSINGS[facts.outcome]))]
    adjective, noun = facts.insult
    insult = rng.choice(tables.INSULTS).format(adjective=adjective, noun=noun)
    insulter, insulted = (
        (facts.asker, facts.other) if facts.insulter_is_asker else (facts.other, facts.asker)
    )
    return [*turns, (insulter, insult), (insulted, rng.choice(tables.INSULT_REPLIES))]


def _joined(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Merge consecutive turns of the same speaker."""
    merged: list[tuple[str, str]] = []
    for speaker, line in turns:
        if merged and merged[-1][0] == speaker:
            merged[-1] = (speaker, f"{merged[-1][1]} {line}")
        else:
            merged.append((speaker, line))
    return merged


def _report(facts: Facts, style: Style, rng: random.Random) -> str:
    a, b = facts.asker_name or facts.asker, facts.other_name or facts.other
    text = f"{a} {rng.choice(facts.scenario.verbs).format(b=b, thing=facts.thing)}"
    if style.day and facts.day:
        text += f" on {facts.day}"
    if style.reason and facts.reason:
        text += f" because {facts.reason[1]}"
    text += f". {b} {rng.choice(tables.OUTCOMES[facts.outcome][1])}."
    if facts.insult:
        insulter, insulted = (a, b) if facts.insulter_is_asker else (b, a)
        cool = rng.choice(tables.COOL_REPORTS).format(a=insulter, b=insulted)
        text += (
            f" {insulter} calls {insulted} a {' '.join(facts.insult)}."
            if style.quote
            else f" {cool}."
        )
    return text


def _notes(facts: Facts, style: Style, rng: random.Random) -> str:
    a, b = facts.asker_name or facts.asker, facts.other_name or facts.other
    text = f"{a} and {b} talk about the {facts.thing}. Result: {facts.outcome}."
    if style.day and facts.day:
        text += f" When: {facts.day}."
    if style.reason and facts.reason:
        text += f" Why: {facts.reason[1]}."
    if facts.insult:
        text += f" Insult: {' '.join(facts.insult)}." if style.quote else " Mood: bad."
    return text


def _diary(facts: Facts, style: Style, rng: random.Random) -> str:
    text = f"I {facts.scenario.diary.format(thing=facts.thing)}"
    if style.day and facts.day:
        text += f", {facts.day} being the day"
    if style.reason and facts.reason:
        text += f", since {facts.reason[1]}"
    text += f". {tables.OUTCOMES[facts.outcome][2]}."
    if facts.insult:
        text += (
            f" Someone got called a {' '.join(facts.insult)}."
            if style.quote
            else " Someone lost their temper."
        )
    return text
