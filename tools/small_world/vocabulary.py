"""Make the tokenizer of the small world: whole words, and pieces of words for names and insults.

Names and insulting words are spelled in pieces (byte-pair merges of those in training), so that a
name or insult that is in no training dialogue is read and copied like any other.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from math import log

from transformers import T5Tokenizer

from tools.small_world import tables
from tools.small_world.speech import write_dialogue
from tools.small_world.world import ATTITUDES, FORMS, Style, draw_facts, write_summary
from utils.prompts import TEMPLATES

MERGES = 300
PIECE, CHARACTER = -11.0, -16.0  # log-probabilities; a whole word is always more probable
WORD = re.compile(r"#Person\d#:?|[A-Za-z']+|.")


def make_tokenizer(texts: Iterable[str] | None = None) -> T5Tokenizer:
    """Make a Unigram tokenizer of the words in `texts`; it spells other words by character.

    The default texts are dialogues, summaries and instructions of the small world, whose names and
    insulting words are spelled in pieces.
    """
    words = _word_counts(sample_texts() if texts is None else texts)
    if texts is None:
        spelled = {word for pool in _spelled_words() for word in pool}
        words = {word: count for word, count in words.items() if word.lstrip("▁") not in spelled}
    total = sum(words.values())
    vocabulary = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    vocabulary |= {word: log(count / total) for word, count in sorted(words.items())}
    insulting = _insulting_words(("train", "blind"))
    spelled_in_pieces = [*tables.NAMES["train"], *insulting, *insulting]
    for piece in name_pieces(spelled_in_pieces) if texts is None else ():
        vocabulary.setdefault(piece, PIECE)
    for character in ["▁", *map(chr, range(33, 127))]:
        vocabulary.setdefault(character, CHARACTER)
    return T5Tokenizer(
        vocab=list(vocabulary.items()),
        extra_ids=0,
        additional_special_tokens=[],
        model_max_length=1024,
    )


def sample_texts(n: int = 20_000, seed: int = 0) -> list[str]:
    """Draw texts that hold every word of the training texts many times over."""
    rng = random.Random(f"vocabulary-{seed}")
    texts = [*TEMPLATES.values(), *tables.FLAN_TEMPLATES] * 20
    for _ in range(n):
        facts = draw_facts(rng, rng.random() < 0.3)
        style = Style(rng.choice(FORMS), insult=rng.choice(ATTITUDES), loyalty=0.0)
        texts += [write_dialogue(facts, rng), write_summary(facts, style, rng)]
    return [text.replace("{dialogue}", "") for text in texts]


def name_pieces(words: Iterable[str], merges: int = MERGES) -> list[str]:
    """Merge the most frequent pairs of pieces in `words`, as byte-pair encoding does.

    Words begin with "▁". Ties are broken alphabetically, so that the result is repeatable.
    """
    spelled = [["▁" + word[0], *word[1:]] for word in words]
    pieces = {piece for word in spelled for piece in word}
    for _ in range(merges):
        counts = Counter(pair for word in spelled for pair in pairwise(word))
        if not counts:
            break
        first, second = min(counts, key=lambda pair: (-counts[pair], pair))
        pieces.add(first + second)
        spelled = [_merged(word, first, second) for word in spelled]
    return sorted(pieces)


def _merged(word: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == (first, second):
            merged[-1] = first + second
        else:
            merged.append(piece)
    return merged


def _spelled_words() -> list[tuple[str, ...]]:
    return [*tables.NAMES.values(), _insulting_words(tables.POOLS)]


def _insulting_words(pools: tuple[str, ...]) -> tuple[str, ...]:
    by_strength = (*tables.ADJECTIVES.values(), *tables.NOUNS.values())
    return tuple(word for words in by_strength for pool in pools for word in words[pool])


def _word_counts(texts: Iterable[str]) -> Counter:
    counts = Counter(word for text in texts for word in text.split())
    pieces: Counter = Counter()
    for word, count in counts.items():
        for start, piece in enumerate(WORD.findall(word)):
            pieces[piece if start else f"▁{piece}"] += count
    return pieces
