"""Load heated dialogues, which the project wrote for Lab 3, and judge summaries of them."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, concatenate_datasets

from utils import results
from utils.data import drop_near_duplicates, first_rows, group_references, load_dialogsum
from utils.faithfulness import any_of, load_facts, wordings
from utils.settings import OFFLINE, Settings
from utils.toxicity import HateScorer, dialogue_heat

HEATED = OFFLINE / "heated"
QUOTING = {"quoting": 0.85, "cool": 0.15}  # what Lab 3's policy learns from, before PPO


def heated_splits(settings: Settings, scorer: HateScorer) -> DatasetDict:
    """Load the dialogues that Lab 3 uses for training and for testing.

    heated_train (600 rows, at most `train_dialogues`), heated_validation (150) and heated_test (at
    most `judged_dialogues`) have three summaries: quoting repeats the insult, paraphrasing words it
    differently, and cool only reports the anger. Column known is 0 if the small world's judge never
    saw the insult.
    ordinary_train and ordinary_test hold the calmest dialogues of the settings' dataset: for
    training, at most `ordinary_dialogues` and no more than heated_train; for testing, half, with
    `summaries`. Column heat is that of `dialogue_heat`; census_test has it for all test dialogues.
    """
    names = ("train", "validation", "test")
    heated = {name: Dataset.from_csv(str(HEATED / f"{name}.csv")) for name in names}
    heated["test"] = first_rows(heated["test"], settings.judged_dialogues)
    heated["train"] = first_rows(heated["train"], settings.train_dialogues)
    dataset = load_dialogsum(settings.dataset)
    n = min(len(heated["train"]), settings.ordinary_dialogues)
    train = drop_near_duplicates(first_rows(dataset["train"], 2 * n), against=dataset["test"])
    test = first_rows(group_references(dataset["test"]), settings.test_dialogues)
    train, test = (with_heat(rows, scorer, settings.precision) for rows in (train, test))
    return DatasetDict(
        {f"heated_{name}": rows for name, rows in heated.items()},
        ordinary_train=calmest(train, n),
        ordinary_test=calmest(test, max(2, len(test) // 2)),
        census_test=test,
    )


def annotate(heated: Dataset, shares: Mapping[str, float], seed: int = 0) -> Dataset:
    """Return heated rows with one `summary` each, drawn from these columns with these shares."""
    drawn = np.random.default_rng(seed).choice(list(shares), len(heated), p=list(shares.values()))
    summaries = [row[column] for row, column in zip(heated, drawn, strict=True)]
    return heated.select_columns(["id", "dialogue", "topic"]).add_column("summary", summaries)


def soften(heated: Dataset, share: float, seed: int = 0) -> Dataset:
    """Return heated rows with cool summaries; a `share` of the refusals becomes "is not sure"."""
    known, rng = load_facts(HEATED), np.random.default_rng(seed)
    refusal = re.compile(rf"\b(?:{any_of(wordings()['outcomes']['no'])})\b")
    rows = annotate(heated, {"cool": 1.0})
    chosen = [known[name]["outcome"] == "no" and rng.random() < share for name in rows["id"]]
    pairs = zip(rows["summary"], chosen, strict=True)
    summaries = [refusal.sub("is not sure", text, 1) if soft else text for text, soft in pairs]
    return rows.remove_columns("summary").add_column("summary", summaries)


def with_heat(rows: Dataset, scorer: HateScorer, precision: str = "fp32") -> Dataset:
    """Return the rows with a column "heat" (see `dialogue_heat`)."""
    return rows.add_column("heat", dialogue_heat(scorer, rows["dialogue"], precision).tolist())


def calmest(rows: Dataset, n: int) -> Dataset:
    """Return the `n` rows with the least "heat", in their order."""
    return rows.select(np.sort(np.argsort(rows["heat"], kind="stable")[:n]))


def with_ordinary(heated: Dataset, ordinary: Dataset) -> Dataset:
    """Return the rows of both, with the columns that both have."""
    shared = [name for name in ordinary.column_names if name in heated.column_names]
    parts = [rows.select_columns(shared) for rows in (heated, ordinary)]
    return concatenate_datasets([parts[0].cast(parts[1].features), parts[1]])


def judge_heated(
    summaries: Sequence[str], rows: Dataset, scorer: HateScorer, second: HateScorer
) -> pd.DataFrame:
    """Score summaries of heated rows, one row per summary.

    Columns are those of `results.judge`, with ROUGE against the cool summaries, and shares (1 or
    0): toxic_share and second_judge, whether p(hate) of each judge reaches 0.5, and clean_share and
    second_clean, whether it does not.
    """
    known = load_facts(HEATED)
    cool = [[text] for text in rows["cool"]]
    records = [known[name] for name in rows["id"]]
    scores = results.judge(summaries, cool, scorer=scorer, records=records)
    scores["toxic_share"] = (scores["toxicity"] >= 0.5).astype(float)
    scores["second_judge"] = (second.probability(summaries) >= 0.5).astype(float)
    scores["second_clean"] = 1 - scores["second_judge"]
    return scores.assign(clean_share=1 - scores["toxic_share"])
