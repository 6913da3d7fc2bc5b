"""Kill training at random moments, resume it, and compare it bit for bit with a run left alone.

    python -m tools.chaos                         # ten kills of each run, one and two processes
    python -m tools.chaos --kills 2 --only ppo

Every run is the command `finetune` or `ppo` on a small part of the small world. Each kill sends
SIGKILL to all processes of the run at a random moment after its first checkpoint appears (before
that, there is nothing to resume from). The run is then started again with --resume. Prints how many
of the resumed runs ended with the same bytes of weights, and writes out/chaos.csv.
"""

import argparse
import contextlib
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from peft import get_peft_model

from utils.finetuning import lora_config
from utils.lab.notebooks import QUIET, ROOT
from utils.models import load_model
from utils.settings import OFFLINE

SMALL = ("train_dialogues=96", "validation_dialogues=4", "test_dialogues=4", "batch_size=8")
SMALL += ("judged_dialogues=4", "ppo_batch_size=8", "ppo_steps=16", "max_new_tokens=16")
JOBS = {  # command: its options, and the folder of its weights
    "finetune": (("--method", "full"), "finetune/full/model"),
    "ppo": (("--adapter", "{adapter}"), "ppo/gae/model"),
}
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1")
LAUNCH += ("--mixed_precision=no", "--dynamo_backend=no")


def start(
    command: str, processes: int, adapter: Path, folder: Path, *more: str
) -> subprocess.Popen:
    """Start a command in `processes` processes, in a session of their own."""
    launch = (*LAUNCH, f"--num_processes={processes}") if processes > 1 else ()
    options = [option.format(adapter=adapter) for option in JOBS[command][0]]
    job = ["-m", "utils", command, "--preset", "offline", "--cpu", "--checkpoint-steps", "3"]
    job += ["--output-dir", str(folder), *options, *more, "--set", *SMALL]
    environment = os.environ | QUIET | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    line = [sys.executable, *launch, *job]
    return subprocess.Popen(line, cwd=ROOT, env=environment, start_new_session=True, **quiet)


def finish(run: subprocess.Popen) -> None:
    """Wait for a run; raises RuntimeError with the end of its stderr if it fails."""
    said = run.communicate()[1]
    if run.returncode:
        raise RuntimeError(f"a run failed: {said[-2000:]}")


def fingerprint(command: str, folder: Path) -> str:
    """Return the hash of the weights that a finished run wrote."""
    file = folder / JOBS[command][1] / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _processes(run: subprocess.Popen) -> list[psutil.Process]:
    """Return a run and all that it has started, which accelerate puts into other sessions."""
    if run.poll() is not None:
        return []
    return [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]


def end(run: subprocess.Popen) -> None:
    """Kill a run and all the processes that it has started, with SIGKILL."""
    while alive := _processes(run):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                process.kill()
        psutil.wait_procs(alive, timeout=5)


def _await_checkpoint(run: subprocess.Popen, folder: Path) -> None:
    """Wait until a run has begun to write its first checkpoint, or has ended."""
    while run.poll() is None and not any(folder.rglob("checkpoint-*")):
        time.sleep(0.02)


def strike(
    command: str, processes: int, adapter: Path, folder: Path, seconds: float
) -> tuple[bool, int]:
    """Kill a run `seconds` after its first checkpoint, and resume it.

    Returns whether the kill hit, and how many checkpoints there were.
    """
    run = start(command, processes, adapter, folder)
    _await_checkpoint(run, folder)
    time.sleep(seconds)
    hit = run.poll() is None
    end(run)
    run.communicate()
    checkpoints = len(list(folder.rglob("checkpoint-*")))
    finish(start(command, processes, adapter, folder, "--resume"))
    return hit, checkpoints


def torment(command: str, processes: int, adapter: Path, kills: int, seed: int) -> list[dict]:
    """Kill a command `kills` times; return one row for each kill."""
    rng, rows = random.Random(f"{command}-{processes}-{seed}"), []
    with tempfile.TemporaryDirectory() as place:
        run = start(command, processes, adapter, Path(place) / "whole")
        _await_checkpoint(run, Path(place) / "whole")
        begun = time.perf_counter()
        finish(run)
        seconds = time.perf_counter() - begun
        expected = fingerprint(command, Path(place) / "whole")
        while len(rows) < kills:
            folder, moment = Path(tempfile.mkdtemp(dir=place)), rng.uniform(0, seconds)
            hit, checkpoints = strike(command, processes, adapter, folder, moment)
            row = {"command": command, "processes": processes, "second": round(moment, 1)}
            row |= {"checkpoints": checkpoints, "same": fingerprint(command, folder) == expected}
            if hit:  # else it had already ended: draw again
                rows.append(row)
                print(row, flush=True)
            else:
                seconds *= 0.95
    return rows


def main(argv: list[str] | None = None) -> int:
    """Kill all runs, print the table, and return 1 if one did not end like the undisturbed run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", choices=JOBS)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "chaos.csv")
    arguments = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as adapter:
        model, _ = load_model(str(OFFLINE / "t5"), "cpu")
        get_peft_model(model, lora_config(4)).save_pretrained(adapter)
        for command in [arguments.only] if arguments.only else JOBS:
            for processes in arguments.processes:
                rows += torment(command, processes, adapter, arguments.kills, arguments.seed)
    table = pd.DataFrame(rows)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.output, index=False)
    print(table.groupby(["command", "processes"])["same"].agg(["sum", "count"]).to_string())
    return int(not table["same"].all())


if __name__ == "__main__":
    sys.exit(main())
