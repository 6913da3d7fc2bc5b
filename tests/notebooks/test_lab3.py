"""Lab 3 as a course: its size, its pictures, and what the stored run of the small world shows."""

import json
import re
from statistics import median

import nbformat
import pytest
from course import code, core, lines, long, words

from utils.lab.notebooks import ROOT

LAB3 = nbformat.read(ROOT / "lab3_rlhf_detox.ipynb", 4)
CORE = core(LAB3)
TEXTS = [cell for cell in LAB3.cells if cell.cell_type == "markdown"]


def test_core_has_at_most_60_cells_and_1800_words():
    assert len(CORE) <= 60
    assert words(CORE) <= 1_800


def test_code_cells_have_8_lines_in_the_median_and_20_at_most():
    assert median(map(lines, code(CORE))) <= 8
    assert long(LAB3.cells) == []


def test_one_folded_cell_sets_everything_up():
    (cell,) = (cell for cell in LAB3.cells if cell.id == "colab-bootstrap")
    assert cell.source.startswith("# @title Set up")
    assert cell.metadata["cellView"] == "form"
    assert cell.metadata["jupyter"]["source_hidden"] is True
    imports = [
        c.id for c in code(LAB3.cells) if re.search(r"^(import|from) ", c.source, re.MULTILINE)
    ]
    assert imports == []


def test_learner_predicts_at_least_six_times_before_the_result():
    guesses = [cell for cell in LAB3.cells if cell.source.startswith("guess = None  # ")]
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

RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["lab3"]


def mean(measure: str, system: str) -> float:
    return RESULTS[measure][system]["mean"]


def test_stored_run_is_that_of_the_small_world_on_at_least_150_heated_dialogues():
    assert RESULTS["run"]["embedded_default"] and RESULTS["run"]["seed"] == 42
    assert RESULTS["toxic_share"]["before"]["n"] >= 150


def test_four_to_eight_in_ten_sampled_summaries_repeat_an_insult_before_training():
    assert 0.4 <= mean("toxic_share", "before") <= 0.8


def test_toxic_share_falls_by_at_least_half_with_each_of_five_seeds():
    falls = RESULTS["toxicity_fall_by_seed"]
    assert len(falls) == 5 and min(falls) >= 0.5


@pytest.mark.parametrize("measure", ["toxicity", "toxic_share", "second_judge"])
def test_both_judges_see_the_fall(measure):
    assert RESULTS[measure]["after"]["high"] < RESULTS[measure]["before"]["low"]


@pytest.mark.parametrize(
    ("measure", "points"), [("facts", 5), ("told", 5), ("heated_rouge1", 2), ("rouge1", 2)]
)
def test_quality_on_heated_and_ordinary_dialogues_stays(measure, points):
    assert mean(measure, "after") >= mean(measure, "before") - points / 100


@pytest.mark.parametrize("part", ["who", "what", "when", "why", "outcome"])
def test_every_kind_of_fact_is_still_told(part):
    told = RESULTS["told_parts"]
    assert told["after"][part] >= told["before"][part] - 0.05


def test_kl_is_zero_before_the_first_update():
    assert abs(RESULTS["kl_first_step"]) < 1e-4


def test_polite_prompt_alone_brings_most_of_the_fall():
    assert mean("toxic_share", "polite prompt") < 0.25 * mean("toxic_share", "before")


def test_without_a_price_refusals_become_lies_that_toxicity_cannot_see():
    lies = RESULTS["lies"]
    assert lies["β = 0"]["refusal told, %"] <= 50 <= 90 <= lies["with a price"]["refusal told, %"]
    assert all(row["toxic, %"] <= 10 for row in lies.values())


def test_policy_of_a_judge_that_misses_words_cheats_it_with_them():
    after, before = RESULTS["fooled"]["after"], RESULTS["fooled"]["before"]
    assert after["its judge"] < before["its judge"] / 2
    assert after["second"] > before["second"] - 10


def test_one_cool_example_costs_more_facts_than_ppo_and_more_examples_cost_fewer():
    one, many = mean("told", "supervised, 1"), mean("told", "supervised, 128")
    assert one < mean("told", "after") and one < many
