"""Facts, dialogues and summaries agree, in every form, and are the same for the same seed."""

import csv
import json
import random
import re
from itertools import pairwise

import pytest

from tools.small_world import corpus, tables
from tools.small_world.speech import write_dialogue
from tools.small_world.world import (
    ATTITUDES,
    FORMS,
    PRACTICE,
    SOURCES,
    TRAIN,
    Style,
    calm,
    draw_facts,
    draw_insult,
    heated_summaries,
    write_summary,
)


def draw(n: int, heated: bool | None = None, split: str = "train", seed: int = 0) -> list[tuple]:
    """Return facts and dialogues; `heated` None draws both kinds."""
    rng, drawn = random.Random(seed), []
    for i in range(n):
        facts = draw_facts(rng, i % 2 == 0 if heated is None else heated, SOURCES[split])
        drawn.append((facts, write_dialogue(facts, rng, SOURCES[split])))
    return drawn


DRAWN = draw(2_000)


def turns_of(dialogue: str, speaker: str) -> str:
    return "\n".join(turn for turn in dialogue.split("\n") if turn.startswith(f"{speaker}:"))


def test_a_dialogue_has_at_most_twenty_turns_and_two_or_three_speakers():
    for facts, dialogue in DRAWN:
        speakers = [turn.split(":")[0] for turn in dialogue.split("\n")]
        assert 3 <= len(speakers) <= 20
        expected = {"#Person1#", "#Person2#"} | ({"#Person3#"} if facts.third else set())
        assert set(speakers) == expected
        assert all(a != b for a, b in pairwise(speakers))


def test_every_fact_is_said_by_the_right_person():
    for facts, dialogue in DRAWN:
        asker = turns_of(dialogue, facts.asker).lower()
        assert facts.thing.lower() in asker
        for said in (facts.day, facts.reason and facts.reason[0], facts.other_name):
            assert said is None or said.lower().rstrip(".") in asker.lower()
        if facts.asker_name:
            assert facts.asker_name in dialogue
        if facts.third_name:
            assert facts.third_name in dialogue
        if facts.third:
            lines = tables.THIRDS[facts.third][0]
            assert any(line in turns_of(dialogue, "#Person3#") for line in lines)


def test_the_last_answer_is_the_outcome():
    for facts, dialogue in DRAWN:
        said = turns_of(dialogue, facts.other).lower()
        last = {
            key: max(said.rfind(line.partition("{name}")[0].lower()) for line, *_ in _lines(key))
            for key in tables.OUTCOMES
        }
        assert max(last, key=last.get) == facts.outcome


def _lines(outcome: str) -> list[tuple[str]]:
    return [(line,) for line in tables.OUTCOMES[outcome][0]]


def test_corrections_come_before_what_is_right():
    for facts, dialogue in DRAWN:
        text = dialogue.lower()
        for wrong, right in ((facts.wrong_day, facts.day), (facts.wrong_thing, facts.thing)):
            if wrong:
                assert text.find(wrong.lower()) < text.rfind(right.lower())


def test_an_insult_is_said_once_by_the_insulter():
    for facts, dialogue in DRAWN:
        if facts.insult:
            speaker = facts.asker if facts.insult.by_asker else facts.other
            assert dialogue.count(facts.insult.text) == 1
            assert facts.insult.text in turns_of(dialogue, speaker)


@pytest.mark.parametrize("form", FORMS)
def test_a_summary_tells_nothing_but_the_facts(form):
    """No corrected fact, no name of small talk, and no detail that the style leaves out."""
    rng = random.Random(1)
    for facts, _ in DRAWN[:500]:
        full = write_summary(facts, Style(form, insult="cool"), rng)
        short = write_summary(facts, Style(form, False, False, False, "cool"), rng)
        for wrong, right in ((facts.wrong_day, facts.day), (facts.wrong_thing, facts.thing)):
            # "shared flat" holds "flat"
            assert not wrong or not re.search(rf"\b{wrong}\b", full.replace(right, ""))
        names = set(re.findall(r"\b[A-Z][a-z]+\b", full)) & {
            name for names in tables.NAMES.values() for name in names
        }
        assert names <= {facts.asker_name, facts.other_name, facts.third_name}
        for told in (facts.day, facts.reason and facts.reason[1]):
            assert told is None or (told in full and told not in short)


def test_a_report_has_one_to_three_sentences():
    rng = random.Random(1)
    for facts, _ in DRAWN:
        assert 1 <= write_summary(facts, Style(), rng).count(".") <= 3


def test_forms_differ_and_notes_name_the_outcome():
    facts = next(facts for facts, _ in DRAWN if facts.day and facts.reason and not facts.insult)
    texts = [write_summary(facts, Style(form), random.Random(0)) for form in FORMS]
    assert len(set(texts)) == 3
    assert f"Result: {facts.outcome}." in texts[1]
    assert texts[2].startswith("I ")


