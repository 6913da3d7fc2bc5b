"""Measure seconds per summary at FLAN-T5-base's shape: 220 input and 48 output tokens.

All weights are random. `utils.generation.generate` is compared with three other methods, in one run
on the same prompts: fp32 with one dialogue at a time, as in the DeepLearning.AI and AWS course
"Generative AI with Large Language Models"; bf16 weights with batches of 16; and CTranslate2 with
int8 weights and batches of 64, if it is installed. The course summarizes every row of the test
split, which lists each dialogue three times, so it writes three times as many summaries.
`--avx2` imitates a processor without AVX-512, AMX and bf16.
"""

import argparse
import importlib.util
import random
import time
from collections.abc import Callable

import pandas as pd
import torch
from bench_finetuning import PROMPT_TOKENS, model
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tools.measure_presets import restart_with_avx2
from utils.generation import Int8Model, generate
from utils.models import has_bf16
from utils.settings import OFFLINE
from utils.training.cpu import use_cpu_speedups

NEW_TOKENS, ROWS, DIALOGUES = 48, 1_500, 500
Answer = Callable[[PreTrainedTokenizerBase, list[str]], None]
LENGTH = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "do_sample": False}


def random_prompts(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Draw texts of exactly PROMPT_TOKENS tokens each, including the end of sequence."""
    draw = random.Random(0)
    words = [
        piece[1:]
        for piece in sorted(tokenizer.get_vocab())
        if piece[0] == "▁" and piece[1:].isalpha()
    ]
    words = [word for word in words if len(tokenizer(f"{word} {word}")["input_ids"]) == 3]
    prompts = [" ".join(draw.choices(words, k=PROMPT_TOKENS - 1)) for _ in range(count)]
    assert all(len(ids) == PROMPT_TOKENS for ids in tokenizer(prompts)["input_ids"])
    return prompts


def in_batches(batch_size: int, dtype: torch.dtype) -> Answer:
    """Return a method that calls the library's own generate on batches of one size."""
    net = model().to(dtype).eval()

    @torch.no_grad()
    def answer(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> None:
        """Summarize the prompts and discard the summaries."""
        for first in range(0, len(prompts), batch_size):
            batch = tokenizer(
                prompts[first : first + batch_size], padding=True, return_tensors="pt"
            )
            tokenizer.batch_decode(net.generate(**batch.to(net.device), **LENGTH))

    return answer


def by_ctranslate2(tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Answer:
    """Return a method that uses CTranslate2 with int8 weights."""
    net = Int8Model(model(), tokenizer)
    return lambda tokenizer, prompts: generate(net, tokenizer, prompts, batch_size, **LENGTH)


def ours(precision: str) -> Answer:
    """Return the method of the labs."""
    net, options = use_cpu_speedups(model().eval()), {"precision": precision} | LENGTH
    return lambda tokenizer, prompts: generate(net, tokenizer, prompts, **options)


def seconds_per_prompt(
    answer: Answer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    warm_up: int,
) -> float:
    """Return the wall-clock time of one pass per prompt, after a shorter warm-up pass."""
    answer(tokenizer, prompts[:warm_up])
    start = time.perf_counter()
    answer(tokenizer, prompts)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(prompts)


def main() -> None:
    """Print one row per method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--only-ours", action="store_true", help="for profiling")
    parser.add_argument("--avx2", action="store_true", help="use AVX2 and fp32")
    arguments = parser.parse_args()
    if arguments.avx2:
        restart_with_avx2()
    bf16 = has_bf16(model().device) and not arguments.avx2
    tokenizer = AutoTokenizer.from_pretrained(OFFLINE / "t5")
    prompts = random_prompts(tokenizer, arguments.prompts)
    rows = {}
    if not arguments.only_ours:
        rows["course: fp32, one at a time"] = seconds_per_prompt(
            in_batches(1, torch.float32), tokenizer, prompts[:4], 1
        )
        dtype = torch.bfloat16 if bf16 else torch.float32
        rows[f"transformers: {dtype} weights, batches of 16"] = seconds_per_prompt(
            in_batches(16, dtype), tokenizer, prompts[:32], 16
        )
        if importlib.util.find_spec("ctranslate2"):
            answer = by_ctranslate2(tokenizer, 64)
            rows["CTranslate2: int8, batches of 64"] = seconds_per_prompt(
                answer, tokenizer, prompts, 16
            )
    rows["generate"] = seconds_per_prompt(ours("bf16" if bf16 else "fp32"), tokenizer, prompts, 16)
    table = pd.DataFrame({"seconds per summary": rows})
    table["whole test split, s"] = table["seconds per summary"] * DIALOGUES
    if not arguments.only_ours:
        table.iloc[0, 1] = table.iloc[0, 0] * ROWS
        table["times faster on the whole"] = table.iloc[0, 1] / table["whole test split, s"]
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
