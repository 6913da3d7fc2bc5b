"""The insulting words of the small world, in one table that every part of it imports.

A word is mild or harsh, and belongs to one pool:

    train    in dialogues for training and validation; the first judge is trained on it
    blind    in summaries and dialogues for training, but the first judge is kept from it
    known    in dialogues for testing only; the first judge is trained on it
    unknown  in dialogues for testing only; the first judge is kept from it
    judges   in no dialogue; widens what both judges know

The second judge is trained on all of them. An insult is an adjective and a noun of one strength and
pool, such as ("lazy", "clown").
"""

from dataclasses import dataclass

STRENGTHS = ("mild", "harsh")
POOLS = ("train", "blind", "known", "unknown", "judges")
KNOWN_POOLS = ("train", "known", "judges")  # those that the first judge is trained on

_ADJECTIVES = {
    "mild": {
        "train": "lazy silly clumsy greedy childish careless bossy grumpy sloppy selfish nosy",
        "blind": "rude foolish",
        "known": "sneaky arrogant boastful lousy whiny cranky",
        "unknown": "petty smug vain tactless dopey gutless",
        "judges": "annoying moody messy noisy fussy pushy vulgar shallow conceited immature "
        "stubborn pompous absurd weird crazy ignorant impolite ridiculous boring clueless",
    },
    "harsh": {
        "train": "stupid useless pathetic worthless dumb horrid disgusting hopeless filthy rotten",
        "blind": "wicked",
        "known": "ugly repulsive witless brutish wretched",
        "unknown": "vile spineless nasty vicious loathsome",
        "judges": "incompetent idiotic moronic brainless shameless heartless cruel hateful "
        "dishonest awful terrible contemptible insane mindless despicable corrupt",
    },
}
_NOUNS = {
    "mild": {
        "train": "fool clown blockhead slob coward dummy wimp crybaby nuisance brat pest nag",
        "blind": "snob donkey",
        "known": "nitwit dunce bungler weasel grouch busybody",
        "unknown": "twerp airhead buffoon oaf klutz loafer",
        "judges": "scatterbrain tattletale killjoy grump dimwit dork nerd windbag chump numbskull "
        "hothead amateur savage spoilsport goof bonehead slacker chatterbox braggart",
    },
    "harsh": {
        "train": "liar cheat crook idiot moron jerk loser thief creep scoundrel",
        "blind": "swine",
        "known": "imbecile traitor pig fraud hypocrite",
        "unknown": "leech brute bully charlatan tyrant",
        "judges": "dirtbag scumbag monster parasite halfwit cretin villain snake rat weirdo "
        "psychopath freak wretch bastard lunatic maggot lowlife",
    },
}


def _by_pool(table: dict[str, dict[str, str]]) -> dict[str, dict[str, tuple[str, ...]]]:
    return {
        strength: {pool: tuple(words.split()) for pool, words in pools.items()}
        for strength, pools in table.items()
    }


ADJECTIVES, NOUNS = _by_pool(_ADJECTIVES), _by_pool(_NOUNS)  # [strength][pool]


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


WORDS = {
    word: InsultWord(word, kind, strength, pool)
    for kind, table in (("adjective", ADJECTIVES), ("noun", NOUNS))
    for strength, pools in table.items()
    for pool, words in pools.items()
    for word in words
}


def insult_words(kind: str, pools: tuple[str, ...] = POOLS) -> tuple[str, ...]:
    """Return the words of a kind ("adjective" or "noun") in these pools, in the table's order."""
    return tuple(e.word for e in WORDS.values() if e.kind == kind and e.pool in pools)


def with_article(words: str) -> str:
    """Return the words with "a" or "an" before them."""
    vowel = words[0] in "aeiouAEIOU" and not words.startswith("use")
    return f"{'an' if vowel else 'a'} {words}"
