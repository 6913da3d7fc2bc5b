"""Load models and tokenizers; device, precision and parameter counts."""

import contextlib
import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from utils.fast_layers import use_fast_layers
from utils.hub import from_hub


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; else CUDA, Apple's MPS, or the CPU, whichever is there first."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 by hardware: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX; never MPS."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def use_bf16(precision: str, device: torch.device) -> bool:
    """Decide "auto", "fp32" or "bf16" for a device. Never fp16: T5's feed-forward output overflows it.

    Raises:
        ValueError: bf16 is asked for where the device has none.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision {precision!r}: choose 'auto', 'fp32' or 'bf16'")
    if precision == "bf16" and not has_bf16(device):
        raise ValueError(f"precision 'bf16' is not supported on {device}: choose 'auto' or 'fp32'")
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Autocast to bf16 where `use_bf16` says so; a context that changes nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16) if use_bf16(precision, device) else contextlib.nullcontext()


@contextlib.contextmanager
def weights_cast_once(model: nn.Module) -> Iterator[None]:
    """Under autocast, cast every weight once in the block, not once at each use; no gradients inside.

    Autocast remembers its casts, but only of weights that require a gradient: in the block, all do. Decoding uses every
    weight once a token, and without this a third of its time on a CPU goes into casts. LoRA's small B, which is read
    through a view, is cast each time all the same.
    """
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        with torch.no_grad():
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        torch.clear_autocast_cache()  # made without a gradient, they are of no use to what comes after


@contextlib.contextmanager
def frozen_weights_in_bf16(model: nn.Module) -> Iterator[None]:
    """Hold the float32 weights of frozen linear layers in bf16 in the block, for a model that computes under autocast.

    Autocast makes the same of them at each use, so no output changes; memory for them is halved, and nothing is cast.
    Afterwards they are float32 again, rounded to bf16. A weight that an embedding shares stays as it is.
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    frozen = [layer.weight for layer in layers if not layer.weight.requires_grad and id(layer.weight) not in shared]
    frozen = [weight for weight in frozen if weight.dtype == torch.float32]
    try:
        for weight in frozen:
            weight.data = weight.data.to(torch.bfloat16)
        yield
    finally:
        for weight in frozen:
            weight.data = weight.data.to(torch.float32)


def load_model(
    id_or_path: str,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder-decoder model, in eval mode on its device and in fast layers, and its tokenizer.

    `dtype` None is float32: training needs float32 weights, and autocast gives bf16's speed over them. `quantization`
    "8bit" or "4bit" (NF4, Dettmers et al. 2023) loads a frozen base for an adapter; it needs CUDA and bitsandbytes.

    Raises:
        UnavailableError: nothing can be loaded under that id or path.
        ValueError: a quantisation that is unknown, or that this machine cannot do.
    """
    device = pick_device(device)
    options = {"dtype": dtype or torch.float32, "attn_implementation": "sdpa"}
    if quantization is not None:
        options |= {"quantization_config": _quantization_config(quantization, device), "device_map": {"": device}}
    tokenizer = from_hub(id_or_path, lambda: AutoTokenizer.from_pretrained(id_or_path))
    model = from_hub(id_or_path, lambda: AutoModelForSeq2SeqLM.from_pretrained(id_or_path, **options))
    return use_fast_layers(model if quantization else model.to(device)).eval(), tokenizer


def _quantization_config(quantization: str, device: torch.device) -> BitsAndBytesConfig:
    if quantization not in ("8bit", "4bit"):
        raise ValueError(f"quantization {quantization!r}: choose '8bit', '4bit' or None")
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"quantization {quantization!r} needs a CUDA device (this one is {device}) and the package bitsandbytes "
            "(pip install bitsandbytes): choose None to load the model as it is"
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def parameter_counts(model: nn.Module) -> dict[str, float]:
    """Total and trainable parameters, shared ones once, and the trainable share in percent."""
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"total": total, "trainable": trainable, "trainable_percent": 100 * trainable / total}
