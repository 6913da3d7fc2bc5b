"""The report of a run holds its scores, times and hardware, and nothing personal."""

import json
import platform

import pandas as pd
import pytest

from utils.cli import main
from utils.lab.report import as_issue, report, write_report
from utils.results import hardware, interval_table, record
from utils.settings import load_settings

SCORES = {"zero_shot": pd.DataFrame({"rouge1": [0.2, 0.3, 0.4], "words": [10.0, 11.0, 12.0]})}
CANARIES = ("jane-doe", "canary-host", "hf_canaryToken", "secret-project")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An output folder whose path, settings, results and environment hold personal texts."""
    for name in ("USER", "HOSTNAME", "HF_TOKEN"):
        monkeypatch.setenv(name, "-".join(CANARIES))
    monkeypatch.setattr(platform, "node", lambda: "canary-host")
    folder = tmp_path / "jane-doe" / "out"
    settings = load_settings(
        "cpu",
        model=str(tmp_path / "jane-doe" / "model"),
        dataset="jane-doe/secret-project",
        second_judge="/secret-project/judge",
        second_judge_labels="jane-doe,neutral",
        output_dir=str(folder),
    )
    systems = SCORES | {"jane-doe's model": SCORES["zero_shot"]}
    figures = {"jane-doe": {"zero_shot": {"mean": 1, "low": 1, "high": 1, "n": 1}}}
    record("lab1", interval_table(systems), settings, 1234.0, figures | {"note": "secret-project"})
    record("evaluate", interval_table(SCORES), settings, 1.0)
    file = folder / "results.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    whole["lab1"]["run"]["versions"] |= {"jane-doe": "1", "torch": "/srv/jane-doe/torch"}
    whole["lab1"]["run"]["hardware"] |= {"host": "canary-host"}
    file.write_text(json.dumps(whole), encoding="utf-8")
    return folder


def test_nothing_personal_is_in_the_report_or_its_text(folder):
    for file in write_report(folder):
        text = file.read_text(encoding="utf-8")
        found = [word for word in (*CANARIES, str(folder)) if word in text]
        assert not found


def test_the_report_has_scores_with_intervals_time_hardware_versions_and_settings(folder):
    told = report(folder / "results.json")
    (rouge,) = (row for row in told["scores"] if row["measure"] == "rouge1")
    assert (rouge["lab"], rouge["system"], rouge["n"]) == ("lab1", "zero_shot", 3)
    assert rouge["mean"] == pytest.approx(0.3) and rouge["low"] < 0.3 < rouge["high"]
    run = told["runs"]["lab1"]
    assert run["preset"] == "cpu" and run["minutes"] == 20.6
    assert run["hardware"]["threads"] == hardware()["threads"]
    assert run["versions"]["transformers"].startswith("5.")
    assert run["settings"]["train_dialogues"] == str(load_settings("cpu").train_dialogues)


def test_models_of_the_presets_are_named_and_others_are_not(folder):
    settings = report(folder / "results.json")["runs"]["lab1"]["settings"]
    assert settings["reward_model"] == "facebook/roberta-hate-speech-dynabench-r4-target"
    assert settings["model"] == settings["dataset"] == settings["second_judge"] == "another"


def test_the_small_worlds_models_and_public_flan_t5_are_named(tmp_path):
    for model, shown in ((None, "utils/offline/t5"), ("google/flan-t5-xl", "google/flan-t5-xl")):
        given = {"model": model} if model else {}
        settings = load_settings("offline", output_dir=str(tmp_path), **given)
        file = record("lab1", interval_table(SCORES), settings, 1.0)
        assert report(file)["runs"]["lab1"]["settings"]["model"] == shown


def test_the_text_is_markdown_in_points(folder):
    text = as_issue(report(folder / "results.json"))
    assert "**lab1**, preset cpu: 20.6 minutes" in text
    assert "| lab1 | rouge1 | zero_shot | 30.0 | " in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_the_command_writes_both_files_and_says_how_to_send_them(folder, capsys):
    assert main(["report", "--output-dir", str(folder)]) == 0
    said = capsys.readouterr()
    assert "report.json" in said.out and "open an issue" in said.out and said.err == ""


def test_without_a_run_the_error_names_the_remedy(tmp_path, capsys):
    assert main(["report", "--output-dir", str(tmp_path)]) == 1
    assert "has no run of a lab: run one first" in capsys.readouterr().err


def test_hardware_names_the_processor_and_never_the_machine():
    assert set(hardware()) == {
        *("system", "processor", "instructions", "threads", "memory_gb", "gpu", "gpu_memory_gb")
    }
    assert platform.node() not in json.dumps(hardware())
    assert hardware()["memory_gb"] >= 1
