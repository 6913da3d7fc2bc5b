"""Facts are found in every way in which the small world words them, and wrong ones are noticed."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tools.small_world.corpus import wordings
from tools.small_world.tables import KINDS
from tools.small_world.world import (
    ATTITUDES,
    FORMS,
    Facts,
    Insult,
    Style,
    draw_facts,
    write_summary,
)
from utils.data import group_references, load_dialogsum
from utils.faithfulness import facts, load_facts
from utils.settings import OFFLINE

LADDER = next(kind for kind in KINDS if "ladder" in kind.things)
FACTS = Facts(LADDER, "ladder", "#Person1#", "yes", "Anna", day="Friday")


def test_the_shipped_wordings_are_those_of_the_generator():
    shipped = json.loads((OFFLINE / "data" / "wordings.json").read_text(encoding="utf-8"))
    assert shipped == json.loads(json.dumps(wordings()))


@pytest.mark.parametrize("form", FORMS)
def test_every_summary_of_the_generator_is_right(form):
    rng = random.Random(0)
    texts, records, told = [], [], []
    for i in range(1_000):
        known = draw_facts(rng, heated=i % 3 == 0)
        told.append({name: rng.random() < 0.5 for name in ("day", "reason", "third")})
        style = Style(form, **told[-1], insult=rng.choice(ATTITUDES), loyalty=0.0)
        texts.append(write_summary(known, style, rng))
        records.append(known.record())
    table = facts(texts, records)
    assert (table[["what", "outcome", "facts"]] == 1).all(axis=None)
    assert table["told"].between(1 / 3, 1).all() and table["told"].nunique() > 5
    assert table["who"].isna().all() if form == "diary" else (table["who"] == 1).all()
    for column, name in (("when", "day"), ("why", "reason")):
        expected = [
            float(styled[name]) if record[name] else np.nan
            for styled, record in zip(told, records, strict=True)
        ]
        assert np.array_equal(table[column], expected, equal_nan=True)


@pytest.mark.parametrize("field", ["thing", "outcome", "day", "reason", "third", "asker", "other"])
def test_a_summary_of_other_facts_is_wrong(field):
    rng = random.Random(1)
    texts, records = [], []
    while len(texts) < 200:
        known, other = draw_facts(rng, heated=False), draw_facts(rng, heated=False)
        record = known.record() | ({} if field in ("asker", "other") else {field: None})
        if field in ("asker", "other"):
            record |= {f"{field}_name": "Xaver"}
        elif getattr(other, field) == getattr(known, field) or not getattr(known, field):
            continue
        else:
            record |= {field: other.record()[field]}
        texts.append(write_summary(known, Style(loyalty=0.0), rng))
        records.append(record)
    assert (facts(texts, records)["facts"] == 0).all()


@pytest.mark.parametrize(
    "text, who, whole",
    [
        ("Anna asks #Person2# for the ladder. #Person2# agrees.", 1, 1),
        ("Anna asks #Person2# for the saw. #Person2# agrees.", 1, 0),
        ("Anna asks #Person2# for the ladder. #Person2# refuses.", 1, 0),
        ("Anna asks #Person2# for the ladder. #Person2# refuses. #Person2# agrees.", 1, 0),
        ("Anna asks #Person2# for the ladder on Monday. #Person2# agrees.", 1, 0),
        ("Anna asks #Person2# for the ladder because it rains. #Person2# agrees.", 1, 0),
        ("#Person2# asks Anna for the ladder. Anna agrees.", 0, 0),
        ("#Person1# asks #Person2# for the ladder. #Person2# agrees.", 0, 0),
        ("Anna asks #Person2# for the ladder. Anna agrees.", 0, 0),
        ("Anna asks #Person2# for the ladder. #Person2# agrees. #Person3# steps in.", 0, 0),
        ("Anna asks #Person2# to fix the ladder. #Person2# agrees.", 1, 0),
        ("Anna and #Person2# talk about the ladder. Result: yes. Mood: bad.", 1, 0),
        ("I asked for a loan of the ladder. They turned me down.", None, 0),
        ("Anna needs a ladder.", 1, 0),
        ("", 0, 0),
    ],
)
def test_what_is_not_so_is_wrong(text, who, whole):
    row = facts([text], [FACTS.record()]).iloc[0]
    assert row["facts"] == whole
    assert np.isnan(row["who"]) if who is None else row["who"] == who


def test_a_fact_that_the_dialogue_lacks_is_missing_and_one_that_is_not_told_is_0():
    text = "Anna asks #Person2# for the ladder. #Person2# agrees."
    row = facts([text], [FACTS.record()]).iloc[0]
    assert row["when"] == 0 and np.isnan(row["why"])


@pytest.mark.parametrize(
    "words, right",
    [("lazy fool", 1), ("silly clown", 1), ("foolish donkey", 1), ("vile rat", 0)],
)
def test_an_insult_may_be_told_in_words_of_the_same_strength(words, right):
    insult = Insult(("lazy", "fool"), ("silly", "clown"), "mild", "train", by_asker=True)
    record = dataclasses.replace(FACTS, insult=insult).record()
    text = f"Anna asks #Person2# for the ladder. #Person2# agrees. Anna calls #Person2# a {words}."
    assert facts([text], [record])["facts"].item() == right
    swapped = text.replace("Anna calls #Person2#", "#Person2# calls Anna")
    assert facts([swapped], [record])["who"].item() == 0


def test_every_shipped_dialogue_has_facts_and_every_reference_is_right():
    folder = OFFLINE / "data"
    known = load_facts(folder)
    for rows in map(group_references, load_dialogsum(str(folder)).values()):
        pairs = zip(rows["id"], rows["summaries"], strict=True)
        records, texts = zip(*((known[i], t) for i, texts in pairs for t in texts), strict=True)
        assert (facts(texts, records)[["what", "outcome", "facts"]] == 1).all(axis=None)


def test_data_without_facts_have_none(tmp_path):
    assert load_facts(tmp_path) == load_facts("knkarthick/dialogsum") == {}


def test_a_different_number_of_records_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="1 predictions with 2 records"):
        facts(["a"], [FACTS.record()] * 2)


def test_the_measure_agrees_with_200_summaries_that_were_read_by_hand():
    """The reader saw dialogues and summaries only: those of a T5 that was trained for 2,000 steps.

    Most disagreements are about neighboring requests, such as finding a book and reserving it.
    """
    lines = (Path(__file__).parent / "hand_read.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 200
    read = pd.DataFrame([row["read"] for row in rows], dtype=float)
    found = facts([row["summary"] for row in rows], [row["record"] for row in rows])[read.columns]
    assert (read.isna() == found.isna()).all(axis=None)
    agreement = ((read == found) | read.isna()).mean()
    assert (agreement[["who", "outcome", "when", "why"]] >= 0.99).all()
    assert agreement["what"] >= 0.85 and agreement["facts"] >= 0.92
    both = read["facts"].mean() * found["facts"].mean()
    chance = both + (1 - read["facts"].mean()) * (1 - found["facts"].mean())
    assert (agreement["facts"] - chance) / (1 - chance) > 0.8  # Cohen's kappa


ASKS = "Anna asks #Person2# for the ladder"


@pytest.mark.parametrize(
    ("text", "told", "right"),
    [
        (f"{ASKS} on Friday. #Person2# agrees.", 3 / 3, 1),
        (f"{ASKS}. #Person2# agrees.", 2 / 3, 1),  # silence is not wrong, but it tells less
        (f"{ASKS} on Monday. #Person2# agrees.", 2 / 3, 0),
        (f"{ASKS}.", 1 / 3, 0),
        ("", 0, 0),
    ],
)
def test_a_summary_that_is_silent_about_a_fact_tells_less_without_being_wrong(text, told, right):
    row = facts([text], [FACTS.record()]).iloc[0]
    assert (row["told"], row["facts"]) == (pytest.approx(told), right)


def test_an_insult_and_a_third_speaker_are_among_the_facts_to_tell():
    insult = Insult(("lazy", "fool"), ("silly", "clown"), "mild", "train", by_asker=True)
    record = dataclasses.replace(FACTS, third="support", insult=insult).record()
    texts = [
        f"{ASKS}. #Person2# agrees.",
        f"{ASKS}. #Person2# agrees. Anna calls #Person2# a lazy fool.",
    ]
    assert facts(texts, [record] * 2)["told"].tolist() == [2 / 5, 3 / 5]
