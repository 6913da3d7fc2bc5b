"""The script that measures the presets, at toy size."""

import subprocess
import sys

import pandas as pd
import pytest
from processes import clean_environment

from utils.lab.notebooks import ROOT

pytestmark = pytest.mark.slow


def test_a_labs_time_memory_and_exit_status_are_reported(tmp_path):
    options = ("--toy", "--labs", "1", "--output-dir", str(tmp_path))
    command = [sys.executable, "-m", "tools.measure_presets", "cpu", *options]
    environment = clean_environment(HF_HUB_OFFLINE="0")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    (row,) = pd.read_csv(tmp_path / "measured_cpu.csv").to_dict("records")
    assert row["status"] == "done" and row["lab"] == 1
    assert row["minutes"] > 0 and row["estimate"] > 0 and row["memory_gb"] > 0.1
