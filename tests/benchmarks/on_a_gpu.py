"""Measure on a GPU, in a few minutes, what the documentation still leaves open.

    python tests/benchmarks/on_a_gpu.py path/to/dialogsum             # at most 8 minutes
    python tests/benchmarks/on_a_gpu.py utils/offline/data --toy      # tries the script, on a CPU

The most important parts run first: a PPO step of 16 and of 64 responses; one epoch of DialogSum
(tokens per second, share of the peak of matrix products), followed by the summaries of its test
split; and the three labs at the true size of the preset `gpu`, with random weights and 15 GB of
memory, as a T4 has. Each part is a benchmark of this folder or a command for
maintainers, in a process of its own. A part that exceeds the time limit is stopped, and the table
says so. Everything that the parts print is kept in out/on_a_gpu/, also if the script is stopped.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil

ROOT = Path(__file__).parents[2]
HERE = "tests/benchmarks"
PARTS = {  # name: command at true size, and what it adds or replaces at toy size
    "ppo 16": ([f"{HERE}/bench_ppo.py", "--adapter", "decoder", "--steps", "4"], ["--steps", "2"]),
    "ppo 64": (
        [f"{HERE}/bench_ppo.py", "--adapter", "decoder", "--steps", "4", "--responses", "64"],
        ["--steps", "2", "--responses", "8"],
    ),
    "epochs": (
        [f"{HERE}/whole_dialogsum.py", "{data}", "--epochs", "1", "--only", "full, batches of 256"],
        ["--rows", "32"],
    ),
    "labs": (["-m", "tools.measure_presets", "gpu", "--gpu-memory", "15", "--data", "{data}"], []),
}
TOY_LABS = ["-m", "tools.measure_presets", "gpu", "--toy", "--labs", "1"]


def measure(command: list[str], log: Path, seconds: float, layers: int) -> tuple[str, float]:
    """Run a part, keep what it prints in `log`, and return how it ended and its seconds."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "BENCH_LAYERS": str(layers)}
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        options = {"cwd": ROOT, "env": environment, "stdout": file, "stderr": subprocess.STDOUT}
        part = subprocess.Popen([sys.executable, *command], **options)
        try:
            code = part.wait(timeout=seconds)
            status = "done" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:  # a lab's kernel is a process of its own
            for process in (*psutil.Process(part.pid).children(recursive=True), part):
                process.kill()
            status = "stopped: out of minutes"
    return status, time.perf_counter() - start


def main() -> int:
    """Run the parts one after the other, and print their ends and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    folder, rows = ROOT / "out" / "on_a_gpu", {}
    folder.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + 60 * arguments.minutes
    for name, (true_size, toy_size) in PARTS.items():
        command = [*true_size, *(toy_size if arguments.toy else ())]
        if arguments.toy and name == "labs":
            command = TOY_LABS
        command = [part.format(data=Path(arguments.dataset).resolve()) for part in command]
        log, left = folder / f"{name.replace(' ', '_')}.log", end - time.perf_counter()
        layers = 1 if arguments.toy else 12
        log.unlink(missing_ok=True)
        status, seconds = measure(command, log, left, layers) if left > 5 else ("no time", 0.0)
        rows[name] = {"status": status, "seconds": round(seconds)}
        tail = log.read_text(encoding="utf-8").splitlines()[-12:] if log.exists() else []
        print(f"── {name}: {status}", *tail, sep="\n", flush=True)
        table = pd.DataFrame(rows).T
        table.to_csv(folder / "parts.csv")
    print(table.to_string())
    return int((table["status"] != "done").any())


if __name__ == "__main__":
    sys.exit(main())
