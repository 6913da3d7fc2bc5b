"""python -m utils: bad input ends in one line that names the value and the remedy."""

import os
import subprocess
import sys

import nbformat
import pytest

from utils import commands
from utils.cli import _parser
from utils.lab import notebooks as labs
from utils.lab.notebooks import ROOT


def run_labs(tmp_path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "utils",
        "labs",
        "--output-dir",
        str(tmp_path / "out"),
        *arguments,
    ]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def test_unknown_preset_is_refused_before_anything_runs(tmp_path):
    run = run_labs(tmp_path, "--preset", "fast")
    assert run.returncode == 1
    assert run.stderr.strip().splitlines() == [
        "error: unknown preset 'fast': choose auto, offline, cpu, gpu"
    ]
    assert not (tmp_path / "out").exists()


def test_unknown_variable_is_refused_before_anything_runs(tmp_path):
    run = run_labs(tmp_path, LABS_PRESET="offline", LABS_EPOCHS="3")
    assert run.returncode == 1
    assert run.stderr.startswith("error: unknown variable LABS_EPOCHS: choose from ")


@pytest.mark.parametrize("variable", ["LABS_DATASET", "LABS_MODEL"])
def test_missing_folder_stops_the_lab_with_one_clear_line(tmp_path, variable):
    run = run_labs(
        tmp_path, "--only", "1", LABS_PRESET="offline", HF_HUB_OFFLINE="1", **{variable: "no/such"}
    )
    assert run.returncode == 1
    (message,) = (line for line in run.stderr.splitlines() if line.startswith("error: "))
    assert "no/such" in message and "LABS_PRESET=offline" in message
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_kernel_that_dies_is_told_and_what_had_run_is_written(tmp_path, monkeypatch):
    cells = [
        nbformat.v4.new_code_cell("print('so far')"),
        nbformat.v4.new_code_cell("import os; os._exit(1)"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "deadly.ipynb")
    monkeypatch.setattr(labs, "ROOT", tmp_path)
    with pytest.raises(labs.LabError, match=r"deadly stopped: its kernel died.*LABS_BATCH_SIZE=4"):
        labs.run_lab("deadly", tmp_path / "out", {})
    assert "so far" in (tmp_path / "out" / "deadly.html").read_text(encoding="utf-8")


def test_overrides_may_be_given_together_or_one_by_one():
    together, apart = ["--set", "seed=7", "few_shot=2"], ["--set", "seed=7", "--set", "few_shot=2"]
    for arguments in (together, apart):
        settings = commands._settings(_parser().parse_args(["evaluate", *arguments]))
        assert (settings.preset, settings.seed, settings.few_shot) == ("offline", 7, 2)


def test_the_output_folder_is_that_of_the_option_else_of_the_override_else_of_the_variable(
    monkeypatch,
):
    def folder(*arguments: str) -> str:
        return commands._settings(_parser().parse_args(["evaluate", *arguments])).output_dir

    monkeypatch.setenv("LABS_OUTPUT_DIR", "a")
    assert folder() == "a"
    assert folder("--set", "output_dir=b") == "b"
    assert folder("--set", "output_dir=b", "--output-dir", "c") == "c"


def test_a_stopped_lab_shows_no_output_of_an_earlier_run(tmp_path, monkeypatch):
    monkeypatch.setattr(labs, "ROOT", tmp_path)
    notebook = nbformat.v4.new_notebook()
    for source in ("print('new')", "1 / 0", "print('never')"):
        cell = nbformat.v4.new_code_cell(source, execution_count=7)
        cell.outputs = [nbformat.v4.new_output("stream", text="of an earlier run")]
        cell.metadata["execution"] = {"iopub.execute_input": "2001-01-01T00:00:00Z"}
        notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "stale.ipynb")
    with pytest.raises(labs.LabError, match="ZeroDivisionError"):
        labs.run_lab("stale", tmp_path / "out", {})
    first, second, third = nbformat.read(tmp_path / "out" / "stale.ipynb", as_version=4).cells
    assert (
        first.outputs[0].text == "new\n"
        and second.outputs[0].output_type == "error"
        and third.outputs == []
    )
    assert third.execution_count is None and "execution" not in third.metadata
    assert "of an earlier run" not in (tmp_path / "out" / "stale.html").read_text(encoding="utf-8")
