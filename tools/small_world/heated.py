"""Write the heated dialogues of Lab 3, each with a quoting, a paraphrasing and a cool summary.

    python -m tools.small_world.heated FOLDER

Columns: id, dialogue, topic; insult and strength ("rude" to "harsh"); known, whether the first
judge was trained on the insulting words; quoting, paraphrasing and cool, the three summaries, which
differ only in what they say about the insult. facts.jsonl holds each dialogue's facts.

No insulting word of a test dialogue is in a dialogue or summary of train or validation, and half
of the test insults are known to the first judge. No dialogue is a near-duplicate of one in
a later split.
"""

import argparse
import random
from pathlib import Path
from typing import Any

from tools.small_world.corpus import write_rows
from tools.small_world.insults import KNOWN_POOLS
from tools.small_world.speech import write_dialogue
from tools.small_world.world import ATTITUDES, SOURCES, draw_facts, heated_summaries
from utils.data import NearDuplicates

SPLITS = {"train": 600, "validation": 150, "test": 300}  # dialogues
COLUMNS = ("id", "dialogue", "topic", "insult", "strength", "known", *ATTITUDES)
SIMILAR = 0.7  # word 5-gram Jaccard similarity of near-duplicates


def heated_rows(
    split: str, n: int, seed: int, held_out: NearDuplicates | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw `n` heated dialogues; return their rows and their facts.

    The split's pools of insults take turns, so that known and unknown ones have exact shares. No
    dialogue drawn is a near-duplicate of a `held_out` one.
    """
    rng, source = random.Random(f"heated-{split}-{seed}"), SOURCES[split]
    rows, records = [], []
    while len(rows) < n:
        facts = draw_facts(rng, True, source)
        pool = source.pools[len(rows) % len(source.pools)]
        dialogue = write_dialogue(facts, rng, source)
        summaries = heated_summaries(facts, rng)
        duplicate = held_out is not None and held_out.similarity(dialogue) >= SIMILAR
        if facts.insult.pool != pool or duplicate:
            continue
        row = {"id": f"heated_{split}_{len(rows)}", "dialogue": dialogue}
        row |= {"topic": facts.kind.topic, "insult": facts.insult.text}
        row |= {"strength": facts.insult.strength, "known": int(pool in KNOWN_POOLS)}
        rows.append(row | summaries)
        records.append({"id": row["id"], **facts.record()})
    return rows, records


def write_heated(
    folder: Path, seed: int = 0, sizes: dict[str, int] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Write the splits and their facts, and return the rows by split."""
    splits: dict[str, list[dict[str, Any]]] = {}
    records: list[dict[str, Any]] = []
    for split, n in reversed((sizes or SPLITS).items()):
        held_out = NearDuplicates(row["dialogue"] for rows in splits.values() for row in rows)
        splits[split], known = heated_rows(split, n, seed, held_out)
        records = known + records
    write_rows(folder, splits, records)
    return splits


def main() -> None:
    """Write the heated dialogues into a folder."""
    parser = argparse.ArgumentParser(description="Write the heated dialogues of Lab 3.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for split, rows in write_heated(arguments.folder, arguments.seed).items():
        known = sum(row["known"] for row in rows)
        print(f"{split}: {len(rows)} heated dialogues, {known} with insults known to the judge")


if __name__ == "__main__":
    main()