def test_a_wording_is_preferred_with_its_loyalty():
    facts = DRAWN[0][0]
    rng = random.Random(0)
    loyal = {Style(loyalty=1.0).choose("yes", ("a", "b", "c"), rng) for _ in range(50)}
    free = {Style(loyalty=0.0).choose("yes", ("a", "b", "c"), rng) for _ in range(50)}
    assert len(loyal) == 1
    assert free == {"a", "b", "c"}
    others = {Style(wording=str(i)).wording for i in range(9)}
    first = {
        write_summary(calm(facts), Style(wording=w, loyalty=1.0), random.Random(0)) for w in others
    }
    assert len(first) > 1


def test_three_summaries_of_a_heated_dialogue_differ_in_the_insult_only():
    for facts, _ in draw(300, heated=True):
        summaries = heated_summaries(facts, random.Random(2))
        assert list(summaries) == list(ATTITUDES)
        assert facts.insult.text in summaries["quoting"]
        assert facts.insult.paraphrase in summaries["paraphrasing"]
        assert not set(facts.insult.words) & set(facts.insult.other_words)
        words = {*facts.insult.words, *facts.insult.other_words}
        assert not words & set(re.findall(r"\w+", summaries["cool"]))
        starts = {text.rsplit(f" {facts.insulter} ", 1)[0] for text in summaries.values()}
        assert len(starts) == 1


def test_a_calm_dialogue_has_no_heated_summaries():
    with pytest.raises(ValueError, match="no insult"):
        heated_summaries(draw_facts(random.Random(0), heated=False), random.Random(0))


def test_insulting_words_belong_to_one_pool_and_one_strength():
    words = [
        word
        for part in (tables.ADJECTIVES, tables.NOUNS)
        for pools in part.values()
        for pool in pools.values()
        for word in pool
    ]
    assert len(words) == len(set(words))
    adjectives = [w for pools in tables.ADJECTIVES.values() for p in pools.values() for w in p]
    assert not [word for word in adjectives if word[0] in "aeio"], "reports say: a …"


def test_test_dialogues_share_no_insulting_word_with_training():
    seen = {facts.insult.words for facts, _ in draw(3_000, True, "train")}
    told = {facts.insult.other_words for facts, _ in draw(3_000, True, "train")}
    trained = {word for pair in seen | told for word in pair}
    tested = [facts.insult for facts, _ in draw(2_000, True, "test")]
    assert not trained & {word for insult in tested for word in insult.words + insult.other_words}
    known = sum(insult.pool == "known" for insult in tested)
    assert 900 < known < 1_100
    assert {insult.pool for insult in tested} == {"known", "unknown"}


def test_names_of_validation_and_test_are_in_no_training_dialogue():
    lists = [set(names) for names in tables.NAMES.values()]
    assert sum(map(len, lists)) == len(set.union(*lists))
    assert all(names <= set(tables.NAMES["train"]) for names in map(set, TRAIN.names))


def test_there_are_thirty_kinds_of_request_and_more():
    assert len(tables.KINDS) >= 30
    topics = [kind.topic for kind in tables.KINDS]
    assert len(topics) == len(set(topics))
    for kind in tables.KINDS:
        assert len(set(kind.things)) == 8
        for frame in (*kind.requests, *kind.verbs, kind.diary):
            for thing in kind.things:
                text = frame.format(b="Anna", thing=thing)
                assert not re.search(r"\ba [aeiou]", text), text


def test_the_corpus_is_repeatable_and_beside_it_lie_its_facts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        corpus, "SPLITS", {"train": (30, 1), "validation": (10, 1), "test": (10, 3)}
    )
    for name in ("a", "b"):
        corpus.write_corpus(tmp_path / name, seed=5)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    with (tmp_path / "a" / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (tmp_path / "a" / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    everything = [json.loads(line) for line in lines]
    facts = [fact for fact in everything if fact["id"].startswith("test")]
    assert len(everything) == 30 + 10 + 10
    assert [row["id"] for row in rows[:3]] == ["test_0_1", "test_0_2", "test_0_3"]
    assert len(rows) == 3 * len(facts) == 30
    assert facts[0]["id"] == "test_0"
    assert facts[0]["thing"] in rows[0]["dialogue"] and facts[0]["thing"] in rows[0]["summary"]
    assert facts[0]["topic"] == rows[0]["topic"]
    other = corpus.make_rows("train", seed=6)[0]
    assert other != corpus.make_rows("train", seed=5)[0]


def test_practice_has_insults_that_hardly_ever_come_back_so_that_they_must_be_copied():
    rng = random.Random(0)
    drawn = [draw_insult(rng, PRACTICE).words for _ in range(2_000)]
    listed = {
        word
        for table in (tables.ADJECTIVES, tables.NOUNS)
        for pools in table.values()
        for pool in ("train", "blind")
        for word in pools[pool]
    }
    new = [word for words in drawn for word in words if word not in listed]
    assert 0.5 < len(new) / 4_000 < 0.7
    assert len(set(new)) > 0.9 * len(new)
    tested = {word for pools in tables.NOUNS.values() for word in pools["unknown"]}
    assert not tested & set(new)
