"""Load models and tokenizers; choose device and precision; count parameters."""

import importlib.util
from contextlib import AbstractContextManager

import torch
from torch import nn
from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from utils.hub import UnavailableError, from_hub
from utils.training.cpu import use_cpu_speedups


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Return the given device, or else the first available of CUDA, MPS and the CPU."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16: CUDA from Ampere on, CPUs with AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = getattr(torch.cpu, "get_capabilities", dict)()  # some supported torch versions lack it
    return device.type == "cpu" and bool(known.get("avx512_bf16"))


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether "auto", "fp32" or "bf16" means bf16 on a device; fp16 would overflow in T5.

    Raises ValueError if the precision is unknown, or bf16 is requested on a device without it.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision {precision!r}: choose 'auto', 'fp32' or 'bf16'")
    if precision == "bf16" and not has_bf16(device):
        raise ValueError(f"precision 'bf16' is not supported on {device}: choose 'auto' or 'fp32'")
    return precision != "fp32" and has_bf16(device)


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return a context that computes in bf16 if `use_bf16` is true, and otherwise in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(precision, device))


def load_model(
    id_or_path: str,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
    cpu_speedups: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder-decoder of any family, in eval mode on its device, and its tokenizer.

    `dtype` is float32 by default: training needs float32 weights, and autocast computes in bf16
    over them. `quantization` "8bit" or "4bit" (NF4, Dettmers et al. 2023) loads a frozen base for
    an adapter; it needs CUDA and bitsandbytes. `cpu_speedups` says whether the model may use the
    faster layers of `utils.training.cpu`.

    Raises UnavailableError if the model cannot be loaded, and ValueError if it is not an
    encoder-decoder, or the quantization is unknown or not possible on this machine.
    """
    device = pick_device(device)
    options = {"dtype": dtype or torch.float32, "use_safetensors": True}
    options["revision"] = None  # "main" would have the hub convert a pickle
    if quantization is not None:
        options["quantization_config"] = _quantization_config(quantization, device)
        options["device_map"] = {"": device}
    tokenizer = from_hub(id_or_path, lambda: AutoTokenizer.from_pretrained(id_or_path))
    try:
        load = AutoModelForSeq2SeqLM.from_pretrained
        model = from_hub(id_or_path, lambda: load(id_or_path, **options))
    except UnavailableError:
        _check_encoder_decoder(id_or_path)
        raise
    model = model if quantization else model.to(device)
    model.cpu_speedups = cpu_speedups  # for layers added later, such as an adapter's
    return use_cpu_speedups(model).eval(), tokenizer


def _check_encoder_decoder(id_or_path: str) -> None:
    """Raise ValueError if the id or folder holds a model of another architecture."""
    try:
        config = AutoConfig.from_pretrained(id_or_path)
    except (OSError, ValueError):
        return  # the caller's error is more helpful
    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{id_or_path!r} is a {config.model_type} model, not an encoder-decoder such as T5 or "
            "BART: for decoder-only models (GPT-2, Llama, …) use TRL's GRPOTrainer or RLOOTrainer "
            "with the same reward functions"
        ) from None


def _quantization_config(quantization: str, device: torch.device) -> BitsAndBytesConfig:
    if quantization not in ("8bit", "4bit"):
        raise ValueError(f"quantization {quantization!r}: choose '8bit', '4bit' or None")
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"quantization {quantization!r} needs a CUDA device (this one is {device}) and the "
            "package bitsandbytes: choose None to load the model unquantized"
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def parameter_counts(model: nn.Module) -> dict[str, float]:
    """Count total and trainable parameters, shared ones once, and the trainable percentage."""
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"total": total, "trainable": trainable, "trainable_percent": 100 * trainable / total}
