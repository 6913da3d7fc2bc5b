"""Every lab runs from top to bottom: small with its exercises solved, and whole as it is stored."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import small_labs
from nbclient import NotebookClient

from utils.lab.notebooks import NOTEBOOKS, QUIET, ROOT

SYSTEMS = {  # what docs and checks from outside read in results.json
    "lab1": {
        "rouge1": {"zero_shot", "one_shot", "few_shot", "lead", "human"},
        "right_speakers": {"zero_shot", "one_shot", "few_shot"},
        "facts": {"zero_shot", "one_shot", "few_shot"},
    },
    "lab2": {
        "rouge1": {"zero_shot", "full", "lora", "lead", "human"},
        "facts": {"full", "lora"},
    },
    "lab3": {
        name: {"before", "after"}
        for name in ("toxicity", "toxic_share", "second_judge", "facts", "heated_rouge1", "rouge1")
    },
}
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)
CELL_SECONDS = 900


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_small_run_solves_every_exercise_and_writes_every_promised_score(name, tmp_path):
    notebook = nbformat.read(ROOT / f"{name}.ipynb", 4)
    found = exercises(notebook)
    for cell, solution in found:
        cell.source = solution
    execute(notebook, tmp_path)
    solved = [("✓", str(number)) for number in range(1, len(found) + 1)]
    assert marks(notebook) == solved, [line for line in printed(notebook) if "exercise" in line]
    least = small_labs.SIZES["TEST_DIALOGUES"] // (2 if name == NOTEBOOKS[2] else 1)
    assert_results_are_whole(name, read(tmp_path), least)  # Lab 3: the calmer half


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_whole_run_repeats_the_compared_outputs_and_learns_what_the_card_says(name, tmp_path):
    environment = os.environ | QUIET | environment_of(tmp_path)
    nbval = ("--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}")
    options = ("-q", "-p", "no:xdist", "-p", "no:cacheprovider")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *nbval, *options, f"{name}.ipynb"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:]
    results = read(tmp_path)
    assert_results_are_whole(name, results, least=150)
    LEARNED[name](results[name.split("_")[0]])


def learned_by_prompting(lab1: dict) -> None:
    zero_shot, one_shot = (lab1["rouge1"][name] for name in ("zero_shot", "one_shot"))
    assert one_shot["low"] > zero_shot["high"]


def learned_by_fine_tuning(lab2: dict) -> None:
    assert lab2["rouge1"]["full"]["mean"] - lab2["rouge1"]["zero_shot"]["mean"] >= 0.15


def learned_by_ppo(lab3: dict) -> None:
    assert lab3["toxicity"]["before"]["mean"] >= 0.3
    assert lab3["toxicity"]["after"]["high"] < lab3["toxicity"]["before"]["low"]
    assert min(lab3["toxicity_fall_by_seed"]) >= 0.5


LEARNED = dict(
    zip(NOTEBOOKS, (learned_by_prompting, learned_by_fine_tuning, learned_by_ppo), strict=True)
)


def assert_results_are_whole(name: str, results: dict, least: int) -> None:
    """Every promised system has scores with interval and number of dialogues."""
    lab = name.split("_")[0]
    for measure, systems in SYSTEMS[lab].items():
        assert systems <= set(results[lab][measure])
    measures = [entry for entry in results[lab].values() if isinstance(entry, dict)]
    scores = [
        score
        for entry in measures
        for score in entry.values()
        if isinstance(score, dict) and "mean" in score
    ]
    assert all(0 <= s["low"] <= s["mean"] <= s["high"] <= 1 and s["n"] >= least for s in scores)
    run = results[lab]["run"]
    assert run["preset"] == "offline" and {"seed", "seconds", "versions"} <= set(run)
    assert run["embedded_default"] == (least >= 150)
    if lab == "lab2":
        assert results[lab]["trainable_percent"]["full"] == 100
        assert 0 < results[lab]["trainable_percent"]["lora"] < 20
    if lab == "lab3":
        assert abs(results[lab]["kl_first_step"]) < 1e-4


def exercises(notebook: nbformat.NotebookNode) -> list[tuple[nbformat.NotebookNode, str]]:
    """Each exercise's cell with the solution that follows it."""
    pairs = []
    for position, cell in enumerate(notebook.cells):
        if "exercise" in cell.metadata.get("tags", []):
            later = [c.source for c in notebook.cells[position:] if c.cell_type == "markdown"]
            solution = next(match[1] for text in later if (match := SOLUTION.search(text)))
            pairs.append((cell, solution))
    return pairs


