"""The set-up cell says in one sentence which model runs, where and how long."""

import sys
import types

import nbformat
import pytest
import torch

from utils.finetuning import finetune_arguments
from utils.lab import notebooks, setup
from utils.lab.setup import introduce, set_up
from utils.settings import load_settings

MINUTES = {"offline": 4, "cpu": 30, "gpu": 45}


@pytest.fixture
def gpu(monkeypatch):
    """Make torch find a T4, or no GPU."""

    def found(there: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")

    return found


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """Stand in for google.colab and pip; returns the folders that were mounted."""
    mounted, drive = [], types.ModuleType("google.colab.drive")
    drive.mount = mounted.append
    module = types.ModuleType("google.colab")
    module.drive = drive
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(setup.subprocess, "run", lambda command, check: None)
    monkeypatch.chdir(tmp_path)
    for name in ("LABS_OUTPUT_DIR", "LABS_RESUME"):
        monkeypatch.setenv(name, "")  # so that the test's end removes what set_up sets
        monkeypatch.delenv(name)
    return mounted


def test_without_a_gpu_the_small_world_runs_and_the_way_to_flan_t5_is_shown(capsys, gpu):
    gpu(False)
    introduce(load_settings(), "Lab 1", MINUTES)
    assert capsys.readouterr().out.splitlines() == [
        "Lab 1 runs the small world's T5 on this CPU (preset offline) and takes about 4 minutes.",
        "No CUDA GPU was found. To run flan-t5-small on this CPU (about 30 minutes), rerun "
        'this cell with load_settings("cpu").',
    ]


def test_with_a_gpu_flan_t5_base_runs_and_no_hint_is_needed(capsys, gpu):
    gpu(True)
    introduce(load_settings(), "Lab 1", MINUTES)
    assert capsys.readouterr().out.splitlines() == [
        "Lab 1 runs flan-t5-base on Tesla T4 (preset gpu) and takes about 45 minutes."
    ]


def test_small_world_on_a_gpu_comes_with_a_hint_about_flan_t5_base(capsys, gpu):
    gpu(True)
    introduce(load_settings("offline"), "Lab 1", MINUTES)
    assert "To run flan-t5-base on Tesla T4 (about 45 minutes), rerun" in capsys.readouterr().out


def test_colab_without_a_gpu_says_how_to_switch_it_on_and_goes_on_with_the_small_world(
    capsys, gpu, colab
):
    gpu(False)
    introduce(load_settings(), "Lab 1", MINUTES)
    said = capsys.readouterr().out
    assert "Lab 1 runs the small world's T5" in said
    assert "Runtime > Change runtime type > T4 GPU" in said


def test_colabs_switch_keeps_results_on_drive_resumes_training_and_can_be_turned_back(colab):
    set_up()
    assert colab == [] and load_settings().output_dir == "out"
    set_up(keep_on_drive=True)
    assert colab == ["/content/drive"]
    assert load_settings().output_dir == setup.DRIVE and load_settings().resume
    arguments = finetune_arguments(load_settings(), "lora")
    assert arguments["resume"]
    set_up(keep_on_drive=False)
    assert load_settings().output_dir == "out" and not load_settings().resume


def test_page_shows_the_set_up_cells_output_without_its_source(tmp_path):
    cell = nbformat.v4.new_code_cell("print(6 * 7)", metadata={"jupyter": {"source_hidden": True}})
    cell.outputs = [nbformat.v4.new_output("stream", text="42 said\n")]
    notebooks.write_with_page(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "lab.ipynb")
    page = (tmp_path / "lab.html").read_text(encoding="utf-8")
    assert "42 said" in page and ">print<" not in page
    assert "transient" not in (tmp_path / "lab.ipynb").read_text(encoding="utf-8")


def test_page_gives_a_figures_text_to_those_who_cannot_see_it(tmp_path):
    data, alt = {"image/png": "aGk="}, {"image/png": {"alt": "Width; 30 at 10 to 60 at 100."}}
    cell = nbformat.v4.new_code_cell("plots.show()", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", data=data, metadata=alt)]
    notebooks.write_with_page(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "lab.ipynb")
    page = (tmp_path / "lab.html").read_text(encoding="utf-8")
    assert 'alt="Width; 30 at 10 to 60 at 100."' in page
