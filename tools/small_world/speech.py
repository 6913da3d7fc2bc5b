"""Write the dialogues of the small world: what is said, given the facts."""

import random

from tools.small_world import tables
from tools.small_world.world import TRAIN, Facts, Source, draw_names

Turns = list[tuple[str, str]]
MOST_TURNS = 20
TALKS = (0.4, 0.35, 0.15, 0.1)  # shares of dialogues with 0, 1, 2 and 3 pieces of small talk


def write_dialogue(facts: Facts, rng: random.Random, source: Source = TRAIN) -> str:
    """Write a dialogue with these facts, one turn per line, at most 20 turns.

    `source` gives the names that small talk mentions.
    """
    while True:
        parts = [_reason(facts, rng), _day(facts, rng), *_small_talk(facts, rng, source)]
        rng.shuffle(parts)
        third = _third(facts, rng)
        middle = [turn for part in parts for turn in part]
        turns = _joined(_opening(facts, rng) + middle + third + _ending(facts, rng))
        if len(turns) <= MOST_TURNS:
            return "\n".join(f"{who}: {line[0].upper()}{line[1:]}" for who, line in turns)


def _opening(facts: Facts, rng: random.Random) -> Turns:
    """Greet and ask; the request may name the wrong thing first."""
    hi = rng.choice(tables.GREETINGS)
    asked = rng.choice(facts.kind.requests).format(thing=facts.wrong_thing or facts.thing)
    named = f"{hi}, {facts.other_name}." if facts.other_name else f"{hi}."
    introduced = facts.asker_name and rng.random() < 0.3
    if introduced:
        named += " " + rng.choice(tables.INTRODUCTIONS).format(name=facts.asker_name)
    turns = [(facts.asker, f"{named} {asked}")]
    if facts.asker == "#Person2#":
        opener = rng.choice(tables.OPENERS).format(hi=hi)
        greets = facts.other_name or introduced
        turns = [(facts.other, opener), (facts.asker, f"{named} {asked}" if greets else asked)]
    if facts.wrong_thing:
        turns += _correction(facts, rng, tables.OTHER_THING, facts.thing, facts.wrong_thing)
    return turns


def _correction(facts: Facts, rng: random.Random, frames: tuple, right: str, wrong: str) -> Turns:
    doubt, answer = rng.choice(frames)
    words = {"day": right, "thing": right, "wrong": wrong}
    return [(facts.other, doubt.format(**words)), (facts.asker, answer.format(**words))]


def _reason(facts: Facts, rng: random.Random) -> Turns:
    if not facts.reason:
        return []
    spoken = facts.reason[0]
    frame = rng.choice(tables.REASON)
    keep = spoken.startswith("I ") or frame == "{reason}"
    answer = frame.format(reason=spoken if keep else spoken[0].lower() + spoken[1:])
    return [(facts.other, rng.choice(tables.ASK_WHY)), (facts.asker, answer)]


def _day(facts: Facts, rng: random.Random) -> Turns:
    """Ask for the day, and tell it; the wrong day may come first."""
    if not facts.day:
        return []
    first = facts.wrong_day or facts.day
    turns = [
        (facts.other, rng.choice(tables.ASK_WHEN)),
        (facts.asker, rng.choice(tables.WHEN).format(day=first)),
    ]
    if facts.wrong_day:
        turns += _correction(facts, rng, tables.OTHER_DAY, facts.day, facts.wrong_day)
    return turns


def _small_talk(facts: Facts, rng: random.Random, source: Source) -> list[Turns]:
    """Write up to three exchanges; the names and days in them belong to no fact."""
    count = rng.choices(range(len(TALKS)), TALKS)[0]
    taken = {facts.asker_name, facts.other_name, facts.third_name}
    talks = []
    for line, reply in rng.sample(tables.SMALL_TALK, count):
        name = next(name for name in draw_names(rng, 4, source) if name not in taken)
        words = {"name": name, "day": rng.choice(tables.WEEKDAYS)}
        pair = (facts.other, facts.asker) if rng.random() < 0.5 else (facts.asker, facts.other)
        talks.append([(pair[0], line.format(**words)), (pair[1], reply.format(**words))])
    return talks


def _third(facts: Facts, rng: random.Random) -> Turns:
    """Let #Person3# break in; the name, if any, is said by one of the others or by #Person3#."""
    if not facts.third:
        return []
    line = rng.choice(tables.THIRDS[facts.third][0])
    enters = rng.choice(tables.THIRD_ENTERS)
    if not facts.third_name:
        return [("#Person3#", f"{enters} {line}")]
    if rng.random() < 0.4:
        introduction = rng.choice(tables.INTRODUCTIONS).format(name=facts.third_name)
        return [("#Person3#", f"{enters} {introduction} {line}")]
    reply = rng.choice(tables.THIRD_REPLY).format(name=facts.third_name)
    return [("#Person3#", f"{enters} {line}"), (facts.asker, reply)]


def _ending(facts: Facts, rng: random.Random) -> Turns:
    """Answer the request, perhaps after a first answer that is taken back, and say goodbye."""
    name = f", {facts.asker_name}" if facts.asker_name else ""
    line = rng.choice(tables.OUTCOMES[facts.outcome][0]).format(name=name)
    turns: Turns = []
    if facts.first_outcome:
        first = rng.choice(tables.OUTCOMES[facts.first_outcome][0]).format(name="")
        turns += [(facts.other, first), (facts.asker, rng.choice(tables.CHANGE_OF_MIND))]
        line = rng.choice(tables.SECOND_THOUGHT).format(line=line)
    turns.append((facts.other, line))
    if facts.insult:
        return turns + _quarrel(facts, rng)
    turns.append((facts.asker, rng.choice(tables.CLOSINGS[facts.outcome])))
    if rng.random() < 0.2:
        bye, answer = rng.choice(tables.GOODBYES)
        turns += [(facts.other, bye), (facts.asker, answer)]
    return turns


def _quarrel(facts: Facts, rng: random.Random) -> Turns:
    adjective, noun = facts.insult.words
    line = rng.choice(tables.INSULTS).format(adjective=adjective, noun=noun)
    pair = (facts.asker, facts.other) if facts.insult.by_asker else (facts.other, facts.asker)
    return [(pair[0], line), (pair[1], rng.choice(tables.INSULT_REPLIES))]


def _joined(turns: Turns) -> Turns:
    """Merge consecutive turns of the same speaker."""
    merged: Turns = []
    for speaker, line in turns:
        if merged and merged[-1][0] == speaker:
            merged[-1] = (speaker, f"{merged[-1][1]} {line}")
        else:
            merged.append((speaker, line))
    return merged
