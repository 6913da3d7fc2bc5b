"""Write the data of the small world: dialogues and summaries in DialogSum's layout, and facts.

Besides the splits, it writes facts.jsonl (one line per dialogue, with its id and facts) and
wordings.json (all ways in which a summary may word them), both for `utils.faithfulness`.
"""

import csv
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tools.small_world import tables
from tools.small_world.insults import WORDS
from tools.small_world.judge_texts import frames, plural
from tools.small_world.speech import write_dialogue
from tools.small_world.vocabulary import sample_texts
from tools.small_world.world import ATTITUDES, SOURCES, Facts, Style, draw_facts, write_summary
from utils.data import NearDuplicates

SPLITS = {"train": (2000, 1), "validation": (200, 1), "test": (360, 3)}  # dialogues, references
HEATED_SHARE = 1 / 3
ATTITUDE_SHARES = (0.5, 0.2, 0.3)  # of the summaries of heated dialogues, in the order of ATTITUDES
SIMILAR = 0.7  # word 5-gram Jaccard similarity of near-duplicates


def draw_attitude(rng: random.Random) -> str:
    """Draw what a summary does with an insult."""
    return rng.choices(ATTITUDES, ATTITUDE_SHARES)[0]


def draw_split(
    split: str, n: int, seed: int, held_out: NearDuplicates | None = None
) -> list[tuple[Facts, str, random.Random]]:
    """Draw `n` dialogues of a split: their facts, texts, and random states for their summaries.

    No dialogue drawn is a near-duplicate of a `held_out` one.
    """
    rng = random.Random(f"{split}-{seed}")
    drawn = []
    while len(drawn) < n:
        facts = draw_facts(rng, rng.random() < HEATED_SHARE, SOURCES[split])
        dialogue = write_dialogue(facts, rng, SOURCES[split])
        if held_out is None or held_out.similarity(dialogue) < SIMILAR:
            drawn.append((facts, dialogue, random.Random(rng.random())))
    return drawn


def make_rows(
    split: str, seed: int, held_out: NearDuplicates | None = None
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Return a split's rows (id, dialogue, summary, topic) and its facts (id and `Facts.record`).

    A dialogue with several references has several rows, whose ids end in `_1`, `_2`, ….
    """
    n, references = SPLITS[split]
    rows, records = [], []
    for i, (facts, dialogue, rng) in enumerate(draw_split(split, n, seed, held_out)):
        name = f"{split}_{i}"
        records.append({"id": name, **facts.record()})
        for k in range(references):
            row_id = name if references == 1 else f"{name}_{k + 1}"
            summary = write_summary(facts, Style(insult=draw_attitude(rng)), rng)
            topic = facts.kind.topic
            rows.append({"id": row_id, "dialogue": dialogue, "summary": summary, "topic": topic})
    return rows, records


def write_corpus(folder: Path, seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """Write the splits, their facts and the wordings, and return the rows by split.

    No split holds a near-duplicate of a dialogue in a later split.
    """
    splits: dict[str, list[dict[str, str]]] = {}
    records: list[dict[str, Any]] = []
    for split in reversed(SPLITS):
        held_out = NearDuplicates(row["dialogue"] for rows in splits.values() for row in rows)
        splits[split], known = make_rows(split, seed, held_out)
        records = known + records
    write_rows(folder, splits, records)
    text = json.dumps(wordings(), indent=1)
    (folder / "wordings.json").write_text(text + "\n", encoding="utf-8")
    (folder / "words.txt").write_text("\n".join(known_words()) + "\n", encoding="utf-8")
    return splits


def write_rows(
    folder: Path, splits: dict[str, list[dict[str, Any]]], records: list[dict[str, Any]]
) -> None:
    """Write `<split>.csv` for each split, and facts.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "facts.jsonl").write_text(lines, encoding="utf-8")


def wordings() -> dict[str, Any]:
    """Return all wordings of a summary's parts, by the facts that they tell."""
    days = [*tables.WEEKDAYS, *tables.FEASTS]
    days += [f"the {day} of {month}" for day in tables.ORDINALS for month in tables.MONTHS]
    frames_ = [frame for kind in tables.KINDS for frame in (*kind.verbs, kind.diary)]
    frames_ = [frame for frame in frames_ if "{b}" not in frame.split("{thing}")[1]]
    return {
        "requests": _request_words(),
        "request_ends": sorted({frame.split("{thing}")[1] for frame in frames_} - {""}),
        "outcomes": {
            key: [key, *reported, diary] for key, (_, reported, diary) in tables.OUTCOMES.items()
        },
        "thirds": {key: [*reported, other] for key, (_, reported, other) in tables.THIRDS.items()},
        "days": days,
        "insults": {
            strength: [
                [word for pool in table[strength].values() for word in pool]
                for table in (tables.ADJECTIVES, tables.NOUNS)
            ]
            for strength in tables.STRENGTHS
        },
    }


def _request_words() -> dict[str, list[str]]:
    """Return the words of each kind's requests, and under "any" those that five or more share."""
    words = {}
    for kind in tables.KINDS:
        frames_ = " ".join([*kind.verbs, kind.diary, *kind.requests])
        words[kind.topic] = sorted(set(re.findall(r"\w+", re.sub(r"{.*?}", " ", frames_))))
    counts = Counter(word for several in words.values() for word in several)
    common = {word for word, count in counts.items() if count >= 5}
    return words | {"any": sorted(common | {"and", "talk", "about"})}


def known_words() -> list[str]:
    """Return the words of the small world, in lower case and in order."""
    banks = [frames()[name] for name in ("first", "second", "fillers", "fragments")]
    listed = [text for bank in banks for text in bank.values() if not isinstance(text, dict)]
    lines = [line for text in listed for line in ([text] if isinstance(text, str) else text)]
    judged = [re.sub(r"{.*?}|<.*?>|@", " ", line) for line in lines]
    names = [name for names in tables.NAMES.values() for name in names]
    insults = [*WORDS, *(plural(word.word) for word in WORDS.values() if word.kind == "noun")]
    everything = " ".join([*sample_texts(), *judged, *names, *insults])
    return sorted(set(re.findall(r"[^\W\d_]+", everything.lower())))
