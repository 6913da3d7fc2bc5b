"""The table of insulting words."""

import pytest

from tools.small_world.insults import (
    ADJECTIVES,
    NOUNS,
    POOLS,
    STRENGTHS,
    WORDS,
    insult_words,
    with_article,
)


def test_no_word_stands_in_the_table_twice():
    listed = [
        word
        for table in (ADJECTIVES, NOUNS)
        for pools in table.values()
        for words in pools.values()
        for word in words
    ]
    assert len(listed) == len(set(listed)) == len(WORDS)


@pytest.mark.parametrize("kind", ["adjective", "noun"])
def test_every_strength_and_pool_has_words(kind):
    table = ADJECTIVES if kind == "adjective" else NOUNS
    assert set(table) == set(STRENGTHS)
    assert all(table[strength][pool] for strength in STRENGTHS for pool in POOLS)
    assert {WORDS[word].kind for word in insult_words(kind)} == {kind}


def test_first_judge_is_kept_from_the_blind_and_unknown_words_alone():
    kept = {word for word, entry in WORDS.items() if not entry.known}
    assert {"rude", "foolish", "snob", "donkey"} <= kept
    assert {WORDS[word].pool for word in kept} == {"blind", "unknown"}
    assert WORDS["clown"].known and WORDS["clown"].strength == "mild"


@pytest.mark.parametrize(
    ("words", "expected"),
    [("ugly pig", "an ugly pig"), ("useless fool", "a useless fool"), ("Italian", "an Italian")],
)
def test_article_follows_the_sound(words, expected):
    assert with_article(words) == expected
