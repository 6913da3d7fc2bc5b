"""Running the project's commands in processes of their own: one, two under accelerate, and one that is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from utils.lab.notebooks import QUIET, ROOT

FOREIGN = r"HF_|HUGGINGFACE_|TRANSFORMERS_|\w+_proxy$"
# --multi_gpu is accelerate's word for several processes under torch's launcher; the command's own --cpu takes gloo.
TWO_PROCESSES = (
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes=2",
    "--num_machines=1",
    "--mixed_precision=no",
    "--dynamo_backend=no",
)


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without what would lead the hub's clients elsewhere, as a user's token, cache or proxy would."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match(FOREIGN, name, re.IGNORECASE)
    }
    return kept | QUIET | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | variables


OPTIONS = {"cwd": ROOT, "env": clean_environment(OMP_NUM_THREADS="1")}


def start(*arguments: str) -> subprocess.CompletedProcess:
    """Run Python with these arguments to its end, however it ends."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **OPTIONS)


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Run Python with these arguments, to a good end."""
    done = start(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def kill_once_there(folder: Path, *arguments: str) -> None:
    """Run Python with these arguments, and kill it as soon as `folder` is there, perhaps while it is written."""
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
