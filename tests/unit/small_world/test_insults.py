"""The table of insulting words."""

import pytest

from tools.small_world.insults import POOLS, STRENGTHS, WORDS, insult_words, with_article
from tools.small_world.tables import ADJECTIVES, NOUNS

KINDS = ("adjective", "noun")


def test_every_word_of_the_dialogues_is_in_the_table_once():
    spoken = [
        word
        for table in (ADJECTIVES, NOUNS)
        for pools in table.values()
        for words in pools.values()
        for word in words
    ]
    assert len(spoken) == len(set(spoken))
    assert set(spoken) == {word for word, entry in WORDS.items() if entry.pool != "judges"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", POOLS)
def test_every_strength_and_pool_has_words(kind, pool):
    words = insult_words(kind, (pool,))
    assert {WORDS[word].strength for word in words} == set(STRENGTHS)
    assert {(WORDS[word].kind, WORDS[word].pool) for word in words} == {(kind, pool)}


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
