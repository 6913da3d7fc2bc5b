"""The reader of summaries finds what was written, and objects to what is not so."""

import dataclasses
import random

import pytest

from tools.small_world.reading import read_summary, right_facts, right_people
from tools.small_world.tables import KINDS
from tools.small_world.world import (
    ATTITUDES,
    FORMS,
    Facts,
    Insult,
    Style,
    draw_facts,
    write_summary,
)

LADDER = next(kind for kind in KINDS if "ladder" in kind.things)
FACTS = Facts(LADDER, "ladder", "#Person1#", "yes", "Anna", day="Friday")


def test_reads_a_report():
    text = "Anna asks #Person2# for the ladder on Friday, and #Person2# agrees."
    assert read_summary(text) == {
        "form": "report",
        "topic": "borrow a tool",
        "asker": "Anna",
        "other": "#Person2#",
        "again": "#Person2#",
        "thing": "ladder",
        "day": "Friday",
        "outcome": "yes",
    }


@pytest.mark.parametrize("form", FORMS)
def test_reads_every_summary_that_the_world_writes(form):
    rng = random.Random(0)
    for i in range(1_500):
        facts = draw_facts(rng, heated=i % 3 == 0)
        told = {name: rng.random() < 0.5 for name in ("day", "reason", "third")}
        style = Style(form, **told, insult=rng.choice(ATTITUDES), loyalty=0.0)
        found = read_summary(write_summary(facts, style, rng))
        assert right_people(found, facts) and right_facts(found, facts)
        assert found["form"] == form and found["outcome"] == facts.outcome
        for name in told:
            assert (name in found) == (told[name] and getattr(facts, name) is not None)


@pytest.mark.parametrize(
    "text, people, facts",
    [
        ("Anna asks #Person2# for the ladder. #Person2# agrees.", True, True),
        ("Anna asks #Person2# for the saw. #Person2# agrees.", True, False),
        ("Anna asks #Person2# for the ladder. #Person2# refuses.", True, False),
        ("Anna asks #Person2# for the ladder on Monday. #Person2# agrees.", True, False),
        ("Anna asks #Person2# for the ladder because it rains. #Person2# agrees.", True, False),
        ("#Person2# asks Anna for the ladder. Anna agrees.", False, True),
        ("#Person1# asks #Person2# for the ladder. #Person2# agrees.", False, True),
        ("Anna asks #Person2# for the ladder. Anna agrees.", False, True),
        ("Anna asks #Person2# for the ladder. #Person2# agrees. #Person3# steps in.", False, False),
        ("Anna and #Person2# talk about the ladder. Result: yes. Mood: bad.", True, False),
        ("I asked for a loan of the ladder. They turned me down.", True, False),
        ("Anna needs a ladder.", False, False),
        ("", False, False),
    ],
)
def test_objects_to_what_is_not_so(text, people, facts):
    found = read_summary(text)
    assert (right_people(found, FACTS), right_facts(found, FACTS)) == (people, facts)


@pytest.mark.parametrize(
    "words, right",
    [("lazy fool", True), ("silly clown", True), ("foolish donkey", True), ("vile rat", False)],
)
def test_an_insult_may_be_told_in_words_of_the_same_strength(words, right):
    insult = Insult(("lazy", "fool"), ("silly", "clown"), "mild", "train", by_asker=True)
    facts = dataclasses.replace(FACTS, insult=insult)
    text = f"Anna asks #Person2# for the ladder. #Person2# agrees. Anna calls #Person2# a {words}."
    assert right_facts(read_summary(text), facts) == right
    assert right_people(read_summary(text), facts)
    swapped = text.replace("Anna calls #Person2#", "#Person2# calls Anna")
    assert not right_people(read_summary(swapped), facts)
