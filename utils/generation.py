"""Answer many prompts with one model, in a few well-filled batches."""

import contextlib
import importlib.util
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from tqdm.auto import tqdm
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria
from transformers.modeling_outputs import BaseModelOutput

from utils.data import check_texts
from utils.models import autocast
from utils.ppo.precision import prepared_for_decoding
from utils.training.memory import device_memory

MAX_NEW_TOKENS = 128  # T5's own default of 20 cuts summaries off
# Prompt tokens decoded together, and encoded together. On a CPU, decoding is faster with more rows,
# and encoding with activations that fit into a cache. On a GPU, both depend on its memory.
DECODED_TOKENS, ENCODED_TOKENS, BYTES_PER_TOKEN = 16_384, 4_096, 2**20
LONG = 60.0  # seconds; no estimate is printed for shorter work
TIMED_TOKENS = 3


class Int8Model:
    """A copy of an encoder-decoder with int8 weights, for `generate` on a CPU.

    It needs the package ctranslate2. Weights are rounded to 8 bits, each row with its own scale, so
    summaries may differ slightly. Only greedy decoding and beam search are possible, and the
    model's own generation settings are not used.

    Raises ValueError if the package is missing, or does not know the model's family.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        if importlib.util.find_spec("ctranslate2") is None:
            raise ValueError("int8 on a CPU needs a package: pip install ctranslate2")
        from ctranslate2 import Translator
        from ctranslate2.converters import TransformersConverter

        self.config = model.config
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(f"{folder}/model")
            tokenizer.save_pretrained(f"{folder}/model")
            TransformersConverter(f"{folder}/model").convert(f"{folder}/int8", quantization="int8")
            self.translator = Translator(f"{folder}/int8", intra_threads=torch.get_num_threads())

    def answer(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ids: list[list[int]],
        batch_size: int | None,
        options: dict[str, Any],
    ) -> list[str]:
        """Answer tokenized prompts; raises ValueError for an option that it does not support."""
        names = {"num_beams": "beam_size", "max_new_tokens": "max_decoding_length"}
        names |= {"min_new_tokens": "min_decoding_length", "length_penalty": "length_penalty"}
        neutral = {
            name for name, value in options.items() if str(value) in ("None", "False", "1", "1.0")
        }
        if unknown := sorted(options.keys() - names.keys() - neutral):
            raise ValueError(
                f"int8 models do not support {unknown[0]}: remove it, or use the model without int8"
            )
        rows = [tokenizer.convert_ids_to_tokens(row) for row in ids]
        given = {names[name]: value for name, value in options.items() if name in names}
        given |= {"max_batch_size": batch_size or 64, "max_input_length": 0}  # 0: do not cut
        results = self.translator.translate_batch(rows, **given)
        found = [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        return tokenizer.batch_decode(found, skip_special_tokens=True)


def generate(
    model: PreTrainedModel | Int8Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    batch_size: int | None = None,
    precision: str | None = None,
    **generation_config: Any,
) -> list[str]:
    """Answer every prompt with an encoder-decoder, and return the answers in the prompts' order.

    With `num_return_sequences`, each prompt is encoded once, and its answers follow each other.
    Prompts are sorted by length and put into batches of `batch_size`, or by default of as many as
    fit the device. Without sampling, repeated prompts are answered only once.
    `precision` is "auto", "fp32" or "bf16" (see `utils.models.use_bf16`); None changes nothing.
    `generation_config` goes to `model.generate`; the default is greedy, with 128 `max_new_tokens`.

    Raises ValueError if `prompts` is a string, `batch_size` is below 1, prompts are longer than the
    model or memory allows, or the device lacks the precision.
    Warns of prompts with text that the tokenizer does not know or takes for its special tokens.
    """
    _check_arguments(prompts, batch_size, generation_config)
    greedy = {"do_sample": False, "num_beams": 1}  # BART's checkpoints default to four beams
    options = greedy | {"max_new_tokens": MAX_NEW_TOKENS} | generation_config
    pending = list(prompts) if options["do_sample"] else list(dict.fromkeys(prompts))
    ids = tokenizer(pending, truncation=False, verbose=False)["input_ids"] if pending else []
    _check_lengths(model, pending, ids)
    _warn_of_unread_text(tokenizer, pending, ids)
    if isinstance(model, Int8Model):
        if precision == "bf16":
            raise ValueError("an int8 model has no precision 'bf16': choose 'auto' or 'fp32'")
        answers = [[text] for text in model.answer(tokenizer, ids, batch_size, options)]
    else:
        with _inference(model, precision):
            answers = _decode(model, tokenizer, ids, batch_size, options)
    if not options["do_sample"]:
        by_prompt = dict(zip(pending, answers, strict=True))
        answers = [by_prompt[prompt] for prompt in prompts]
    return [text for several in answers for text in several]


@contextlib.contextmanager
def _inference(model: PreTrainedModel, precision: str | None) -> Iterator[None]:
    """Compute in eval mode and in a precision, and restore the model's mode."""
    was_training = model.training
    model.eval()
    cast = contextlib.nullcontext() if precision is None else autocast(precision, model.device)
    try:
        with cast, prepared_for_decoding(model):
            yield
    finally:
        model.train(was_training)


