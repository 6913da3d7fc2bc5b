"""Load models and tokenizers; device, precision and parameter counts."""

import contextlib
import importlib.util
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

from utils.hub import from_hub
from utils.training.cpu import use_fast_layers


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
    return (
        torch.autocast(device.type, torch.bfloat16)
        if use_bf16(precision, device)
        else contextlib.nullcontext()
    )


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
        ValueError: a quantization that is unknown, or that this machine cannot do.
    """
    device = pick_device(device)
    options = {"dtype": dtype or torch.float32, "attn_implementation": "sdpa"}
    if quantization is not None:
        options |= {
            "quantization_config": _quantization_config(quantization, device),
            "device_map": {"": device},
        }
    tokenizer = from_hub(id_or_path, lambda: AutoTokenizer.from_pretrained(id_or_path))
    model = from_hub(
        id_or_path, lambda: AutoModelForSeq2SeqLM.from_pretrained(id_or_path, **options)
    )
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
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def parameter_counts(model: nn.Module) -> dict[str, float]:
    """Total and trainable parameters, shared ones once, and the trainable share in percent."""
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"total": total, "trainable": trainable, "trainable_percent": 100 * trainable / total}
