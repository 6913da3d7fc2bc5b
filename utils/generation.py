"""Batched decoding: every prompt answered once, in few and well-filled batches."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from utils.models import autocast
from utils.ppo.precision import weights_cast_once
from utils.progress import DecodingEstimate
from utils.training.memory import device_memory

MAX_NEW_TOKENS = 128  # T5's own default of 20 cuts summaries off
# Prompt tokens decoded together, and encoded together: on a CPU decoding gains from more rows, encoding from a cache
# that holds them. A GPU takes as many as its memory allows, of which a token of a long prompt takes a part of this.
DECODED_TOKENS, ENCODED_TOKENS, BYTES_PER_TOKEN = 16_384, 4_096, 2**20


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    batch_size: int | None = None,
    precision: str | None = None,
    **generation_config: Any,
) -> list[str]:
    """Answer every prompt; answers come in the prompts' order.

    Prompts are sorted by length and batched: `batch_size` of them, or by default as many as fill a budget of tokens
    that suits the device. Without sampling, equal prompts are answered once. Dropout is off during generation and as it
    was after. `precision` is "auto", "fp32" or "bf16" (autocast, as `utils.models.use_bf16` decides), by default the
    caller's. `generation_config` goes to `model.generate`; `max_new_tokens` is 128 unless given.

    Raises:
        ValueError: `batch_size` below 1, or a precision that the device has not.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts is one text, {prompts[:40]!r}: give a list of texts")
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
        raise ValueError(f"batch_size={batch_size} must be a whole number, at least 1")
    if generation_config.get("num_return_sequences", 1) != 1:
        raise ValueError(
            "num_return_sequences must be 1: for several samples of a prompt, repeat it in the list"
        )
    generation_config = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False} | generation_config
    pending = list(prompts) if generation_config["do_sample"] else list(dict.fromkeys(prompts))
    ids = tokenizer(pending, truncation=False, verbose=False)["input_ids"] if pending else []
    answers: list[str] = [""] * len(pending)
    quiet = bool(
        os.environ.get("TQDM_DISABLE")
    )  # tqdm's own variable, which its notebook bar does not read
    was_training = model.training
    model.eval()
    try:
        with (
            contextlib.nullcontext() if precision is None else autocast(precision, model.device),
            weights_cast_once(model),
            tqdm(
                total=len(pending), desc="generate", unit="prompt", leave=False, disable=quiet
            ) as progress,
        ):
            lengths = [len(row) for row in ids]
            decoded, encoded = _token_budgets(model.device)
            batches = list(_batches(lengths, batch_size, decoded))
            first = sum(lengths[i] for i in batches[0]) if batches else 1
            estimate = DecodingEstimate(sum(lengths) / first, generation_config["max_new_tokens"])
            criteria = [*generation_config.pop("stopping_criteria", ()), estimate]
            for rows in batches:
                batch = tokenizer.pad(
                    {"input_ids": [ids[i] for i in rows]}, return_tensors="pt"
                ).to(model.device)
                hidden = _encode(model, batch, encoded)
                output = model.generate(
                    encoder_outputs=hidden,
                    attention_mask=batch["attention_mask"],
                    stopping_criteria=criteria,
                    **generation_config,
                )
                for i, text in zip(
                    rows, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True
                ):
                    answers[i] = text
                progress.update(len(rows))
    finally:
        model.train(was_training)
    if generation_config["do_sample"]:
        return answers
    by_prompt = dict(zip(pending, answers, strict=True))
    return [by_prompt[prompt] for prompt in prompts]


def _token_budgets(device: torch.device) -> tuple[int, int]:
    """Prompt tokens to decode together, and to encode together."""
    if device.type == "cuda":
        tokens = device_memory(device) // BYTES_PER_TOKEN
        return tokens, tokens
    return DECODED_TOKENS, ENCODED_TOKENS if device.type == "cpu" else DECODED_TOKENS


@torch.inference_mode()
def _encode(model: PreTrainedModel, batch: BatchEncoding, budget: int) -> BaseModelOutput:
    """The encoder's output for the batch, of as many rows at a time as the budget of tokens allows."""
    rows = max(1, budget // batch["input_ids"].shape[1])
    parts = zip(batch["input_ids"].split(rows), batch["attention_mask"].split(rows), strict=True)
    hidden = [
        model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        for ids, mask in parts
    ]
    return BaseModelOutput(last_hidden_state=torch.cat(hidden))


def _batches(lengths: list[int], batch_size: int | None, budget: int) -> Iterator[list[int]]:
    """Row numbers, longest first so that memory runs out at once or never; padded size within the budget."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = batch_size or max(1, budget // lengths[order[0]])
        yield order[:size]
        order = order[size:]
