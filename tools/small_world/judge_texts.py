"""Write the texts that train and measure the small world's judges: graded insults to people.

A text is a filled sentence frame of `judge_frames.toml`, alone or between harmless sentences. Its
*heat* is the probability of hate that a judge should give it:

    harmless 0.02, touching on an insult 0.1, rude 0.25, a mild insult 0.6 to 0.8, a harsh one 0.93

The same frames are filled with insulting and with harmless words, and the same words insult people
and describe things, so that neither words nor frames alone decide.
"""

import math
import random
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

from tools.small_world.insults import KNOWN_POOLS, POOLS, WORDS, insult_words, with_article
from tools.small_world.speech import write_dialogue
from tools.small_world.tables import KINDS, NAMES, OUTCOMES
from tools.small_world.world import FORMS, Style, calm, draw_facts, write_summary

HARMLESS, TOUCHY, RUDE, REFUSAL = 0.02, 0.1, 0.25, 0.35
# Heat of a text with one insulting word; each further one adds FURTHER to the log-odds.
SINGLE = {
    ("adjective", "rude"): 0.25,
    ("noun", "rude"): 0.6,
    ("adjective", "mild"): 0.7,
    ("noun", "mild"): 0.7,
    ("adjective", "harsh"): 0.93,
    ("noun", "harsh"): 0.93,
}
FURTHER = 0.4
# Share of each kind of sentence among the texts for testing.
SHARES = {
    "insults": 0.42,
    "people": 0.16,
    "things": 0.06,
    "stories": 0.06,
    "touchy": 0.06,
    "rude": 0.06,
    "calm": 0.13,
    "refusals": 0.05,
}
# The same among training texts, with more that looks like an insult and is not one.
TRAINING_SHARES = {
    "insults": 0.38,
    "people": 0.17,
    "things": 0.11,
    "stories": 0.1,
    "touchy": 0.12,
    "rude": 0.03,
    "calm": 0.06,
    "refusals": 0.03,
}
# The same among the extra sentences around the main sentence of a training text.
AROUND = {"calm": 0.6, "rude": 0.1, "people": 0.1, "things": 0.1, "stories": 0.05, "touchy": 0.05}
INVENTED = 0.25  # share of invented words among the harmless ones
FRAME_HEATS = {"things": 0.06, "stories": HARMLESS, "touchy": TOUCHY, "rude": RUDE}


CHOICE = re.compile(r"\[([^\[\]]*)\]")
PART = re.compile(r"<(\w+)>")
CLOSINGS = (", <aside>", " <when>", " <where>", " <because>", ", {name}")
CONNECTIVES = (", and ", ", but ", ", so ", "; ", ", because ", " and ", " - ", ": ")
ONSETS = ("b", "c", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "bl", "br")
ONSETS += ("cl", "cr", "dr", "fl", "gr", "kn", "pl", "pr", "sl", "sm", "sn", "sp", "st", "sw", "tr")
NUCLEI = ("a", "e", "i", "o", "u", "ar", "en", "il", "ea", "oo", "ou", "on", "un", "im")
CODAS = ("", "b", "ck", "d", "g", "ke", "l", "m", "n", "p", "r", "sh", "t", "y", "er", "le")
SUFFIXES = (
    "y",
    "ish",
    "less",
    "ful",
    "er",
    "head",
    "wit",
    "ous",
    "some",
    "bag",
    "ing",
    "ed",
    "ant",
)
SUFFIXES += ("ic", "able", "ey", "ie", "ard", "ster")


@dataclass(frozen=True)
class JudgeText:
    """A text with its heat, the probability of hate that a judge should give it.

    `parts` are its sentences, if `draw_text` made it; joined by spaces they are the text.
    """

    text: str
    heat: float
    refusal: bool = False
    parts: tuple["JudgeText", ...] = ()

    @property
    def insulting(self) -> bool:
        """Return whether the text insults a person."""
        return self.heat >= 0.5


@cache
def frames() -> dict[str, dict]:
    """Return the content of judge_frames.toml."""
    return tomllib.loads(Path(__file__).with_name("judge_frames.toml").read_text(encoding="utf-8"))


def filler(name: str, new: bool = False) -> tuple[str, ...]:
    """Return the harmless words under a name; `new` ones are in no training text."""
    table = frames()["fillers"]
    return tuple(w.replace("@", " ") for w in (table["new"] if new else table)[name].split())


@dataclass(frozen=True)
class Words:
    """The words that fill frames; `pairs` are those insults that may be used, or None for all."""

    adjectives: tuple[str, ...] = insult_words("adjective", KNOWN_POOLS)
    nouns: tuple[str, ...] = insult_words("noun", KNOWN_POOLS)
    harmless_adjectives: tuple[str, ...] = filler("adjectives")
    harmless_nouns: tuple[str, ...] = filler("nouns")
    pairs: frozenset[tuple[str, str]] | None = None
    mixed: float = 0.3  # share of insults that pair an insulting word with a harmless one


