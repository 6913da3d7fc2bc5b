"""The insulting words of the small world: those of its dialogues, and more that its judges know.

`tables.ADJECTIVES` and `tables.NOUNS` hold the words of dialogues, by strength and pool:

    train    in dialogues for training and validation; the first judge is trained on it
    blind    in dialogues for training and validation, but the first judge never sees it
    known    in dialogues for testing only; the first judge is trained on it
    unknown  in dialogues for testing only; the first judge never sees it

The pool "judges" adds words that are in no dialogue; both judges are trained on them. The second
judge is trained on all pools. An insult is an adjective and a noun of one strength and pool.
"""

from dataclasses import dataclass

from tools.small_world import tables

STRENGTHS = tables.STRENGTHS  # "rude", "mild", "harsh"
POOLS = (*tables.POOLS, "judges")
KNOWN_POOLS = ("train", "known", "judges")  # those that the first judge is trained on
_JUDGES = {
    "adjective": {
        "rude": "annoying messy shallow cheeky impolite ignorant weird immature nagging tiresome",
        "mild": "arrogant sneaky petty smug vain ridiculous absurd crazy conceited incompetent "
        "lousy cowardly vulgar pompous",
        "harsh": "ugly idiotic shameless heartless cruel dishonest awful terrible contemptible "
        "insane mindless wicked nasty vicious horrid hopeless corrupt",
    },
    "noun": {
        "rude": "goof amateur slacker tattletale spoilsport scatterbrain nerd whiner hothead",
        "mild": "dunce dork oaf klutz twerp airhead buffoon dummy wimp chump numbskull bonehead "
        "bungler weasel savage freeloader",
        "harsh": "jerk creep scoundrel traitor fraud hypocrite tyrant brute charlatan dirtbag "
        "scumbag halfwit cretin villain swine weirdo psychopath freak wretch bastard lunatic "
        "maggot",
    },
}


@dataclass(frozen=True)
class InsultWord:
    """One insulting word: its kind ("adjective" or "noun"), strength and pool."""

    word: str
    kind: str
    strength: str
    pool: str

    @property
    def known(self) -> bool:
        """Return whether the first judge is trained on the word."""
        return self.pool in KNOWN_POOLS


def _entries() -> list[InsultWord]:
    dialogues = {"adjective": tables.ADJECTIVES, "noun": tables.NOUNS}
    return [
        InsultWord(word, kind, strength, pool)
        for kind, table in dialogues.items()
        for strength in STRENGTHS
        for pool in POOLS
        for word in (table[strength] | {"judges": _JUDGES[kind][strength].split()})[pool]
    ]


WORDS = {entry.word: entry for entry in _entries()}


def insult_words(kind: str, pools: tuple[str, ...] = POOLS) -> tuple[str, ...]:
    """Return the words of a kind ("adjective" or "noun") in these pools, in the table's order."""
    return tuple(e.word for e in WORDS.values() if e.kind == kind and e.pool in pools)


def with_article(words: str) -> str:
    """Return the words with "a" or "an" before them."""
    vowel = words[0] in "aeiouAEIOU" and not words.startswith("use")
    return f"{'an' if vowel else 'a'} {words}"
