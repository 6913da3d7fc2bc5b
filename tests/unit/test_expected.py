"""Published scores have sources, expected ranges are checked, and the page shows both."""

import json
import re

import pandas as pd
import pytest
import yaml

from tools import publish
from tools.real_run import EXPECTED, unexpected
from utils.lab.notebooks import ROOT

PAGE = (ROOT / "docs" / "expected.md").read_text(encoding="utf-8")
RANGES = pd.read_csv(EXPECTED, keep_default_na=False)
PUBLISHED = pd.read_csv(ROOT / "docs" / "published.csv", dtype=str, keep_default_na=False)


def test_the_page_shows_the_tables_as_they_are_stored():
    assert publish.expected_table() in PAGE and publish.published_table() in PAGE


def test_every_published_score_names_its_source_and_its_size():
    assert PUBLISHED["source"].ne("").all() and PUBLISHED["size"].ne("").all()
    without = PUBLISHED[PUBLISHED["address"].eq("") & PUBLISHED["size"].ne("none")]
    assert without["source"].str.contains("addresses not kept").all()


def test_every_expected_range_has_a_label_and_a_reason():
    assert set(RANGES["label"]) == {"expectation", "measured by us"}
    assert RANGES["reason"].ne("").all() and (RANGES["low"] < RANGES["high"]).all()


def test_no_score_of_a_model_is_called_measured():
    measured = RANGES[RANGES["label"].eq("measured by us")]
    assert set(measured["system"]) - {"lora"} == {"lead", "human"}
    assert set(measured.query("system == 'lora'")["measure"]) == {"trainable_percent"}


# The check


@pytest.fixture
def check(tmp_path):
    """Return a function that checks results against one range."""

    def checked(results: dict, **changes: object) -> list[str]:
        row = {
            **{"preset": "cpu", "lab": "lab1", "measure": "rouge1", "system": "zero_shot"},
            **{"scale": 100, "low": 20, "high": 30, "label": "expectation", "reason": "so"},
        }
        pd.DataFrame([row | changes]).to_csv(tmp_path / "ranges.csv", index=False)
        (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
        return unexpected(tmp_path / "results.json", tmp_path / "ranges.csv", "cpu")

    return checked


def lab1(**scores: float) -> dict:
    return {"lab1": {"rouge1": {name: {"mean": score} for name, score in scores.items()}}}


@pytest.mark.parametrize("score", [0.2, 0.25, 0.3])
def test_a_result_in_its_range_passes(check, score):
    assert check(lab1(zero_shot=score)) == []


@pytest.mark.parametrize("score", [0.199, 0.301, float("nan")])
def test_a_result_outside_its_range_fails_with_the_value_the_range_and_the_reason(check, score):
    (said,) = check(lab1(zero_shot=score))
    assert re.fullmatch(r"lab1 rouge1 zero_shot: \S+ is outside 20 to 30 \(expectation: so\)", said)


def test_a_missing_result_fails(check):
    assert check({}) == check(lab1(lead=0.2)) == ["lab1 rouge1 zero_shot: there is no result"]


def test_a_difference_of_two_systems_has_a_range_of_its_own(check):
    pair = {"system": "full − zero_shot", "low": 5, "high": 10}
    assert check(lab1(full=0.31, zero_shot=0.25), **pair) == []
    assert check(lab1(full=0.25, zero_shot=0.31), **pair) != []
    assert check(lab1(full=0.25), **pair) != []


def test_a_figure_without_intervals_can_have_a_range(check):
    figure = {"measure": "kl_first_step", "system": "", "scale": 1, "low": -1e-4, "high": 1e-4}
    assert check({"lab1": {"kl_first_step": 0.0}}, **figure) == []
    assert check({"lab1": {"kl_first_step": 27.0}}, **figure) != []
    percent = {"measure": "trainable_percent", "system": "lora", "scale": 1, "low": 1, "high": 2}
    assert check({"lab1": {"trainable_percent": {"lora": 1.4}}}, **percent) == []


def test_a_preset_without_ranges_is_no_success(check):
    assert check(lab1(zero_shot=0.25), preset="gpu") == [
        "ranges.csv has no range for the preset cpu"
    ]


# The workflow

WORKFLOW = ROOT / ".github" / "workflows" / "real.yml"


def test_the_workflow_pins_every_action_by_its_commit():
    used = re.findall(r"uses: (\S+)", WORKFLOW.read_text(encoding="utf-8"))
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)


def test_the_workflow_may_read_the_project_and_write_pages_and_nothing_else():
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["labs"]["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["pages"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert workflow["jobs"]["pages"]["needs"] == "labs"


def test_the_workflow_runs_the_cpu_preset_for_at_most_six_hours():
    job = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["labs"]
    assert job["env"]["LABS_PRESET"] == "cpu" and job["timeout-minutes"] == 360
    assert any("python -m tools.real_run" in step.get("run", "") for step in job["steps"])
