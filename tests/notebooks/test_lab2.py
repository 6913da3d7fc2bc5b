"""Lab 2 as a course: its size, its pictures, and what the stored run of the small world shows."""

import json
import re
from statistics import median

import nbformat
import pytest
from course import code, core, lines, long, words

from utils.lab.notebooks import ROOT
from utils.settings import load_settings

LAB2 = nbformat.read(ROOT / "lab2_fine_tuning.ipynb", 4)
CORE = core(LAB2)
TEXTS = [cell for cell in LAB2.cells if cell.cell_type == "markdown"]


def test_core_has_at_most_60_cells_and_1800_words():
    assert len(CORE) <= 60
    assert words(CORE) <= 1_800


def test_code_cells_have_8_lines_in_the_median_and_20_at_most():
    assert median(map(lines, code(CORE))) <= 8
    assert long(LAB2.cells) == []


def test_one_folded_cell_sets_everything_up():
    (cell,) = (cell for cell in LAB2.cells if cell.id == "colab-bootstrap")
    assert cell.source.startswith("# @title Set up")
    assert cell.metadata["cellView"] == "form"
    assert cell.metadata["jupyter"]["source_hidden"] is True
    imports = [
        c.id for c in code(LAB2.cells) if re.search(r"^(import|from) ", c.source, re.MULTILINE)
    ]
    assert imports in ([], ["save-reload"])  # the latter writes another process's script


def test_learner_predicts_at_least_six_times_before_the_result():
    guesses = [cell for cell in LAB2.cells if cell.source.startswith("guess = None  # ")]
    assert sum(cell in CORE for cell in guesses) >= 6
    assert all("reveal(guess, " in cell.source for cell in guesses)
    text = "\n".join(cell.source for cell in TEXTS)
    assert len(re.findall(r"\*\*Predict", text, re.IGNORECASE)) > len(guesses)


def test_at_least_five_exercises_stand_inside_the_core_with_minutes_and_difficulty():
    titles = re.findall(
        r"^### Exercise (\d+) · .+ \(\d+ minutes, (?:easy|medium|hard)\)$",
        "\n".join(cell.source for cell in CORE),
        re.MULTILINE,
    )
    assert titles == [str(n) for n in range(1, len(titles) + 1)] and len(titles) >= 5


def test_every_picture_is_attached_and_has_an_alt_text():
    used = 0
    for cell in TEXTS:
        for alt, name in re.findall(r"!\[(.*?)\]\(attachment:(.*?)\)", cell.source):
            assert len(alt.split()) >= 8 and name in cell["attachments"]
            used += 1
    assert used >= 3


def test_every_section_ends_in_a_takeaway_and_there_is_a_pause_point():
    assert sum(cell.source.count("**Pause point.**") for cell in CORE) == 1
    sections = re.findall(r"^## \d+ · ", "\n".join(c.source for c in CORE), re.MULTILINE)
    takeaways = sum(cell.source.count("**Takeaway.**") for cell in CORE)
    assert takeaways == len(sections) - 1  # the last ends in the recap


def test_text_tells_what_the_small_world_did_in_callouts_only():
    text = "\n".join(cell.source for cell in TEXTS)
    told = [line for line in text.splitlines() if re.search("small world|small model", line)]
    assert told and all(line.startswith("> **On the small world:** ") for line in told)


# What the stored run shows

RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["lab2"]


def test_stored_run_is_that_of_the_small_world():
    assert RESULTS["run"]["embedded_default"] and RESULTS["run"]["seed"] == 42


@pytest.mark.parametrize("method", ["full", "lora"])
def test_fine_tuning_beats_every_prompt_and_lead_2(method):
    rouge1 = RESULTS["rouge1"]
    for rival in ("zero_shot", "one_shot", "few_shot", "lead"):
        assert rouge1[method]["low"] > rouge1[rival]["high"]


@pytest.mark.parametrize("pair", ["full fine-tuning − zero-shot", "LoRA − zero-shot"])
def test_paired_intervals_against_zero_shot_lie_above_zero(pair):
    row = RESULTS["compared"][pair]
    assert row["low"] > 0 and row["p_holm"] < 0.05


def test_lead_2_is_the_floor_and_full_fine_tuning_comes_within_two_points_of_humans():
    means = {name: score["mean"] for name, score in RESULTS["rouge1"].items()}
    assert means["lead"] == min(means.values()) and means["human"] == max(means.values())
    assert means["human"] - means["full"] < 0.02


def test_full_fine_tuning_beats_lora_by_more_than_two_seeds_differ():
    row = RESULTS["compared"]["full fine-tuning − LoRA"]
    assert row["low"] > 0 and row["p_holm"] < 0.05
    scores = [list(own.values()) for own in RESULTS["rouge1_by_seed"].values()]
    assert row["difference"] > 100 * max(max(own) - min(own) for own in scores)


def test_lora_leaves_something_to_learn():
    assert RESULTS["rouge1"]["lora"]["high"] < RESULTS["rouge1"]["human"]["low"]


def test_rouge_doubles_and_more_facts_are_told_while_the_share_of_right_texts_stays():
    """The callout of section 6."""
    rouge1, told, facts = (RESULTS[measure] for measure in ("rouge1", "told", "facts"))
    assert told["zero_shot"]["mean"] < 0.7
    for method in ("full", "lora"):
        assert rouge1[method]["mean"] > 2 * rouge1["zero_shot"]["mean"]
        assert abs(told[method]["mean"] - 0.9) < 0.04
        assert abs(facts[method]["mean"] - facts["zero_shot"]["mean"]) < 0.05


def test_lora_trains_a_small_share_and_full_fine_tuning_everything():
    share = RESULTS["trainable_percent"]
    assert share["full"] == 100 and 0 < share["lora"] < 10


def test_both_seeds_of_each_method_are_stored():
    seeds = {f"seed {load_settings('offline').seed + i}" for i in (0, 1)}
    assert all(set(own) == seeds for own in RESULTS["rouge1_by_seed"].values())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_facts_are_stored_with_their_intervals(method):
    score = RESULTS["facts"][method]
    assert 0 < score["low"] <= score["mean"] <= score["high"] <= 1


def test_training_on_test_dialogues_pays_on_them_more_than_on_the_others():
    cheat = RESULTS["cheat"]
    assert cheat["leaked"]["low"] > 0 and cheat["leaked"]["low"] > cheat["other"]["high"]
