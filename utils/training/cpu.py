"""Speed up training and decoding on CPUs; `load_model(…, cpu_speedups=False)` turns this off.

Each change was measured alone with `tests/benchmarks/bench_cpu_layers.py`, and gains at least 5%
in some job. Other devices are not affected.
"""

from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

STEPS = 2**16  # dropout draws 16 random bits per element
ATTENTION = "products"
Model = PreTrainedModel | PeftModel


class BitDropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) from 16 random bits on CPUs; PyTorch draws a double."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Zero each element with probability p in training, and scale the others by 1/(1 − p)."""
        if not self.training or self.p == 0 or hidden.device.type != "cpu":
            return super().forward(hidden)
        return hidden * keep_mask(hidden.shape, self.p, hidden.dtype)


def keep_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
    """Draw 1/(1 − p) with probability 1 − p, else 0; p is rounded to a multiple of 1/65,536."""
    dropped, count = round(p * STEPS), shape.numel()
    generator = np.random.SFC64(torch.randint(2**63 - 1, ()).item())  # follows torch's seed
    bits = torch.from_numpy(generator.random_raw(-(-count // 4)).view(np.int16))[:count].view(shape)
    # int16 output is faster than bool
    kept = torch.ge(bits, dropped - STEPS // 2, out=torch.empty_like(bits))
    return kept.to(dtype).mul_(STEPS / (STEPS - dropped))


def attention_by_products(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention with two matrix products, for faster gradients and dropout than PyTorch's.

    With several queries, PyTorch's own forward pass is faster, so inference mode uses it. Passes
    under `no_grad` do not, because PPO compares their probabilities with those from passes with
    gradients. Query, key and value are (batch, heads, time, head size); `position_bias` and
    `attention_mask` are added to the scores.
    """
    if query.device.type != "cpu":
        kwargs |= {"dropout": dropout, "scaling": scaling, "position_bias": position_bias}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    added = [x.to(query.dtype) for x in (position_bias, attention_mask) if x is not None]
    bias = sum(added, query.new_zeros(1, 1, 1, 1))  # cast while it is small
    if query.shape[2] > 1 and torch.is_inference_mode_enabled():
        mixed = scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale)
        return mixed.transpose(1, 2).contiguous(), None
    shape = (*query.shape[:3], key.shape[2])
    bias = bias.expand(shape).flatten(0, 1)
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
    weights = torch.softmax(scores, dim=-1, dtype=scores.dtype)
    if dropout > 0:
        weights = weights * keep_mask(weights.shape, dropout, weights.dtype)
    mixed = torch.bmm(weights, value)
    return mixed.unflatten(0, shape[:2]).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attention_by_products)
AttentionMaskInterface.register(ATTENTION, eager_mask)


def uses_cpu_speedups(model: Model) -> bool:
    """Return whether the model is on a CPU and its attribute `cpu_speedups` is true.

    `load_model` sets the attribute. A model with an adapter uses its base model's.
    """
    return getattr(model, "cpu_speedups", False) and model.device.type == "cpu"


def use_cpu_speedups(model: Model) -> Model:
    """Replace dropout and T5 attention in place if `uses_cpu_speedups`; return the model.

    Weights keep their names. Call this again after you add layers, such as an adapter's.
    """
    if not uses_cpu_speedups(model):
        return model
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, BitDropout(child.p).train(child.training))
    if model.config.model_type == "t5" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)
    return model
