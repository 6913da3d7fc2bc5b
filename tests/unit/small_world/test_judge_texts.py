"""The texts of the judges: graded, disjoint where they must be, and repeatable."""

import random
import re
from functools import cache
from itertools import combinations

import pytest

from tools.small_world.insults import WORDS
from tools.small_world.judge_texts import (
    FIRST,
    SECOND,
    JudgeText,
    _choose,
    _disturbed,
    _invented,
    compared,
    draw_texts,
    fill,
    filler,
    frames,
    insult_heat,
    plural,
    split_pairs,
    world_texts,
)

SECTIONS = ("first", "second", "development", "unseen", "orders")


def words_of(texts):
    return {word for text in texts for word in re.findall(r"[a-z]+", text.text.lower())}


@cache
def pattern(frame):
    """A pattern for all sentences that the choices and parts of a frame allow."""
    return re.compile(written(frame))


def written(text):
    tokens = re.findall(r"<\w+>|.", text)
    signs = {"[": "(?:", "]": ")", "|": "|"}
    return "".join(
        part(token[1:-1]) if len(token) > 1 else signs.get(token) or re.escape(token)
        for token in tokens
    )


@cache
def part(name):
    return f"(?:{written(frames()['fragments'][name])})"


@pytest.mark.parametrize(("one", "other"), combinations(SECTIONS, 2))
def test_no_frame_is_in_two_sections(one, other):
    one_frames, others = (
        [frame for bank in frames()[section].values() for frame in bank] for section in (one, other)
    )
    patterns = [pattern(frame) for frame in one_frames]
    assert not [frame for frame in others if any(p.fullmatch(frame) for p in patterns)]


def test_first_judge_never_reads_the_words_that_it_is_kept_from():
    kept = {word for word, entry in WORDS.items() if not entry.known}
    plurals = {plural(word) for word in kept if WORDS[word].kind == "noun"}
    read = words_of([*draw_texts(4000, 0, "first", FIRST), *world_texts(2000, 0)])
    assert not read & (kept | plurals)


def test_second_judge_reads_all_words():
    assert set(WORDS) <= words_of(draw_texts(8000, 0, "second", SECOND))


def test_pairs_are_split_into_training_and_measurement():
    training, held_out = split_pairs(held_out=False), split_pairs(held_out=True)
    assert not training & held_out
    assert len(held_out) / (len(held_out) + len(training)) == pytest.approx(0.2, abs=0.01)
    insults = [text.text.lower() for text in draw_texts(4000, 0, "first", FIRST) if text.insulting]
    assert not {pair for pair in held_out for text in insults if f" {' '.join(pair)}." in text}


def test_new_harmless_words_are_in_no_training_text():
    new = {*filler("adjectives", new=True), *filler("nouns", new=True)}
    assert not new & words_of(draw_texts(4000, 0, "first", FIRST))


def test_heat_grows_with_strength_and_number_of_insulting_words():
    assert insult_heat(["grumpy"]) == pytest.approx(0.25)
    heats = [insult_heat(words.split()) for words in ("nag", "lazy", "lazy clown", "liar")]
    assert heats == sorted(heats)
    assert heats[0] > 0.5 and heats[3] < insult_heat(["stupid", "liar"]) < 1


def test_rude_adjective_alone_is_no_insult_but_with_a_noun_it_is():
    assert not JudgeText("You are grumpy.", insult_heat(["grumpy"])).insulting
    assert JudgeText("You grumpy nag!", insult_heat(["grumpy", "nag"])).insulting


def test_same_frame_insults_with_insulting_words_only():
    texts = draw_texts(3000, 0, "first", FIRST)
    known = {word for word, entry in WORDS.items() if entry.known}
    known |= {plural(word) for word in known}
    known |= {compared(word, ending, "").strip() for word in known for ending in ("er", "est")}
    for text in texts:
        if text.insulting:
            assert words_of([text]) & known, text
    assert 0.35 < sum(text.insulting for text in texts) / len(texts) < 0.5


def test_frame_is_filled_with_articles_and_capitals():
    assert fill("You are {a_pair}!", random.Random(0), "ugly", "pig") == "You are an ugly pig!"
    assert fill("{Noun}! {A_adj} one.", random.Random(0), "ugly", "pig") == "Pig! An ugly one."
    assert fill("{nouns}", random.Random(0), "lazy", "thief") == "Thieves"


@pytest.mark.parametrize(
    ("adjective", "expected"),
    [("lazy", "laziest"), ("dumb", "dumbest"), ("vile", "vilest"), ("selfish", "most selfish")],
)
def test_short_adjectives_are_compared_by_their_ending(adjective, expected):
    assert compared(adjective, "est", "most") == expected


def test_refusals_are_marked_in_sentences_turns_and_summaries():
    texts = world_texts(600, 0)
    assert all(text.heat == 0.02 for text in texts)
    for text in texts:
        if re.search(r"\b(refuses|declines|says no|Result: no|turned me down)\b", text.text):
            assert text.refusal, text
        if re.search(r"\b(agrees|accepts|Result: yes|of course)\b", text.text):
            assert not text.refusal, text


def test_invented_words_are_none_of_the_tables():
    rng = random.Random(0)
    invented = {_invented(rng) for _ in range(3000)}
    nouns = {word for word, entry in WORDS.items() if entry.kind == "noun"}
    assert not invented & ({*WORDS} | {plural(noun) for noun in nouns})
    assert not invented & {*filler("adjectives"), *filler("nouns")}
    assert len(invented) > 2000


def test_every_part_of_a_frame_can_be_chosen():
    rng = random.Random(0)
    for section in ("first", "second"):
        for bank in frames()[section].values():
            for frame in bank:
                chosen = _choose(rng, frame)
                assert not set("<>[]|") & set(chosen), frame
                assert pattern(frame).fullmatch(chosen)


def test_words_that_decide_are_never_disturbed():
    rng = random.Random(0)
    for _ in range(200):
        words = _disturbed(rng, "Nobody thinks you are not {a_noun}.", most=4).split()
        assert [w for w in words if w in ("Nobody", "you", "are", "not", "{a_noun}.")] == [
            "Nobody",
            "you",
            "are",
            "not",
            "{a_noun}.",
        ]


def test_same_seed_draws_the_same_texts():
    assert draw_texts(50, 3, "first", FIRST) == draw_texts(50, 3, "first", FIRST)
    assert draw_texts(50, 3, "first", FIRST) != draw_texts(50, 4, "first", FIRST)
