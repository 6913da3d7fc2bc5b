"""The set-up cell says in one sentence which model runs, where and how long."""

import nbformat
import pytest

from utils.lab import notebooks
from utils.lab.setup import introduce
from utils.settings import load_settings

MINUTES = {"offline": 4, "cpu": 30, "gpu": 45}


def test_small_world_is_named_with_the_way_to_flan_t5(capsys):
    introduce(load_settings("offline"), "Lab 1", MINUTES)
    said = capsys.readouterr().out
    assert said.startswith("Lab 1 runs the small world's T5 on ")
    assert "about 4 minutes" in said and 'load_settings("gpu")' in said


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_flan_t5_needs_no_such_hint(preset, capsys):
    introduce(load_settings(preset), "Lab 1", MINUTES)
    said = capsys.readouterr().out
    assert said.startswith("Lab 1 runs flan-t5-base on ")
    assert f"about {MINUTES[preset]} minutes" in said and "load_settings" not in said


def test_page_shows_the_set_up_cells_output_without_its_source(tmp_path):
    cell = nbformat.v4.new_code_cell("print(6 * 7)", metadata={"jupyter": {"source_hidden": True}})
    cell.outputs = [nbformat.v4.new_output("stream", text="42 said\n")]
    notebooks._write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "lab.ipynb")
    page = (tmp_path / "lab.html").read_text(encoding="utf-8")
    assert "42 said" in page and ">print<" not in page
    assert "transient" not in (tmp_path / "lab.ipynb").read_text(encoding="utf-8")
