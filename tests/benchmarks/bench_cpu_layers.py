"""Measure each CPU speed-up alone: the same work with and without it, in turns, in one run.

The model is a quarter of FLAN-T5-base with random weights: 3 + 3 of its 12 + 12 layers and a
quarter of its vocabulary, so that all parts keep their shares of the time (`--layers 12` takes the
whole). The work is the forward and backward pass of a training step (full, and LoRA of rank 32 on
q and v; prompts of 220 tokens, summaries of 40), and 16 samples of 32 tokens from a LoRA policy
("samples") and from a model without an adapter ("summaries").

A ratio of 1.10 says that the work takes 10 % longer without the speed-up. `--isa avx2` imitates an
older processor: it allows PyTorch, oneDNN and MKL no newer instructions, and computes in fp32.
"""

import argparse
import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pandas as pd
import torch
from bench_finetuning import FLAN_T5_BASE, PROMPT_TOKENS, SUMMARY_TOKENS
from peft import get_peft_model
from torch import nn
from transformers import LogitsProcessorList, T5ForConditionalGeneration

from tools.measure_presets import restart_with_avx2
from utils.finetuning import lora_config
from utils.models import autocast, has_bf16
from utils.ppo.policy import InverseTransformSampling
from utils.ppo.precision import prepared_for_decoding
from utils.training.cpu import ATTENTION, BitDropout

NEW_TOKENS, SAMPLES = 32, 16
Piece = Callable[[nn.Module], AbstractContextManager]


@contextlib.contextmanager
def bit_dropout(net: nn.Module) -> Iterator[None]:
    """Replace PyTorch's dropout in the block."""
    layers = [layer for layer in net.modules() if type(layer) is nn.Dropout]
    for layer in layers:
        layer.__class__ = BitDropout
    yield
    for layer in layers:
        layer.__class__ = nn.Dropout


@contextlib.contextmanager
def products(net: nn.Module) -> Iterator[None]:
    """Compute attention by two matrix products in the block."""
    net.set_attn_implementation(ATTENTION)
    yield
    net.set_attn_implementation("sdpa")


@contextlib.contextmanager
def one_number(net: nn.Module) -> Iterator[None]:
    """Sample each token by one random number in the block."""
    net.one_number = True
    yield
    net.one_number = False


PIECES: dict[str, Piece] = {
    "BitDropout": bit_dropout,
    "attention_by_products": products,
    "InverseTransformSampling": one_number,
    "prepared_for_decoding": prepared_for_decoding,
}
STEP = ("BitDropout", "attention_by_products")
WORKS = {
    "full step": STEP,
    "LoRA step": STEP,
    "samples": (
        "attention_by_products",
        "InverseTransformSampling",
        "prepared_for_decoding",
    ),
    "summaries": ("prepared_for_decoding",),
}


def model(layers: int) -> T5ForConditionalGeneration:
    """Return a model of FLAN-T5-base's width, its head scaled as in `bench_finetuning`."""
    config = copy.deepcopy(FLAN_T5_BASE)
    config.num_layers = config.num_decoder_layers = layers
    config.vocab_size = config.vocab_size * layers // 12
    torch.manual_seed(0)
    net = T5ForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    net.lm_head.weight.data *= config.d_model**-0.5
    net.cpu_speedups = True
    return net


def random_ids(rows: int, tokens: int) -> torch.Tensor:
    """Return ids, (rows, tokens), without padding; always the same."""
    return torch.randint(3, 2_000, (rows, tokens), generator=torch.Generator().manual_seed(0))


def training_step(net: nn.Module, rows: int) -> None:
    """Compute the gradients of one batch, with dropout."""
    ids, labels = random_ids(rows, PROMPT_TOKENS), random_ids(rows, SUMMARY_TOKENS)
    mask = torch.ones_like(ids)
    net.train()
    net(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
    net.zero_grad(set_to_none=True)


def samples(net: nn.Module) -> None:
    """Draw samples of a fixed length."""
    ids = random_ids(SAMPLES, PROMPT_TOKENS)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        encoded = net.eval().get_encoder()(input_ids=ids, attention_mask=mask)
    drawn_by_us = getattr(net, "one_number", False)
    net.generate(
        encoder_outputs=encoded,
        attention_mask=mask,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        logits_processor=LogitsProcessorList([InverseTransformSampling()] if drawn_by_us else []),
        **({"do_sample": False} if drawn_by_us else {"do_sample": True, "top_k": 0}),
    )


def seconds(pieces: tuple[str, ...], net: nn.Module, work: Callable, precision: str) -> float:
    """Return the time of the work with some pieces, after a run that fills caches and memory."""
    with ExitStack() as stack, autocast(precision, torch.device("cpu")):
        for name in pieces:
            stack.enter_context(PIECES[name](net))
        work(net)
        start = time.perf_counter()
        work(net)
        return time.perf_counter() - start


def one_round(net: nn.Module, rows: int, precision: str) -> dict[tuple[str, str], float]:
    """Return the ratio of each piece for each work, "all" for all pieces together."""
    ratios = {}
    for name, pieces in WORKS.items():
        adapted = name in ("LoRA step", "samples")
        policy = get_peft_model(net, lora_config(32)) if adapted else net
        work = (lambda policy: training_step(policy, rows)) if "step" in name else samples
        without = seconds((), policy, work, precision)
        times = {piece: seconds((piece,), policy, work, precision) for piece in pieces}
        times["all"] = seconds(pieces, policy, work, precision)
        without = (without + seconds((), policy, work, precision)) / 2
        ratios |= {(name, piece): without / value for piece, value in times.items()}
        if policy is not net:
            policy.unload().requires_grad_(True)
    return ratios


def processor() -> str:
    """Return the processor's name, and the instructions that PyTorch uses."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((row.partition(": ")[2] for row in text.splitlines() if "model name" in row), "?")
    known = getattr(torch.cpu, "get_capabilities", dict)()
    found = [key for key, value in known.items() if value is True]
    bf16 = [key for key in found if key in ("avx512_bf16", "amx_tile")]
    used = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {used}, the machine has {bf16 or 'no bf16'}, {torch.get_num_threads()} threads"


def main() -> None:
    """Repeat rounds until the time is up, and print the median ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--isa", choices=("own", "avx2"), default="own")
    parser.add_argument("--layers", type=int, default=3, help="of the encoder, and of the decoder")
    parser.add_argument("--rows", type=int, default=8, help="in the batch of a training step")
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    if options.isa == "avx2":
        restart_with_avx2()
    precision = "bf16" if options.isa == "own" and has_bf16(torch.device("cpu")) else "fp32"
    print(f"{processor()}; {precision}", flush=True)
    net, rounds, end = model(options.layers), [], time.perf_counter() + 60 * options.minutes
    while not rounds or time.perf_counter() < end:
        rounds.append(one_round(net, options.rows, precision))
    ratios = pd.DataFrame(rounds)
    table = pd.DataFrame(
        {"ratio": ratios.median(), "lowest": ratios.min(), "highest": ratios.max()}
    )
    print(f"{len(rounds)} rounds")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
