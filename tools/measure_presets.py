"""Measure the labs at a preset's true size, or count their work, with random weights.

The models come from the tests' local hub. They have the size of the real ones and random weights,
so times and memory are real and scores mean nothing. Such models never write an end token, so
summaries are limited to the length of DialogSum's own.

    python -m tools.measure_presets cpu --data path/to/dialogsum           # hours of work
    python -m tools.measure_presets cpu --data path/to/dialogsum --count   # minutes: only counts
    python -m tools.measure_presets cpu --toy                              # tries this script

`--avx2` limits a newer processor to what a common laptop has: no AVX-512, no AMX, and no bf16.
"""

import argparse
import atexit
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbclient import NotebookClient

from tools.preset_times import NEW_TOKENS, Work, minutes
from utils.lab.notebooks import NOTEBOOKS, QUIET, ROOT
from utils.settings import OFFLINE

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "CT2_FORCE_CPU_ISA": "AVX2",
}
COLUMNS = ["lab", "status", "minutes", "estimate", "memory_gb", "gpu_memory_gb"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the labs, print a table of times and memory, and store it; return an exit code."""
    arguments = _parser().parse_args(argv)
    sys.path.insert(0, str(ROOT / "tests"))
    from hub_checkpoints import write_repositories
    from loopback_hub import serve
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    output_dir = Path(arguments.output_dir).resolve()
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        true_size = not arguments.toy and not arguments.count
        vocab_size = 1_000 if arguments.toy else 32_000
        data = Path(arguments.data)
        repositories = write_repositories(Path(folder) / "hub", data, true_size, vocab_size)
        with serve(repositories) as hub:
            variables = _variables(arguments, hub.endpoint, Path(folder), output_dir)
            rows = [_measure(lab, arguments, variables, output_dir) for lab in arguments.labs]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(output_dir / f"measured_{arguments.preset}.csv", index=False)
    print(table.round(2).to_string(index=False))
    return int((table["status"] != "done").any())


def restart_with_avx2() -> None:
    """Restart this script with AVX2 as the newest instructions, unless that is already set."""
    if any(os.environ.get(name) != value for name, value in AVX2.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | AVX2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the labs with random weights.")
    parser.add_argument("preset", choices=("cpu", "gpu"))
    parser.add_argument("--labs", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2, 3))
    parser.add_argument("--data", default=str(OFFLINE / "data"), help="folder with DialogSum")
    parser.add_argument("--count", action="store_true", help="count the work without doing it")
    parser.add_argument("--toy", action="store_true", help="one layer, a few dialogues")
    parser.add_argument("--avx2", action="store_true", help="use no CPU instructions beyond AVX2")
    parser.add_argument("--gpu-memory", type=float, help="GB of a GPU to use, such as 15")
    parser.add_argument("--output-dir", default="out/measured")
    return parser


def _variables(
    arguments: argparse.Namespace, endpoint: str, folder: Path, output_dir: Path
) -> dict[str, str]:
    """Return the environment of a lab: the local hub, the preset and its lengths."""
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    labs = {"LABS_PRESET": arguments.preset, "LABS_OUTPUT_DIR": str(output_dir)}
    labs["LABS_MAX_NEW_TOKENS"] = str(NEW_TOKENS)
    if arguments.avx2:
        labs |= AVX2 | {"LABS_PRECISION": "fp32"}
    if arguments.toy:
        from small_labs import variables as toy_sizes

        labs |= toy_sizes(MAX_NEW_TOKENS=8)
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "LABS"))}
    return kept | QUIET | hub | labs


def _measure(
    lab: int, arguments: argparse.Namespace, variables: dict[str, str], output_dir: Path
) -> dict[str, Any]:
    """Run one lab; return its status, time and memory, and the time that its work should take."""
    name, log = NOTEBOOKS[lab - 1], output_dir / f"lab{lab}.jsonl"
    log.unlink(missing_ok=True)
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    code = "from tools.measure_presets import record\n"
    code += f"record({str(log)!r}, {arguments.count}, {arguments.gpu_memory})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(code))
    resources = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources)
    start, status = time.perf_counter(), "done"
    try:
        client.execute(env=variables)
    except Exception as error:  # a cell's error or a dead kernel: a result, too
        status = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
    taken = (time.perf_counter() - start) / 60
    nbformat.write(notebook, output_dir / f"{name}.ipynb")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    work = [Work(**line["work"]) for line in lines if "work" in line]
    memory = {name: gb for line in lines for name, gb in line.get("memory", {}).items()}
    estimates = minutes(work, arguments.preset)
    if not arguments.count:
        measured = pd.DataFrame([line["work"] | line for line in lines if "work" in line])
        measured = measured.groupby("kind")["seconds"].sum() / 60
        print(pd.DataFrame({"minutes": measured, "estimate": estimates}).round(1))
    estimate = sum(estimates.values())
    row = {"lab": lab, "status": status, "minutes": taken, "estimate": estimate} | memory
    return {
        name: value for name, value in row.items() if not (arguments.count and name == "minutes")
    }


# In the lab's own process


def record(file: str, count: bool, gpu_memory: float | None) -> None:
    """Append each piece of work to a file, as lines of JSON, and the peak memory at the end.

    With `count`, training takes one step and summaries are copied from their prompts.
    """
    import torch
    from transformers import Trainer

    from utils import generation
    from utils.toxicity import HateScorer

    if gpu_memory:
        whole = torch.cuda.get_device_properties().total_memory
        torch.cuda.set_per_process_memory_fraction(gpu_memory * 1e9 / whole)
    log = _Log(Path(file))
    generation.generate = log.of_generate(generation.generate, count)  # before others import it
    Trainer.train = log.of_training(Trainer.train, count)
    HateScorer._all_logits = log.of_judging(HateScorer._all_logits)
    atexit.register(log.memory)


class _Log:
    """Write down what a lab asks of its models."""

    def __init__(self, file: Path):
        self.file, self.times, self.inner = file, 1, 0.0

    def write(self, **line: Any) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @contextlib.contextmanager
    def work(self, kind: str, rows: float, tokens: float, **options: Any) -> Iterator[None]:
        """Log a piece of work and its seconds, without those of pieces inside it."""
        work = {"kind": kind, "rows": rows * self.times, "tokens": tokens} | options
        start, outer, self.inner = time.perf_counter(), self.inner, 0.0
        yield
        seconds = time.perf_counter() - start
        self.write(work=work, seconds=seconds - self.inner)
        self.inner = outer + seconds

    def of_generate(self, generate: Any, count: bool) -> Any:
        @wraps(generate)
        def recorded(model: Any, tokenizer: Any, prompts: Any, *args: Any, **options: Any) -> list:
            if _is_small(model):
                return generate(model, tokenizer, prompts, *args, **options)
            lengths = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
            new = min(options.get("max_new_tokens", NEW_TOKENS), NEW_TOKENS)
            beams = options.get("num_beams", 1)
            mean, each = sum(lengths) / len(lengths), options.get("num_return_sequences", 1)
            with self.work("generate", len(lengths), mean, new=new * each, beams=beams):
                if count:
                    return [" ".join(p.split()[-20:]) for p in prompts for _ in range(each)]
                return generate(model, tokenizer, prompts, *args, **options)

        return recorded

    def of_training(self, train: Any, count: bool) -> Any:
        @wraps(train)
        def recorded(trainer: Any, *args: Any, **options: Any) -> Any:
            if _is_small(trainer.model):
                return train(trainer, *args, **options)
            own, data = trainer.args, trainer.train_dataset
            batch = own.per_device_train_batch_size * own.gradient_accumulation_steps
            rows = own.max_steps * batch if own.max_steps > 0 else own.num_train_epochs * len(data)
            kind = "lora" if hasattr(trainer.model, "peft_config") else "full"
            tokenized = data
            if "input_ids" not in data.column_names:  # PPO tokenizes its prompts as it samples
                tokenized = trainer.processing_class(list(data["prompt"]))
            lengths = [len(ids) for ids in tokenized["input_ids"]]
            times = 1 if own.eval_strategy == "no" else own.num_train_epochs  # of evaluation
            if type(trainer).__name__ == "PPOTrainer":
                kind, rows = "ppo", rows / own.num_iterations
                times = own.max_steps / own.num_iterations  # of judging
            with self.work(kind, rows, sum(lengths) / len(lengths)):
                if count:
                    self.times, own.max_steps = times, 1
                try:
                    return train(trainer, *args, **options)
                finally:
                    self.times = 1

        return recorded

    def of_judging(self, score: Any) -> Any:
        @wraps(score)
        def recorded(scorer: Any, texts: Any) -> Any:
            if _is_small(scorer.model):
                return score(scorer, texts)
            lengths = [len(ids) for ids in scorer.tokenizer(list(texts))["input_ids"]]
            with self.work("judge", len(lengths), sum(lengths) / max(1, len(lengths))):
                return score(scorer, texts)

        return recorded

    def memory(self) -> None:
        import torch

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"memory_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9}
        if torch.cuda.is_available():
            found["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self.write(memory=found)


def _is_small(model: Any) -> bool:
    """Return whether this is a model of the small world, whose work takes hardly any time."""
    return str(OFFLINE) in str(getattr(model, "name_or_path", ""))


if __name__ == "__main__":
    sys.exit(main())
