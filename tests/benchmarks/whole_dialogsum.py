"""Measure the labs' work on a GPU: all of DialogSum at FLAN-T5-base's shape, with random weights.

For `fine_tune`: seconds per epoch, tokens per second, memory, and model-FLOPs utilization, the
operations needed for tokens that are not padding divided by those that a large matrix product does
in the same time. For `generate`: the summaries of the whole test split, with 48 tokens each. The
tokenizer has 8,000 subwords learned from the train split, which give about as many tokens per text
as FLAN-T5's tokenizer.

    python tests/benchmarks/whole_dialogsum.py path/to/dialogsum
"""

import argparse
import tempfile
import time

import numpy as np
import pandas as pd
import torch
from bench_finetuning import matmul_peak, model, training_flops
from bench_summaries import LENGTH, NEW_TOKENS
from datasets import Dataset
from from_scratch import make_tokenizer
from transformers import PreTrainedTokenizerBase, TrainerCallback

from utils.data import first_rows, group_references, load_dialogsum
from utils.finetuning import fine_tune, tokenize_pairs
from utils.generation import generate
from utils.prompts import build_prompt

WAYS = {
    "full, batches of 128": {"method": "full", "per_device_train_batch_size": 128},
    "full, batches of 256": {"method": "full", "per_device_train_batch_size": 256},
    "LoRA, batches of 128": {"method": "lora", "per_device_train_batch_size": 128},
}


def _wait() -> None:
    """Wait until a GPU has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class EpochTimes(TrainerCallback):
    """Measure the seconds of each epoch."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        _wait()
        self.start = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        _wait()
        self.seconds.append(time.perf_counter() - self.start)


def epoch_flops(rows: Dataset, method: str) -> float:
    """Return the operations of one epoch without padding.

    The operations of one example are a polynomial of its prompt and summary lengths, whose five
    coefficients follow from five examples.
    """

    def terms(prompt, summary):
        """Return the terms for layers over each text, self-attention and cross-attention."""
        powers = [prompt, prompt**2, summary, summary**2, prompt * summary]
        return np.stack(powers, axis=-1).astype(float)

    known = np.array([(64, 16), (128, 16), (256, 32), (128, 64), (512, 96)])
    counted = [training_flops(method, int(prompt), int(summary)) for prompt, summary in known]
    coefficients = np.linalg.solve(terms(*known.T), counted)
    assert np.isclose(terms(220, 40) @ coefficients, training_flops(method, 220, 40), rtol=1e-3)
    prompts, summaries = (
        np.array([len(ids) for ids in rows[name]]) for name in ("input_ids", "labels")
    )
    return float((terms(prompts, summaries) @ coefficients).sum())


def epochs(
    train: Dataset,
    validation: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    method: str,
    count: int,
    **arguments,
) -> dict[str, float]:
    """Fine-tune, and return the seconds of the first, last and all epochs, and the peak memory."""
    torch.cuda.empty_cache()
    times = EpochTimes()
    unwatched = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with tempfile.TemporaryDirectory() as folder:
        result = fine_tune(
            model(),
            tokenizer,
            train,
            validation,
            method,
            folder,
            num_train_epochs=count,
            callbacks=[times],
            **unwatched | arguments,
        )
    return {
        "first epoch, s": times.seconds[0],
        "last epoch, s": times.seconds[-1],
        f"{count} epochs, s": result.seconds,
        "peak GB": result.peak_megabytes / 1e3,
    }


def main() -> None:
    """Print a table for fine-tuning, then the time for the summaries of the test split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--rows", type=int, help="of each split, to try the script")
    options = parser.parse_args()
    splits = load_dialogsum(options.dataset).items()
    dataset = {name: first_rows(rows, options.rows) for name, rows in splits}
    train, validation = dataset["train"], first_rows(dataset["validation"], 8)
    tokenizer = make_tokenizer([*train["dialogue"], *train["summary"]], 8_000)
    tokenized = tokenize_pairs(train, tokenizer)
    tokens = sum(map(len, tokenized["input_ids"])) + sum(map(len, tokenized["labels"]))
    peak = max(matmul_peak() for _ in range(3))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    print(f"{device}, matrix products {peak / 1e12:.2f} TFLOP/s")
    print(f"{tokens:,} tokens per epoch")
    rows = {}
    for name in options.only:
        way = WAYS[name]
        rows[name] = epochs(train, validation, tokenizer, count=options.epochs, **way)
        last = rows[name]["last epoch, s"]
        rows[name] |= {
            "tokens per second": tokens / last,
            "utilization": epoch_flops(tokenized, way["method"]) / last / peak,
        }
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    print(pd.DataFrame(rows).T.round(3).to_string())
    print_speed_of_summaries(dataset["test"], tokenizer)


def print_speed_of_summaries(test: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Summarize the whole test split three times and print the time of each pass."""
    prompts = [build_prompt(dialogue) for dialogue in group_references(test)["dialogue"]]
    net = model().eval()
    generate(net, tokenizer, prompts[:16], precision="auto", **LENGTH)
    for _ in range(3):
        start = time.perf_counter()
        generate(net, tokenizer, prompts, precision="auto", **LENGTH)
        seconds = time.perf_counter() - start
        speed = NEW_TOKENS * len(prompts) / seconds
        print(f"{len(prompts)} summaries in {seconds:.2f} s, {speed:.0f} tokens per second")
    if torch.cuda.is_available():
        print(f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB with the model")


if __name__ == "__main__":
    main()
