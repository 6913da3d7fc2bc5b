"""Run commands in processes of their own: in one, in two under accelerate, or in a killed one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools.chaos import LAUNCH
from utils.lab.notebooks import QUIET, ROOT

FOREIGN = r"HF_|HUGGINGFACE_|TRANSFORMERS_|\w+_proxy$"
# --multi_gpu is accelerate's name for several processes under torch's launcher; --cpu of the
# command itself selects gloo.
TWO_PROCESSES = (*LAUNCH, "--num_processes=2")


def clean_environment(**variables: str) -> dict[str, str]:
    """Return the environment without a user's token, cache or proxy, and with `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match(FOREIGN, name, re.IGNORECASE)
    }
    return kept | QUIET | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | variables


OPTIONS = {"cwd": ROOT, "env": clean_environment(OMP_NUM_THREADS="1")}


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Run Python with these arguments; fail if it fails."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, **OPTIONS)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def kill_once_there(folder: Path, *arguments: str) -> None:
    """Run Python with these arguments; kill it as soon as `folder` exists, even half-written."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **OPTIONS,
    )
    while not folder.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
