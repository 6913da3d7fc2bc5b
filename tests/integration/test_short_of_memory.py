"""Memory that runs out on one of two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from peft import get_peft_model
from processes import OPTIONS, TWO_PROCESSES

from tools.chaos import SMALL, end
from utils.finetuning import lora_config
from utils.models import load_model
from utils.settings import OFFLINE

SCRIPT = Path(__file__).with_name("short_of_memory.py")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["finetune", "ppo"])
def test_where_one_process_is_short_of_memory_all_end_and_one_says_why(command, tmp_path):
    job = [command, "--preset", "offline", "--cpu", "--output-dir", str(tmp_path / "out")]
    if command == "ppo":
        model, _ = load_model(str(OFFLINE / "t5"), "cpu")
        get_peft_model(model, lora_config(4)).save_pretrained(tmp_path / "adapter")
        job += ["--adapter", str(tmp_path / "adapter")]
    run = subprocess.Popen(
        [sys.executable, *TWO_PROCESSES, str(SCRIPT), *job, "--set", *SMALL],
        stderr=subprocess.PIPE,
        text=True,
        **OPTIONS,
    )
    try:
        said = run.communicate(timeout=240)[1]
    finally:
        end(run)
    assert run.returncode == 1
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert sum("rank 1 (of 2) ran out of memory at step 2" in line for line in errors) == 1
    assert {line for line in errors if "per_device_train_batch_size (now" not in line} <= {
        "error: the process of rank 0 (of 2) lost contact with another: see that one's error"
    }
    assert "rank0]: Traceback" not in said and "rank1]: Traceback" not in said
