"""Speed-ups of training and decoding on CPUs; `load_model(…, cpu_speedups=False)` does without.

Each was measured alone with `tests/benchmarks/bench_cpu_layers.py`, and saves at least 5 % of a
training step. On other devices nothing changes.
"""

from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

STEPS = 2**16  # dropout decides by 16 random bits
ATTENTION = "products"
Model = PreTrainedModel | PeftModel


class BitDropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) by 16 random bits, where PyTorch draws a double; on CPUs."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Zero each element with probability p in training, and scale the others by 1/(1 − p)."""
        if not self.training or self.p == 0 or hidden.device.type != "cpu":
            return super().forward(hidden)
        return hidden * keep_mask(hidden.shape, self.p, hidden.dtype)


def keep_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
    """Draw 1/(1 − p) with probability 1 − p, else 0; p is rounded to 1/65,536."""
    dropped, count = round(p * STEPS), shape.numel()
    generator = np.random.SFC64(torch.randint(2**63 - 1, ()).item())  # follows torch's seed
    bits = torch.from_numpy(generator.random_raw(-(-count // 4)).view(np.int16))[:count].view(shape)
    # 1 or 0 as whole numbers, which is faster than as bool
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
    """Compute attention by two matrix products: PyTorch's own has slow gradients and dropout.

    PyTorch's own forward pass is faster, and serves decoding (one query) and inference mode. It is
    not used under `no_grad`: PPO compares these probabilities with those that have a gradient.
    Query, key and value are (batch, heads, time, size per head); mask and bias are added to scores.
    """
    forward_only = query.shape[2] == 1 or torch.is_inference_mode_enabled()
    if query.device.type != "cpu" or forward_only:
        kwargs |= {"dropout": dropout, "scaling": scaling, "position_bias": position_bias}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shape = (*query.shape[:3], key.shape[2])
    added = [x.to(query.dtype) for x in (position_bias, attention_mask) if x is not None]
    bias = sum(added, query.new_zeros(1, 1, 1, 1)).expand(shape).flatten(0, 1)
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

    `load_model` sets the attribute. A model under an adapter has that of its base.
    """
    return getattr(model, "cpu_speedups", False) and model.device.type == "cpu"


def use_cpu_speedups(model: Model) -> Model:
    """Replace dropout and a T5's attention in the model itself if `uses_cpu_speedups`; return it.

    Weights keep their names. Call it again after layers are added, such as those of an adapter.
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