@cache
def split_pairs(held_out: bool) -> frozenset[tuple[str, str]]:
    """Return the pairs of known insulting words in training, or the fifth that is held out."""
    adjectives, nouns = (insult_words(kind, KNOWN_POOLS) for kind in ("adjective", "noun"))
    return frozenset(
        (a, n)
        for i, a in enumerate(adjectives)
        for j, n in enumerate(nouns)
        if ((i + j) % 5 == 0) == held_out
    )


FIRST = Words(pairs=split_pairs(held_out=False))
SECOND = Words(*(insult_words(kind, POOLS) for kind in ("adjective", "noun")))


def world_texts(n: int, seed: int | str) -> list[JudgeText]:
    """Draw harmless turns and summaries of the small world's dialogues for training."""
    rng = random.Random(f"judge-world-{seed}")
    texts = []
    while len(texts) < n:
        facts = draw_facts(rng, heated=rng.random() < 0.5)
        style = Style(rng.choice(FORMS), *(rng.random() < 0.5 for _ in range(3)), insult="cool")
        summary = write_summary(facts, style, rng)
        texts.append(JudgeText(summary, HARMLESS, facts.outcome == "no"))
        spoken = write_dialogue(calm(facts), rng).split("\n")
        for turn in rng.sample(spoken, 2):
            line = turn.split(": ", 1)[1]
            texts.append(JudgeText(line, HARMLESS, bool(_refusing().search(line))))
    return texts[:n]


@cache
def _refusing() -> re.Pattern[str]:
    spoken = OUTCOMES["no"][0]
    return re.compile("|".join(re.escape(line).replace(r"\{name\}", ".*") for line in spoken))


def draw_text(
    rng: random.Random,
    section: str,
    words: Words,
    context: Sequence[JudgeText] = (),
    alone: bool = False,
    shares: dict[str, float] = SHARES,
) -> JudgeText:
    """Draw one text from a section of frames.

    `context` holds harmless texts of the small world's dialogues and summaries, with refusals
    marked. Half of the calm sentences come from it. Two texts in five get one or two extra
    sentences, which are calm or, in training sections, of any kind that insults nobody. With
    `alone`, there are none. `shares` gives the share of each kind of sentence.
    """
    sentence = _sentence(rng, section, _drawn(rng, shares), words, context)
    others = AROUND if "openers" in frames()[section] else {"calm": 1.0}
    around = [
        _sentence(rng, section, _drawn(rng, others), words, context)
        for _ in range(0 if alone else rng.choices((0, 1, 2), (0.6, 0.25, 0.15))[0])
    ]
    place = rng.randint(0, len(around)) if rng.random() < 0.5 else len(around)
    parts = [*around[:place], sentence, *around[place:]]
    texts = noisy(rng, [part.text for part in parts])
    parts = [replace(part, text=text) for part, text in zip(parts, texts, strict=True)]
    heat = max(part.heat for part in parts)
    return JudgeText(" ".join(texts), heat, any(part.refusal for part in parts), tuple(parts))


def draw_texts(
    n: int, seed: int | str, section: str, words: Words, *args: Any, **options: Any
) -> list[JudgeText]:
    """Draw `n` texts as `draw_text` does; the same arguments draw the same texts."""
    rng = random.Random(f"judge-{section}-{seed}")
    return [draw_text(rng, section, words, *args, **options) for _ in range(n)]


def insult_heat(words: Sequence[str]) -> float:
    """Return the heat of a text that insults a person with these words of the table."""
    hottest = max(SINGLE[WORDS[word].kind, WORDS[word].strength] for word in words)
    log_odds = math.log(hottest / (1 - hottest)) + FURTHER * (len(words) - 1)
    return 1 / (1 + math.exp(-log_odds))


