"""Lab 1 as a course: its size, its pictures, and what the stored run of the small world shows."""

import json
import re
from statistics import median

import nbformat
import pytest
from course import code, core, lines, long, words

from utils.lab.notebooks import ROOT

LAB1 = nbformat.read(ROOT / "lab1_prompt_engineering.ipynb", 4)
CORE = core(LAB1)
TEXT = "\n\n".join(cell.source for cell in CORE if cell.cell_type == "markdown")
PICTURE = re.compile(r"!\[([^\]]*)\]\(attachment:([^)]+)\)")


def test_core_has_at_most_60_cells_and_1800_words():
    assert len(CORE) <= 60
    assert words(CORE) <= 1_800


def test_code_cells_have_8_lines_in_the_median_and_20_at_most():
    assert median(map(lines, code(CORE))) <= 8
    assert long(LAB1.cells) == []


def test_one_set_up_cell_is_folded_and_holds_all_imports():
    (setup,) = (cell for cell in LAB1.cells if cell.id == "colab-bootstrap")
    assert setup.source.startswith("# @title Set up\n")
    assert setup.metadata.cellView == "form" and setup.metadata.jupyter.source_hidden
    assert not [
        c.id for c in code(LAB1.cells) if re.search(r"^(import|from) ", c.source, re.MULTILINE)
    ]


def test_learner_predicts_at_least_six_times_before_the_result():
    guesses = [cell for cell in CORE if cell.source.startswith("guess = None  # ")]
    assert len(guesses) >= 6
    assert all("reveal(guess, " in cell.source for cell in guesses)
    assert len(re.findall(r"\*\*Predict", TEXT)) >= len(guesses)


def test_at_least_five_exercises_stand_in_the_sections_with_minutes_and_difficulty():
    title = re.compile(r"^### Exercise (\d+) · .+ \(\d+ minutes, (?:easy|medium|hard)\)$", re.M)
    assert title.findall(TEXT) == ["1", "2", "3", "4", "5"]
    cells = [c for c in LAB1.cells if "exercise" in c.metadata.get("tags", [])]
    titles = title.findall("\n".join(cell.source for cell in LAB1.cells))
    assert len(cells) == len(titles) == "\n".join(c.source for c in LAB1.cells).count("<details>")


def test_every_picture_is_attached_and_has_an_alt_text():
    found = []
    for cell in LAB1.cells:
        for alt, name in PICTURE.findall(cell.source):
            assert len(alt.split()) >= 15, name
            assert cell.attachments[name]["image/png"]
            assert (ROOT / "docs" / "pictures" / name).is_file()
            found.append(name)
    assert found == ["task.png", "rouge.png", "encoder-decoder.png", "few-shot-prompt.png"]


def test_every_section_ends_in_a_takeaway_and_there_is_a_pause_point():
    sections = re.findall(r"^## \d+ · ", TEXT, re.MULTILINE)
    assert TEXT.count("**Takeaway.** ") == len(sections) - 1  # the recap follows the last
    assert TEXT.count("**Pause point.**") == 1


def test_text_tells_what_the_small_world_did_in_callouts_only():
    text = "\n".join(cell.source for cell in LAB1.cells if cell.cell_type == "markdown")
    told = [line for line in text.splitlines() if re.search("small world|small model", line)]
    assert told and all(line.startswith("> **On the small world:** ") for line in told)


# What the stored run shows


RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["lab1"]
COMPARED = RESULTS["compared"]


def test_stored_run_is_that_of_the_small_world():
    assert RESULTS["run"]["embedded_default"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [("zero-shot", "no instruction"), ("one-shot", "zero-shot"), ("few-shot", "one-shot")],
)
def test_each_step_of_the_prompt_gains(better, worse):
    row = COMPARED[f"{better} − {worse}"]
    assert row["low"] > 0 and row["p_holm"] < 0.05


def test_examples_raise_rouge_and_the_facts_told_and_leave_the_right_texts_as_they_are():
    """The callout of section 6: the examples teach what to mention, not how to read."""
    rouge1, told, facts = (RESULTS[measure] for measure in ("rouge1", "told", "facts"))
    assert rouge1["few_shot"]["mean"] >= 1.8 * rouge1["zero_shot"]["mean"]
    assert told["few_shot"]["low"] > told["zero_shot"]["high"]
    assert abs(facts["few_shot"]["mean"] - facts["zero_shot"]["mean"]) < 0.05


def test_baselines_stand_below_the_prompts_with_examples_and_humans_above():
    rouge1 = RESULTS["rouge1"]
    assert rouge1["lead"]["high"] < rouge1["one_shot"]["low"]
    assert rouge1["few_shot"]["high"] < rouge1["human"]["low"]


def test_choice_is_similar_examples_and_beams_make_no_clear_difference():
    """The callout of section 9."""
    first, second, chosen = (RESULTS["choice"][name] for name in ("first", "second", "chosen"))
    assert {first, second} == {"3 similar", "3 similar, 4 beams"} and chosen == "3 similar"
    row = COMPARED[f"{first} − {second}"]
    assert row["low"] <= 0 <= row["high"] or row["p_holm"] >= 0.05


def test_swapped_roles_and_a_constant_sentence_fool_the_cheap_measures():
    assert RESULTS["swapped_roles"]["rouge1"] > 80
    assert RESULTS["right_speakers"]["constant"]["mean"] > 0.2


def test_ten_dialogues_can_be_wrong_by_many_points():
    ten = RESULTS["ten_dialogues"]
    assert ten["width"] > 4 and ten["gain_high"] - ten["gain_low"] > 6


def test_a_cut_question_loses_and_a_leaked_answer_gains():
    assert COMPARED["truncated − few-shot"]["high"] < 0
    assert COMPARED["leaked − one-shot"]["low"] > 0


def test_luck_of_one_example_for_all_moves_the_score():
    assert RESULTS["one_example_for_all"]["best_minus_worst"] > 1
