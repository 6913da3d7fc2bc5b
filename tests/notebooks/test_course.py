"""Every lab is a course: its size, its predictions, exercises, pictures and takeaways."""

import re
from statistics import median

import nbformat
import pytest
from course import code, core, lines, long, words

from utils.lab.notebooks import NOTEBOOKS, ROOT

PICTURE = re.compile(r"!\[([^\]]*)\]\(attachment:([^)]+)\)")
PREDICT = re.compile(r"\*\*Predict", re.IGNORECASE)
TITLE = re.compile(r"^### Exercise (\d+) · .+ \(\d+ minutes, (?:easy|medium|hard)\)$", re.MULTILINE)
PICTURES = {  # in the order of the lab
    "lab1": ["task", "rouge", "encoder-decoder", "few-shot-prompt"],
    "lab2": ["encoder-decoder", "lora-beside-w", "trained-and-stored"],
    "lab3": ["experiment", "ppo-loop", "clip"],
}
WRITES_A_SCRIPT = {"lab2": ["save-reload"]}  # cells whose imports another process runs


@pytest.fixture(scope="module", params=NOTEBOOKS)
def lab(request) -> tuple[str, list[nbformat.NotebookNode]]:
    """A lab's name and its cells."""
    return request.param[:4], nbformat.read(ROOT / f"{request.param}.ipynb", 4)


def text_of(cells: list[nbformat.NotebookNode]) -> str:
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_core_has_at_most_60_cells_and_1800_words(lab):
    cells = core(lab[1])
    assert len(cells) <= 60
    assert words(cells) <= 1_800


def test_code_cells_have_8_lines_in_the_median_and_20_at_most(lab):
    assert median(map(lines, code(core(lab[1])))) <= 8
    assert long(lab[1].cells) == []


def test_one_folded_cell_sets_everything_up_and_holds_all_imports(lab):
    name, notebook = lab
    (setup,) = (cell for cell in notebook.cells if cell.id == "colab-bootstrap")
    assert setup.source.startswith("# @title Set up\n")
    assert setup.metadata.cellView == "form" and setup.metadata.jupyter.source_hidden is True
    imports = re.compile(r"^(import|from) ", re.MULTILINE)
    found = [cell.id for cell in code(notebook.cells) if imports.search(cell.source)]
    assert found == WRITES_A_SCRIPT.get(name, [])


def test_learner_predicts_at_least_six_times_before_the_result(lab):
    cells = core(lab[1])
    guesses = [cell for cell in lab[1].cells if cell.source.startswith("guess = None  # ")]
    assert sum(cell in cells for cell in guesses) >= 6
    assert all("reveal(guess, " in cell.source for cell in guesses)
    assert len(PREDICT.findall(text_of(cells))) >= sum(cell in cells for cell in guesses)
    assert len(PREDICT.findall(text_of(lab[1].cells))) > len(guesses)  # the box has one more


def test_at_least_five_exercises_stand_in_the_core_with_minutes_and_difficulty(lab):
    cells = lab[1].cells
    titles = TITLE.findall(text_of(cells))
    assert TITLE.findall(text_of(core(lab[1])))[:5] == ["1", "2", "3", "4", "5"]
    assert titles == [str(number) for number in range(1, len(titles) + 1)]
    answers = [cell for cell in cells if "exercise" in cell.metadata.get("tags", [])]
    assert len(answers) == len(titles) == text_of(cells).count("<details>")


def test_every_picture_is_attached_and_has_an_alt_text(lab):
    name, notebook = lab
    found = []
    for cell in notebook.cells:
        for alt, file in PICTURE.findall(cell.source):
            assert len(alt.split()) >= 15, file
            assert cell.attachments[file]["image/png"]
            assert (ROOT / "docs" / "pictures" / file).is_file()
            found.append(file.removesuffix(".png"))
    assert found == PICTURES[name]


def test_every_section_ends_in_a_takeaway_and_there_is_a_pause_point(lab):
    text = text_of(core(lab[1]))
    sections = re.findall(r"^## \d+ · ", text, re.MULTILINE)
    assert text.count("**Takeaway.** ") == len(sections) - 1  # the recap follows the last
    assert text.count("**Pause point.**") == 1


def test_text_tells_what_the_small_world_did_in_callouts_only(lab):
    told = [line for line in text_of(lab[1].cells).splitlines() if "mall world" in line]
    told += [line for line in text_of(lab[1].cells).splitlines() if "small model" in line]
    assert told and all(line.startswith("> **On the small world:** ") for line in told)
