"""The labs' work on a GPU at FLAN-T5-base's shape, random weights, on the whole of DialogSum.

Seconds for an epoch of `fine_tune`, tokens per second, memory, and model-flops utilization: operations that the model
needs for the tokens that are no padding, over those of a large matrix product in the same time. Then the summaries of
the whole test split, all of 48 tokens. Tokens are those of 8,000 subwords learned from the train split, about as many
as FLAN-T5's.

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

from utils.data import group_references, load_dialogsum
from utils.finetuning import fine_tune, tokenize_pairs
from utils.generation import generate
from utils.prompts import build_prompt
from utils.training.cpu import use_fast_layers

WAYS = {
    "full, batches of 128": {"method": "full", "per_device_train_batch_size": 128},
    "full, batches of 256": {"method": "full", "per_device_train_batch_size": 256},
    "LoRA, batches of 128": {"method": "lora", "per_device_train_batch_size": 128},
}


class EpochTimes(TrainerCallback):
    """Seconds of every epoch."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        torch.cuda.synchronize()
        self.start = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def epoch_flops(rows: Dataset, method: str) -> float:
    """Operations of an epoch. Of one example they are a polynomial of prompt and summary length: five give it."""

    def terms(prompt, summary):
        """Products over the prompt, over the summary, and attention within and between them."""
        return np.stack([prompt, prompt**2, summary, summary**2, prompt * summary], axis=-1).astype(
            float
        )

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
    """Seconds of the first and of the last epoch, and of all; memory above the model's."""
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
    """Print a table of fine-tuning, then the seconds of the test split's summaries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    dataset = load_dialogsum(options.dataset)
    train, validation = dataset["train"], dataset["validation"].select(range(8))
    tokenizer = make_tokenizer([*train["dialogue"], *train["summary"]], 8_000)
    tokenized = tokenize_pairs(train, tokenizer)
    tokens = sum(map(len, tokenized["input_ids"])) + sum(map(len, tokenized["labels"]))
    peak = max(matmul_peak() for _ in range(3))
    print(
        f"{torch.cuda.get_device_name()}, matrix products {peak / 1e12:.0f} TFLOP/s; {tokens:,} tokens in an epoch"
    )
    rows = {}
    for name, way in WAYS.items():
        rows[name] = epochs(train, validation, tokenizer, count=options.epochs, **way)
        last = rows[name]["last epoch, s"]
        rows[name] |= {
            "tokens a second": tokens / last,
            "utilization": epoch_flops(tokenized, way["method"]) / last / peak,
        }
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    print(pd.DataFrame(rows).T.round(3).to_string())

    prompts = [build_prompt(dialogue) for dialogue in group_references(dataset["test"])["dialogue"]]
    net = use_fast_layers(model().eval())
    generate(net, tokenizer, prompts[:16], precision="auto", **LENGTH)
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        generate(net, tokenizer, prompts, precision="auto", **LENGTH)
        seconds, peak_memory = time.perf_counter() - start, torch.cuda.max_memory_allocated() / 1e9
        print(
            f"{len(prompts)} summaries in {seconds:.2f} s, {NEW_TOKENS * len(prompts) / seconds:.0f} tokens a second, "
            f"{peak_memory:.1f} GB with the model"
        )


if __name__ == "__main__":
    main()