def _check_arguments(prompts: Sequence[str], batch_size: Any, options: dict[str, Any]) -> None:
    check_texts("prompts", prompts)
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
        raise ValueError(f"batch_size={batch_size} must be a whole number, at least 1")
    for name in ("num_beams", "num_return_sequences"):
        if (value := options.get(name)) is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def _check_lengths(model: PreTrainedModel, prompts: list[str], ids: list[list[int]]) -> None:
    """Raise ValueError if a prompt exceeds the position table of a BART, Pegasus or LED model."""
    names = ("max_encoder_position_embeddings", "max_position_embeddings")
    limits = [getattr(model.config, name) for name in names if hasattr(model.config, name)]
    for prompt, row in zip(prompts, ids, strict=True):
        if limits and len(row) > limits[0]:
            raise ValueError(
                f"the prompt {prompt[:40]!r}… has {len(row)} tokens, and this model reads at most "
                f"{limits[0]}: shorten it, or choose a model without that limit, such as T5"
            )


def _warn_of_unread_text(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], ids: list[list[int]]
) -> None:
    """Warn if prompts hold emoji or other characters without tokens, or text such as </s>."""
    special = set(tokenizer.all_special_ids)
    unread = [p for p, row in zip(prompts, ids, strict=True) if special & set(row[1:-1])]
    if unread:
        warnings.warn(
            f"{len(unread)} of {len(prompts)} prompts hold characters without a token, or special "
            f"tokens, which the model cannot read as text; the first begins {unread[0][:40]!r}. "
            "Remove them, or choose a model that knows them",
            stacklevel=3,
        )


def _decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    batch_size: int | None,
    options: dict[str, Any],
) -> list[list[str]]:
    """Return the answers to each tokenized prompt: `num_return_sequences` of them."""
    decoded, encoded = _tokens_at_once(model.device)
    lengths, each = [len(row) for row in ids], options.get("num_return_sequences") or 1
    answers: list[list[str]] = [[] for _ in ids]
    batches = list(_batches(lengths, batch_size, decoded // each))
    first = sum(lengths[i] for i in batches[0]) if batches else 1
    estimate = _Estimate(sum(lengths) / first, options["max_new_tokens"])
    criteria = [*options.pop("stopping_criteria", ()), estimate]
    # tqdm's notebook bar ignores TQDM_DISABLE
    quiet = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    with tqdm(total=len(ids), desc="generate", unit="prompt", leave=False, disable=quiet) as bar:
        for rows in batches:
            batch = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            batch = batch.to(model.device)
            with _memory_told(len(rows), lengths[rows[0]]):
                output = model.generate(
                    encoder_outputs=_encode(model, batch, encoded),
                    attention_mask=batch["attention_mask"],
                    stopping_criteria=criteria,
                    **options,
                )
            texts = tokenizer.batch_decode(output, skip_special_tokens=True)
            for start, i in enumerate(rows):
                answers[i] = texts[start * each : (start + 1) * each]
            bar.update(len(rows))
    return answers


@contextlib.contextmanager
def _memory_told(prompts: int, tokens: int) -> Iterator[None]:
    """Raise ValueError with the remedy if these prompts do not fit into memory."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
        remedy = "lower batch_size" if prompts > 1 else "shorten it, or summarize it in parts"
        raise ValueError(
            f"{prompts} prompt(s) of up to {tokens} tokens do not fit into memory: {remedy}"
        ) from error


def _tokens_at_once(device: torch.device) -> tuple[int, int]:
    """Return the number of prompt tokens to decode together, and to encode together."""
    if device.type == "cuda":
        tokens = device_memory(device) // BYTES_PER_TOKEN
        return tokens, tokens
    return DECODED_TOKENS, ENCODED_TOKENS if device.type == "cpu" else DECODED_TOKENS


@torch.inference_mode()
def _encode(model: PreTrainedModel, batch: BatchEncoding, tokens: int) -> BaseModelOutput:
    """Encode the batch in parts of about `tokens` tokens."""
    rows = max(1, tokens // batch["input_ids"].shape[1])
    parts = zip(batch["input_ids"].split(rows), batch["attention_mask"].split(rows), strict=True)
    encoder = model.get_encoder()
    hidden = [encoder(input_ids=ids, attention_mask=mask).last_hidden_state for ids, mask in parts]
    return BaseModelOutput(last_hidden_state=torch.cat(hidden))


def _batches(lengths: list[int], batch_size: int | None, tokens: int) -> Iterator[list[int]]:
    """Yield batches of row numbers, longest rows first, so that memory errors occur early."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = batch_size or max(1, tokens // lengths[order[0]])
        yield order[:size]
        order = order[size:]


class _Estimate(StoppingCriteria):
    """Print an upper bound on the remaining time once, early in the first batch.

    `batches` is the size of all batches relative to the first. It never stops generation.
    """

    def __init__(self, batches: float, max_new_tokens: int):
        self.batches, self.max_new_tokens = batches, max_new_tokens
        self.times = [time.perf_counter()]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if len(self.times) < TIMED_TOKENS + 2:  # plus the start and a warm-up token
            self.times.append(time.perf_counter())
            if len(self.times) == TIMED_TOKENS + 2:
                self._print()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def _print(self) -> None:
        start, first, *_, now = self.times
        per_token = (now - first) / TIMED_TOKENS
        batch = first - start + per_token * (self.max_new_tokens - 1)
        seconds = self.batches * batch - (now - start)
        if seconds > LONG:
            minutes = math.ceil(seconds / 60)
            print(f"generating: at most {minutes} more minutes", file=sys.stderr, flush=True)