def execute(notebook: nbformat.NotebookNode, output_dir: Path, **changes: object) -> None:
    """Run the notebook in place, with the sizes of small_labs, in a kernel of one thread."""
    environment = os.environ | QUIET | environment_of(output_dir)
    environment |= small_labs.variables(**changes)
    place = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, resources=place, timeout=CELL_SECONDS).execute(env=environment)


def environment_of(output_dir: Path) -> dict[str, str]:
    return {"LABS_PRESET": "offline", "LABS_OUTPUT_DIR": str(output_dir)}


def read(output_dir: Path) -> dict:
    return json.loads((output_dir / "results.json").read_text(encoding="utf-8"))


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    outputs = [output for c in notebook.cells if c.cell_type == "code" for output in c.outputs]
    texts = [output.text for output in outputs if output.output_type == "stream"]
    return "".join(texts).splitlines()


def marks(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Mark and number of every exercise, as its check printed them."""
    lines = [re.match(r"(.) exercise (\d+)", line) for line in printed(notebook)]
    return [match.groups() for match in lines if match]


# The stored notebooks


@pytest.fixture(scope="module", params=NOTEBOOKS)
def stored(request) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / f"{request.param}.ipynb", 4)


def test_stored_notebook_leaves_its_exercises_open(stored):
    numbers = range(1, len(exercises(stored)) + 1)
    assert marks(stored) == [("✎", str(number)) for number in numbers]
    assert len(numbers) >= 4


def test_stored_notebook_shows_a_whole_run_in_order(stored):
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_stored_notebook_is_small_and_holds_no_widgets(stored):
    assert len(nbformat.writes(stored).encode()) <= 1_000_000
    assert "widgets" not in stored.metadata
    outputs = [o for cell in stored.cells for o in cell.get("outputs", [])]
    assert not any("widget-view" in kind for o in outputs for kind in o.get("data", {}))


def test_every_figure_of_a_stored_notebook_has_a_text_for_those_who_cannot_see_it(stored):
    outputs = [o for cell in stored.cells for o in cell.get("outputs", [])]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    texts = [figure.metadata.get("image/png", {}).get("alt", "") for figure in figures]
    assert len(figures) >= 4 and all(len(text) >= 30 for text in texts)


def test_headings_of_a_stored_notebook_go_down_one_level_at_a_time(stored):
    cells = [cell.source for cell in stored.cells if cell.cell_type == "markdown"]
    headings = [h for source in cells for h in re.findall(r"^(#+) ", _without_code(source), re.M)]
    levels = [len(marks) for marks in headings]
    assert levels[0] == 1
    assert all(later <= level + 1 for level, later in itertools.pairwise(levels))


def _without_code(source: str) -> str:
    return re.sub(r"```.*?```", "", source, flags=re.DOTALL)


def test_stored_notebook_has_outputs_that_are_compared(stored):
    compared = [c for c in stored.cells if "nbval-check-output" in c.metadata.get("tags", [])]
    assert compared and all(cell.outputs for cell in compared)


def test_stored_notebook_names_no_folder_of_the_machine_it_ran_on(stored):
    text = nbformat.writes(stored)
    assert str(ROOT) not in text and str(Path.home()) not in text