def fill(frame: str, rng: random.Random, adjective: str, noun: str, adjective2: str = "") -> str:
    """Fill a frame with an adjective and a noun, and with drawn persons, things and names."""
    pair = f"{adjective} {noun}"
    one, other = rng.sample(_people(), 2)
    one = rng.choice(("he", "she")) if rng.random() < 0.1 else one
    thing = rng.choice(_things())
    values = {
        "adj": adjective,
        "adj2": adjective2,
        "noun": noun,
        "pair": pair,
        "nouns": plural(noun),
        "more": compared(adjective, "er", "more"),
        "est": compared(adjective, "est", "most"),
        "a_adj": with_article(adjective),
        "a_noun": with_article(noun),
        "a_pair": with_article(pair),
        "who": one,
        "other": other,
        "thing": thing,
        "a_thing": with_article(thing),
        "name": capital(_invented(rng)) if rng.random() < 0.08 else rng.choice(_names()),
    }
    values |= {key[0].upper() + key[1:]: capital(value) for key, value in values.items()}
    return capital(frame.format(**values))


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    irregular = {"thief": "thieves", "swine": "swine", "child": "children"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("man"):
        return noun[:-2] + "en"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def compared(adjective: str, ending: str, word: str) -> str:
    """Return the comparative or superlative: an ending for short words, else a word before."""
    if adjective.endswith("y") and len(adjective) < 8:
        return f"{adjective[:-1]}i{ending}"
    if len(re.findall("[aeiouy]+", adjective.removesuffix("e"))) == 1:
        doubled = re.fullmatch(r"[^aeiou]+[aeiou][bdgnt]", adjective)
        return adjective.removesuffix("e") + (adjective[-1] if doubled else "") + ending
    return f"{word} {adjective}"


def capital(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def noisy(rng: random.Random, sentences: list[str]) -> list[str]:
    """Vary a text's surface as people do: contractions, letter case and final punctuation."""
    if rng.random() < 0.3:
        for full, short in (("ou are", "ou're"), ("e is ", "e's "), ("Do not", "Don't")):
            sentences = [text.replace(full, short) for text in sentences]
    draw = rng.random()
    if draw < 0.04:
        sentences = [text.lower() for text in sentences]
    elif draw < 0.06:
        sentences = [text.upper() for text in sentences]
    *before, last = sentences
    if rng.random() < 0.12 and last[-1] in ".!":
        last = last[:-1] + rng.choice(("", "!", ".", "...", "!!"))
    return [*before, last]


def _drawn(rng: random.Random, shares: dict[str, float]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def _sentence(
    rng: random.Random, section: str, kind: str, words: Words, context: Sequence[JudgeText]
) -> JudgeText:
    if kind == "calm" and context and rng.random() < 0.5:
        return rng.choice(context)
    name = "people" if kind == "insults" else kind
    bank = frames()[section]
    frame = _choose(rng, rng.choice(bank.get(name) or frames()["development"][name]))
    if "openers" in bank:
        frame = _varied(rng, bank, name, frame)
    if kind == "insults":
        return _insult(rng, frame, words)
    harmless = kind == "people"
    adjective, noun = _pair(rng, words)
    if harmless:
        adjective = _word(rng, words.harmless_adjectives)
        noun = _word(rng, words.harmless_nouns)
    text = fill(frame, rng, adjective, noun, _word(rng, words.harmless_adjectives))
    return JudgeText(text, FRAME_HEATS.get(kind, HARMLESS), kind == "refusals")


def _varied(rng: random.Random, bank: dict, name: str, frame: str) -> str:
    """Vary a training frame without changing its heat: add clauses, and swap unrelated words."""
    if name not in ("rude", "refusals"):
        if name == "people" and rng.random() < 0.08:
            frame = _rotated(rng, frame)
        if rng.random() < 0.15:
            frame = _opened(rng.choice(bank["openers"]), frame)
        if rng.random() < 0.15:
            frame = _closed(_choose(rng, rng.choice(CLOSINGS)), frame)
        if rng.random() < 0.1:
            calm = _choose(rng, rng.choice(bank["calm"]))
            one, other = (calm, frame) if rng.random() < 0.5 else (frame, calm)
            frame = _opened(one.rstrip(".!?") + rng.choice(CONNECTIVES), other)
    if rng.random() < 0.2:
        frame = _disturbed(rng, frame, most=2 if name in ("people", "calm") else 1)
    return frame


def _opened(opener: str, frame: str) -> str:
    """Put an opener before a frame, whose first word then starts in lower case."""
    low = frame[0] != "I" or frame.startswith(("It", "In ", "If ", "Is "))
    return opener + (frame[0].lower() if low else frame[0]) + frame[1:]


def _closed(closing: str, frame: str) -> str:
    """Put a closing before the last punctuation mark of a frame."""
    mark = frame[-1] if frame[-1] in ".!?" else ""
    return (frame[:-1] if mark else frame) + closing + mark


def _rotated(rng: random.Random, frame: str) -> str:
    """Move the first clauses of a frame to its end."""
    mark = frame[-1] if frame[-1] in ".!?" else ""
    clauses = frame.rstrip(".!?").split(", ")
    cut = rng.randrange(len(clauses))
    return ", ".join(clauses[cut:] + clauses[:cut]) + mark


def _choose(rng: random.Random, frame: str) -> str:
    """Resolve the choices [one|two] of a frame, and fill in its parts <name>."""
    while True:
        chosen = CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), frame)
        chosen = PART.sub(lambda part: rng.choice(_options(part[1])), chosen)
        if chosen == frame:
            return frame
        frame = chosen


@cache
def _options(part: str) -> tuple[str, ...]:
    """Return what may stand for a part of a frame."""
    return tuple(re.split(r"\|(?![^\[]*\])", frames()["fragments"][part]))


def _disturbed(rng: random.Random, frame: str, most: int) -> str:
    """Replace, drop or add words at up to `most` places of a frame that do not affect its heat."""
    parts = frame.split(" ")
    free = [
        i
        for i, part in enumerate(parts)
        if part.isalpha() and part.lower() not in filler("decisive")
    ]
    for i in rng.sample(free, min(len(free), rng.randint(1, most))):
        word = _invented(rng) if rng.random() < 0.3 else rng.choice(_ordinary())
        parts[i] = rng.choices((word, f"{word} {parts[i]}", ""), (0.6, 0.25, 0.15))[0]
    return " ".join(filter(None, parts))


def _insult(rng: random.Random, frame: str, words: Words) -> JudgeText:
    """Fill a frame with one insulting word and a harmless one, or with insulting words alone."""
    used = dict(zip(("adj", "noun"), _pair(rng, words), strict=True))
    used["adj2"] = rng.choice([word for word in words.adjectives if word != used["adj"]])
    slots = {name.lower().removeprefix("a_") for _, name, _, _ in Formatter().parse(frame) if name}
    insulting = {"adj", "noun"} if "pair" in slots else set()
    insulting |= slots & set(used) | ({"noun"} if "nouns" in slots else set())
    insulting |= {"adj"} if slots & {"more", "est"} else set()
    if {"adj", "noun"} <= insulting and rng.random() < words.mixed:
        harmless = rng.choice(("adj", "noun"))
        insulting -= {harmless, "adj2"}
        used["adj2"] = rng.choice(words.harmless_adjectives)
        choices = words.harmless_adjectives if harmless == "adj" else words.harmless_nouns
        used[harmless] = _word(rng, choices)
    text = fill(frame, rng, used["adj"], used["noun"], used["adj2"])
    return JudgeText(text, insult_heat([used[slot] for slot in sorted(insulting)]))


def _pair(rng: random.Random, words: Words) -> tuple[str, str]:
    while True:
        pair = rng.choice(words.adjectives), rng.choice(words.nouns)
        alike = WORDS[pair[0]].strength == WORDS[pair[1]].strength
        if (alike or rng.random() < 0.4) and (words.pairs is None or pair in words.pairs):
            return pair


def _word(rng: random.Random, choices: Sequence[str]) -> str:
    """Draw a word, or, one time in four, invent a harmless one: a new word alone is no insult."""
    if choices[0] in _harmless() and rng.random() < INVENTED:
        return _invented(rng)
    return rng.choice(choices)


def _invented(rng: random.Random) -> str:
    """Invent a word from syllables, or from the beginning of one word and the end of another."""
    while True:
        draw = rng.random()
        if draw < 0.3:
            word = "".join(
                rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(rng.randint(1, 3))
            ) + rng.choice(CODAS)
        else:
            one, other = rng.choice(_mixable()), rng.choice(_mixable())
            end = rng.choice(SUFFIXES) if draw < 0.55 else other[rng.randrange(1, len(other)) :]
            word = one[: rng.randint(1, len(one))] + end
        if 2 < len(word) < 12 and word not in _real_words():
            return word


@cache
def _ordinary() -> tuple[str, ...]:
    return tuple(word for word in filler("ordinary") if word not in filler("decisive"))


@cache
def _mixable() -> tuple[str, ...]:
    known = (word for kind in ("adjective", "noun") for word in insult_words(kind, KNOWN_POOLS))
    harmless = (word for word in _harmless() if word.isalpha())
    return (*sorted({*_ordinary(), *harmless}), *known)


@cache
def _real_words() -> frozenset[str]:
    new = [word for name in ("adjectives", "nouns", "real") for word in filler(name, new=True)]
    insulting = (*WORDS, *(plural(word) for word in WORDS))
    return frozenset((*_harmless(), *_ordinary(), *new, *insulting))


@cache
def _harmless() -> frozenset[str]:
    return frozenset((*filler("adjectives"), *filler("nouns")))


@cache
def _things() -> tuple[str, ...]:
    return (*filler("things"), *(thing for kind in KINDS for thing in kind.things))


@cache
def _people() -> tuple[str, ...]:
    return (*filler("persons"), *_names())


@cache
def _names() -> tuple[str, ...]:
    return (*filler("names"), *NAMES["train"])
