"""The three notebooks run from top to bottom on the embedded default, each on its own, and write what they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from utils.lab.notebooks import NOTEBOOKS, QUIET, ROOT

SCORES = {
    "lab1.rouge1": {"zero_shot", "one_shot", "few_shot", "chosen", "lead", "human"},
    "lab2.rouge1": {"zero_shot", "full", "lora", "lead", "human"},
    "lab3.toxicity": {"before", "after"},
    "lab3.rouge1": {"before", "after"},
}


@pytest.fixture(scope="module", params=NOTEBOOKS)
def executed(request, tmp_path_factory) -> tuple[str, dict]:
    """A lab's number and the results that it wrote, run by nbval in a folder of its own."""
    output_dir = tmp_path_factory.mktemp("out")
    environment = (
        os.environ | QUIET | {"LABS_PRESET": "offline", "LABS_OUTPUT_DIR": str(output_dir)}
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=600",
        "-q",
    ]
    notebook = f"{request.param}.ipynb"
    run = subprocess.run(
        [*command, notebook], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-6000:]
    lab = request.param.split("_")[0]
    return lab, json.loads((output_dir / "results.json").read_text(encoding="utf-8"))[lab]


def test_notebook_runs_and_writes_its_results(executed):
    lab, results = executed
    for key, systems in SCORES.items():
        if key.startswith(lab):
            assert systems <= set(results[key.split(".")[1]])


def test_every_score_lies_within_its_interval_and_tells_its_number_of_dialogues(executed):
    _, results = executed
    measures = [measure for measure in results.values() if isinstance(measure, dict)]
    scores = [
        s for measure in measures for s in measure.values() if isinstance(s, dict) and "mean" in s
    ]
    assert scores
    assert all(0 <= s["low"] <= s["mean"] <= s["high"] <= 1 and s["n"] >= 100 for s in scores)


def test_results_tell_where_they_come_from(executed):
    _, results = executed
    assert {"preset", "seed", "seconds", "versions"} <= set(results["run"])
    assert results["run"]["embedded_default"]


def test_lab_specific_figures(executed):
    lab, results = executed
    if lab == "lab2":
        assert results["trainable_percent"]["full"] == 100
        assert 0 < results["trainable_percent"]["lora"] < 20
    if lab == "lab3":
        assert abs(results["kl_first_step"]) < 1e-4


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_notebook_shows_a_whole_run_in_order(name):
    cells = [c for c in nbformat.read(ROOT / f"{name}.ipynb", 4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert (
        sum(
            output.output_type in ("execute_result", "display_data", "stream") for output in outputs
        )
        > len(cells) / 2
    )
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for output in outputs
    )
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_notebook_has_outputs_that_are_compared(name):
    cells = nbformat.read(ROOT / f"{name}.ipynb", 4).cells
    compared = [c for c in cells if "nbval-check-output" in c.metadata.get("tags", [])]
    assert compared and all(c.outputs for c in compared)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_notebook_names_no_folder_of_the_machine_it_ran_on(name):
    text = Path(ROOT / f"{name}.ipynb").read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) not in text
