"""Pages: results are those of the stored run, links lead somewhere, the README is short."""

import json
import re
import shlex

import pytest

from tools.publish import DOCS, FIGURES, SYSTEMS, picture, results_tables
from utils.cli import _parser, training_arguments
from utils.lab.notebooks import ROOT
from utils.results import read_results
from utils.settings import parse_overrides

STORED = DOCS / "results.json"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def test_readme_has_at_most_700_words():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_of_a_page_leads_to_a_file_and_its_heading(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.is_file(), link
        if heading:
            assert heading in headings(target.read_text(encoding="utf-8")), link


def headings(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def quoted_commands() -> list[str]:
    """Arguments of every `python -m utils …` on the pages, also of those over several lines."""
    texts = [page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES]
    found = [line for text in texts for line in re.findall(r"-m utils (\w[^#`\n]*)", text)]
    return [" ".join(line.replace("…", "").split()) for line in found]


@pytest.mark.parametrize("command", quoted_commands())
def test_a_command_on_a_page_is_one_that_the_command_line_takes(command):
    arguments = _parser().parse_args(shlex.split(command))
    trains = arguments.command in ("finetune", "ppo")
    parse_overrides(arguments.set, training_arguments(arguments.command) if trains else {})


def test_pages_show_every_command():
    shown = {command.split()[0] for command in quoted_commands()}
    assert shown >= {"labs", "finetune", "ppo", "summarize", "evaluate", "toxicity"}


def test_every_example_in_contributing_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    examples, names = re.findall(r"```python\n(.*?)```", text, re.DOTALL), {}
    for example in examples:
        exec(example, names)
    said = capsys.readouterr().out
    assert len(examples) == 5
    for line in ("'questions': 0.5", "brevity", "trainable params", "beats lead-1", "✓ exercise 1"):
        assert line in said


@pytest.mark.parametrize(("lab", "measure"), SYSTEMS)
def test_every_row_of_the_results_page_has_the_stored_mean_interval_and_number_of_dialogues(
    lab, measure
):
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    scores = read_results(STORED).set_index(["lab", "measure", "system"])
    for system, name in SYSTEMS[lab, measure].items():
        row = scores.loc[(lab, measure, system)]
        mean, low, high = (f"{round(100 * row[name], 6):.1f}" for name in ("mean", "low", "high"))
        assert f"| {name} | {mean} | {low} to {high} | {row['n']:.0f} |" in page


def test_results_page_holds_the_tables_of_the_stored_run():
    assert results_tables(STORED) in (DOCS / "results.md").read_text(encoding="utf-8")


def test_stored_run_is_the_small_worlds():
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert {
        lab: entry["run"]["embedded_default"] for lab, entry in stored.items()
    } == dict.fromkeys(("lab1", "lab2", "lab3"), True)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_in_docs_is_the_one_in_the_stored_notebook(figure):
    assert (DOCS / f"{figure}.png").read_bytes() == picture(ROOT, figure)
