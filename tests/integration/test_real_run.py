"""The workflow's script, on the loopback hub at toy depth: what it writes, and when it fails."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import small_labs
from hub_checkpoints import SECOND_JUDGE, write_repositories
from loopback_hub import serve
from processes import clean_environment

from tools.real_run import EXPECTED
from utils.lab.notebooks import ROOT

pytestmark = pytest.mark.slow


def real_run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = clean_environment(LABS_PRESET="cpu", HF_HUB_OFFLINE="0", **variables)
    command = [sys.executable, "-m", "tools.real_run", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """All three labs with random weights, checked against the true ranges."""
    folder = tmp_path_factory.mktemp("real")
    sizes = small_labs.variables(MAX_NEW_TOKENS=8, SECOND_JUDGE=SECOND_JUDGE)
    with serve(write_repositories(folder / "hub")) as hub:
        place = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home")}
        summary = {"GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
        options = ("--output-dir", str(folder / "out"))
        done = real_run(*options, HF_HUB_DISABLE_XET="1", **place, **summary, **sizes)
    return done, folder


def test_labs_run_and_results_on_other_dialogues_leave_their_ranges(whole):
    done, folder = whole
    results = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert results.keys() == {"lab1", "lab2", "lab3"}, done.stderr[-2000:]
    assert done.returncode == 1
    assert "lab1 rouge1 human: " in done.stdout and "is outside 56.55 to 56.7 " in done.stdout


def test_the_site_has_pages_results_a_report_and_an_index_that_names_the_failures(whole):
    site = whole[1] / "out" / "site"
    names = {file.name for file in site.iterdir()}
    assert {"index.html", "results.json", "report.json", "report.md"} <= names
    assert len([name for name in names if name.startswith("lab")]) == 3
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "is outside 56.55 to 56.7 " in index and 'href="lab1_prompt_engineering.html"' in index
    assert "is outside" in (whole[1] / "summary.md").read_text(encoding="utf-8")


def ranges(folder: Path, **changes: float) -> str:
    """Ranges as wide as the results of random weights need, with these changes to all."""
    table = pd.read_csv(EXPECTED, keep_default_na=False)
    scores = table["unit"].eq("points")
    table.loc[scores, ["low", "high"]] = [-100, 100]
    table.loc[table["measure"].eq("trainable_percent"), ["low", "high"]] = [0, 100]
    table = table.assign(**changes)
    table.to_csv(folder / "ranges.csv", index=False)
    return str(folder / "ranges.csv")


def test_results_in_their_ranges_end_without_an_error(whole, tmp_path):
    options = ("--labs", "--output-dir", str(whole[1] / "out"))
    done = real_run(*options, "--expected", ranges(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all results are within their expected ranges" in done.stdout


def test_a_range_that_is_violated_on_purpose_is_an_error(whole, tmp_path):
    options = ("--labs", "--output-dir", str(whole[1] / "out"))
    done = real_run(*options, "--expected", ranges(tmp_path, low=99.5))
    assert done.returncode == 1 and "is outside 99.5 to 100" in done.stdout


def test_a_lab_that_stops_is_an_error_that_names_it(tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = real_run("--labs", "1", "--output-dir", str(tmp_path / "out"), **nowhere)
    assert done.returncode == 1
    assert "lab1_prompt_engineering stopped: " in done.stdout
    assert "lab1 rouge1 zero_shot: there is no result" in done.stdout
    assert (tmp_path / "out" / "site" / "lab1_prompt_engineering.html").exists()
