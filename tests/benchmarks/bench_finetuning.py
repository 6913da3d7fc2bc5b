"""Measure the seconds per example of fine-tuning a model of FLAN-T5-base's shape.

Weights are random; inputs have 220 tokens and outputs 40. In one run on the same texts, it compares
the common way of courses (prompts and summaries padded to 512 tokens, fp32, the library's trainer)
with `fine_tune`, full and LoRA, and tells what share of the machine's matrix-product peak
`fine_tune` reaches.
"""

import argparse
import os
import tempfile
import time

import pandas as pd
import torch
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from utils.finetuning import fine_tune
from utils.models import has_bf16, pick_device
from utils.settings import OFFLINE

PROMPT_TOKENS, SUMMARY_TOKENS = 220, 40
FLAN_T5_BASE = T5Config(
    vocab_size=32_128,
    d_model=768,
    d_kv=64,
    d_ff=2048,
    num_layers=int(os.environ.get("BENCH_LAYERS", 12)),  # fewer only to try a script
    num_heads=12,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    decoder_start_token_id=0,
)


class StepTimes(TrainerCallback):
    """Measures the seconds of every step but the first, which also sets things up."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step > 1:
            self.seconds.append(time.perf_counter() - self.start)

    def per_example(self, batch_size: int) -> float:
        """Return the median seconds per example."""
        return pd.Series(self.seconds).median() / batch_size


def model() -> T5ForConditionalGeneration:
    """Return a model with random weights, always the same.

    The head is scaled so that logits spread as a trained model's do. As drawn, they lie hundreds
    apart, and their softmax is full of denormal floats, on which a CPU is several times slower.
    """
    torch.manual_seed(0)
    net = T5ForConditionalGeneration._from_config(FLAN_T5_BASE, attn_implementation="sdpa")
    net.lm_head.weight.data *= FLAN_T5_BASE.d_model**-0.5
    net.cpu_speedups = True  # as on a model that `load_model` returns
    return net.to(pick_device())


def pairs(rows: int) -> Dataset:
    """Return texts of exactly 220 and 40 tokens, with the end-of-sequence token."""
    return Dataset.from_dict(
        {
            "dialogue": ["the " * (PROMPT_TOKENS - 1)] * rows,
            "summary": ["the " * (SUMMARY_TOKENS - 1)] * rows,
        }
    )


def as_in_the_course(tokenizer: PreTrainedTokenizerBase, batch_size: int, steps: int) -> float:
    """Return the seconds per example with everything padded to 512 tokens, in fp32."""
    rows = pairs(batch_size * steps)
    padded = {"padding": "max_length", "truncation": True, "max_length": 512}
    dataset = Dataset.from_dict(
        dict(tokenizer(list(rows["dialogue"]), **padded))
        | {"labels": tokenizer(list(rows["summary"]), **padded)["input_ids"]}
    )
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            folder,
            per_device_train_batch_size=batch_size,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        Seq2SeqTrainer(model(), arguments, train_dataset=dataset, callbacks=[times]).train()
    return times.per_example(batch_size)


def ours(tokenizer: PreTrainedTokenizerBase, method: str, batch_size: int, steps: int) -> float:
    """Return the seconds per example of `fine_tune` with its defaults."""
    rows, times = pairs(batch_size * steps), StepTimes()
    unwatched = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(
            model(),
            tokenizer,
            rows,
            rows,
            method,
            folder,
            template="{dialogue}",
            callbacks=[times],
            per_device_train_batch_size=batch_size,
            disable_tqdm=True,
            **unwatched,
        )
    return times.per_example(batch_size)


def training_flops(
    method: str, prompt_tokens: int = PROMPT_TOKENS, summary_tokens: int = SUMMARY_TOKENS
) -> float:
    """Count the floating-point operations of one example.

    Besides the forward pass there are two backward products, or one if the base is frozen.
    """
    with torch.device("meta"):
        net = T5ForConditionalGeneration._from_config(
            FLAN_T5_BASE, attn_implementation="eager"
        ).eval()
    prompt, summary = (
        torch.ones(1, n, dtype=torch.long, device="meta") for n in (prompt_tokens, summary_tokens)
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(input_ids=prompt, labels=summary)
    return counter.get_total_flops() * (3 if method == "full" else 2)


def matmul_peak() -> float:
    """Return the operations per second of a large matrix product in the precision of training."""
    device = pick_device()
    n, dtype = (
        (8192 if device.type == "cuda" else 2048),
        torch.bfloat16 if has_bf16(device) else torch.float32,
    )
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def main() -> None:
    """Print one row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "--without-course", action="store_true", help="leave out the slow side, for profiling"
    )
    arguments = parser.parse_args()
    tokenizer, peak = AutoTokenizer.from_pretrained(OFFLINE / "t5"), matmul_peak()
    rows, seconds = {}, {}
    if not arguments.without_course:
        rows["course, full"] = {"seconds per example": as_in_the_course(tokenizer, 2, 2)}
    for method in ("full", "lora"):
        seconds[method] = ours(tokenizer, method, arguments.batch_size, arguments.steps)
    peak = max(peak, matmul_peak())
    for method, per_example in seconds.items():
        share = training_flops(method) / per_example / peak
        rows[f"fine_tune, {method}"] = {
            "seconds per example": per_example,
            "share of matmul peak": share,
        }
    table = pd.DataFrame(rows).T
    if not arguments.without_course:
        table["times faster"] = (
            table.loc["course, full", "seconds per example"] / table["seconds per example"]
        )
    print(f"matrix products: {peak / 1e9:.0f} GFLOP/s")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
