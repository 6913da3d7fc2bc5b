"""Write the data of the small world: dialogues and summaries as DialogSum has them, and facts.

Beside each `<split>.csv` lies `<split>.facts.jsonl`: one line per dialogue, its id and its facts.
"""

import csv
import json
import random
from pathlib import Path
from typing import Any

from tools.small_world.speech import write_dialogue
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

    None is a near-duplicate of a `held_out` dialogue.
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
    """Write the splits and their facts, and return the rows by split.

    No split holds a near-duplicate of a dialogue in a later split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[dict[str, str]]] = {}
    for split in reversed(SPLITS):
        held_out = NearDuplicates(row["dialogue"] for rows in splits.values() for row in rows)
        splits[split], records = make_rows(split, seed, held_out)
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ("id", "dialogue", "summary", "topic"))
            writer.writeheader()
            writer.writerows(splits[split])
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{split}.facts.jsonl").write_text(lines, encoding="utf-8")
    return splits
