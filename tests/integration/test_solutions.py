"""The folded solutions solve the exercises, in notebooks run small: solutions can't rot."""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from utils.lab.notebooks import NOTEBOOKS, QUIET, ROOT

SMALL = {
    "LABS_PRESET": "offline",
    "LABS_TRAIN_DIALOGUES": "200",
    "LABS_VALIDATION_DIALOGUES": "24",
    "LABS_TEST_DIALOGUES": "24",
    "LABS_BATCH_SIZE": "8",
    "LABS_FULL_EPOCHS": "1",
    "LABS_LORA_EPOCHS": "1",
    "LABS_SWEEP_STEPS": "3",
    "LABS_SWEEP_SEEDS": "1",
    "LABS_PPO_STEPS": "2",
    "LABS_PPO_SEEDS": "2",
    "LABS_PPO_BATCH_SIZE": "8",
    "LABS_JUDGED_DIALOGUES": "12",
}
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)


def exercises(notebook: nbformat.NotebookNode) -> list[tuple[nbformat.NotebookNode, str]]:
    """Each exercise's cell with the solution that follows it."""
    pairs = []
    for position, cell in enumerate(notebook.cells):
        if "exercise" in cell.metadata.get("tags", []):
            later = (
                SOLUTION.search(c.source)
                for c in notebook.cells[position:]
                if c.cell_type == "markdown"
            )
            pairs.append((cell, next(found for found in later if found)[1]))
    return pairs


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_solutions_solve_every_exercise(name, tmp_path):
    notebook = nbformat.read(ROOT / f"{name}.ipynb", 4)
    found = exercises(notebook)
    for cell, solution in found:
        cell.source = solution
    environment = os.environ | QUIET | SMALL | {"LABS_OUTPUT_DIR": str(tmp_path)}
    NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}, timeout=600).execute(
        env=environment
    )
    marks = re.findall(r"^(.) exercise (\d+)", printed(notebook), re.MULTILINE)
    assert marks == [("✓", str(number)) for number in range(1, len(found) + 1)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_notebook_leaves_its_exercises_open(name):
    notebook = nbformat.read(ROOT / f"{name}.ipynb", 4)
    marks = re.findall(r"^(.) exercise (\d+)", printed(notebook), re.MULTILINE)
    assert marks == [("✎", str(number)) for number in range(1, len(exercises(notebook)) + 1)]
    assert len(marks) >= 4
