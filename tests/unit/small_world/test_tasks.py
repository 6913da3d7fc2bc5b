"""Prompts follow the style of their examples, and the labels of the probes are true."""

import math
import random
import re
from collections import Counter

import pytest

from tools.small_world import tables
from tools.small_world.tasks import DETAILS, PARTS, draw_task, draw_tasks, label
from tools.small_world.vocabulary import make_tokenizer, name_pieces
from utils.data import NearDuplicates
from utils.faithfulness import facts

QUOTED = re.compile(r"calls \S+ an? \w+ \w+\.|Insult: |got called")


def form_of(summary: str) -> str:
    if "Result: " in summary:
        return "notes"
    return "diary" if summary.startswith("I ") else "report"


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_a_tokenizer_is_repeatable_and_small(tokenizer):
    assert make_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) < 2_000


def test_words_are_whole_and_names_are_spelled_in_pieces(tokenizer):
    assert tokenizer.tokenize("asks for the ladder.") == ["▁asks", "▁for", "▁the", "▁ladder", "."]
    names = [name for names in tables.NAMES.values() for name in names]
    pieces = [len(tokenizer.tokenize(name)) for name in names]
    assert sum(n == 1 for n in pieces) < 0.1 * len(pieces)
    assert max(pieces) <= 8
    for word in [*names, "nitwit", "stubborn"]:
        ids = tokenizer(word)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == word


def test_pairs_of_pieces_are_merged_by_frequency():
    assert name_pieces(["Ana", "Ann", "Bo"], merges=1) == ["a", "n", "o", "▁A", "▁An", "▁B"]


def test_what_is_written_is_what_is_read(tokenizer):
    for task in draw_tasks(50, 0, shots=2):
        ids = tokenizer(task.prompt)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(task.prompt.split())


def test_examples_have_the_form_and_tell_the_details_of_the_answer():
    for task in draw_tasks(200, 1, shots=3):
        found = facts([task.answer], [task.facts.record()]).iloc[0]
        assert found["facts"] == 1
        for column, name in (("when", "day"), ("why", "reason")):
            told = float(getattr(task.style, name)) if getattr(task.facts, name) else math.nan
            assert found[column] == pytest.approx(told, nan_ok=True)
        assert task.prompt.rstrip().count(task.dialogue) == 1
        assert form_of(task.answer) == task.style.form


def test_without_examples_most_answers_are_notes():
    forms = Counter(form_of(task.answer) for task in draw_tasks(600, 2, shots=0))
    assert 0.5 < forms["notes"] / 600 < 0.7


def test_polite_instructions_never_repeat_an_insult():
    heated = [t for t in draw_tasks(1_500, 3, shots=0) if t.facts.insult]
    polite = [t for t in heated if "politely" in t.prompt]
    assert len(polite) > 30
    assert not any(QUOTED.search(task.answer) for task in polite)
    assert any(QUOTED.search(task.answer) for task in heated)


def test_a_bare_dialogue_is_continued():
    task = draw_task(random.Random(0), 0, bare_share=1.0)
    assert task.style is None and task.prompt == task.dialogue
    assert task.answer.startswith("#Person")


def test_no_dialogue_is_like_a_held_out_one():
    first = draw_task(random.Random(4), 0)
    again = draw_task(random.Random(4), 0, held_out=NearDuplicates([first.dialogue]))
    assert again.dialogue != first.dialogue


def test_labels_mark_the_last_dialogue_its_turns_and_its_facts(tokenizer):
    for task in draw_tasks(60, 5, shots=1):
        ids = tokenizer(task.prompt)["input_ids"]
        labels = label(task, ids, tokenizer)
        assert len(ids) == len(labels.asked) == len(labels.roles) == len(labels.parts)
        asked = [token for token, inside in zip(ids, labels.asked, strict=True) if inside]
        assert tokenizer.decode(asked) == task.dialogue.replace("\n", " ")
        other = [token for token, role in zip(ids, labels.roles, strict=True) if role == 1]
        turns = [t for t in task.dialogue.split("\n") if t.startswith(task.facts.other)]
        assert tokenizer.decode(other) == " ".join(turns)
        thing = [t for t, part in zip(ids, labels.parts, strict=True) if part == 1]
        assert task.facts.thing in tokenizer.decode(thing)
        if task.facts.asker_name:
            name = [t for t, p in zip(ids, labels.parts, strict=True) if p == 3]
            assert set(tokenizer.decode(name).split()) == {task.facts.asker_name}
    assert PARTS[0] == "thing" and PARTS[2] == "asker_name"


def test_styles_are_labeled_where_the_examples_show_them(tokenizer):
    for task in draw_tasks(100, 6, shots=1):
        labels = label(task, tokenizer(task.prompt)["input_ids"], tokenizer)
        shown = task.shown[0]
        for name, value in zip(DETAILS, labels.styles[1:], strict=True):
            expected = int(getattr(task.style, name)) if getattr(shown, name) else -100
            assert value == expected
    task = next(draw_tasks(1, 7, shots=0))
    assert label(task, tokenizer(task.prompt)["input_ids"], tokenizer).styles == [-100] * 4
