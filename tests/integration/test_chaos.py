"""tools.chaos kills a run at a random moment, resumes it, and finds the same weights."""

import os

import pandas as pd
import pytest

from tools import chaos


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_run_killed_at_a_random_moment_ends_with_the_same_weights(tmp_path, capsys):
    file = tmp_path / "chaos.csv"
    line = ["--kills", "1", "--only", "finetune", "--processes", "1", "--output", str(file)]
    assert chaos.main(line) == 0
    (row,) = pd.read_csv(file).to_dict("records")
    assert row["command"] == "finetune" and row["same"]


def test_other_weights_are_told(tmp_path, monkeypatch, capsys):
    rows = [{"command": "ppo", "processes": 1, "second": 1.0, "checkpoints": 1, "same": False}]
    monkeypatch.setattr(chaos, "torment", lambda *arguments: rows)
    line = ["--only", "ppo", "--processes", "1", "--output", str(tmp_path / "chaos.csv")]
    assert chaos.main(line) == 1
