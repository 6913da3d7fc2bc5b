"""The README's table of results is that of the stored run."""

import json

import pytest

from tools.publish import FIGURES, picture
from utils.lab.notebooks import ROOT
from utils.results import percent, read_results

STORED = ROOT / "docs" / "results.json"


def test_every_row_of_the_results_table_is_in_the_stored_run():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [
        line for line in readme.splitlines() if line.startswith("| lab") and line.count("|") == 7
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    scores = percent(read_results(STORED)).set_index(["lab", "measure", "system"])
    assert len(rows) >= 12
    for lab, measure, system, mean, interval, n in rows:
        stored = scores.loc[(lab, measure, system)]
        assert [mean, interval] == [
            f"{stored['mean']:.1f}",
            f"{stored['low']:.1f} to {stored['high']:.1f}",
        ]
        assert int(n) == stored["n"]


def test_stored_run_is_the_embedded_default():
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert {
        lab: entry["run"]["embedded_default"] for lab, entry in stored.items()
    } == dict.fromkeys(("lab1", "lab2", "lab3"), True)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_the_readme_is_the_one_in_the_stored_notebook(figure):
    assert (ROOT / "docs" / f"{figure}.png").read_bytes() == picture(ROOT, figure)
