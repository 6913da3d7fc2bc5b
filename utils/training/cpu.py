"""The same layers in fewer passes: what a T5's training spends on a CPU beside its matrix products.

Some of its pieces are slow there out of proportion. `NewGELUActivation` is a formula of eight operations, each a pass
over memory; PyTorch has it as one. Dropout draws a double from a serial generator for every element, while its
decision needs few bits: here one draw of 64 bits, from a faster generator, decides about four elements. And under
autocast a float32 tensor is cast anew for each product that reads it: here a norm casts its output once, and neither
the feed-forward layer nor LoRA casts to float32 and back. LoRA's sum is part of its last product.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners import lora
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm

STEPS = 65_536  # a decision takes 16 bits: p is met to within 1/65,536
ATTENTION = "products"


class BitDropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) with 16 random bits for each element on the CPU; elsewhere as it is."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Zeroes each element with probability p, and scales the others by 1/(1 − p), in training only."""
        if not self.training or self.p == 0 or hidden.device.type != "cpu":
            return super().forward(hidden)
        return hidden * keep_mask(hidden.shape, self.p, hidden.dtype)


class CastOnceNorm(nn.RMSNorm):
    """T5's layer norm, a root-mean-square norm, in float32; under autocast its output is cast once for all readers."""

    def __init__(self, norm: T5LayerNorm):
        super().__init__(norm.weight.shape, eps=norm.variance_epsilon, device="meta")
        self.weight = norm.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Each row divided by its root mean square, times the weight."""
        normed = super().forward(hidden.float())
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            return normed.to(torch.get_autocast_dtype(device))
        return normed.to(self.weight.dtype)


class GatedFeedForward(nn.Module):
    """T5's gated feed-forward layer (Shazeer 2020), without the detour over the weight's dtype between its products."""

    def __init__(self, layer: T5DenseGatedActDense):
        super().__init__()
        self.wi_0, self.wi_1, self.wo, self.dropout, self.act = (
            getattr(layer, name) for name in ("wi_0", "wi_1", "wo", "dropout", "act")
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """wo(dropout(act(wi_0 x) · wi_1 x))."""
        return self.wo(self.dropout(self.act(self.wi_0(hidden)) * self.wi_1(hidden)))


class LoraProducts(lora.Linear):
    """LoRA (Hu et al. 2021) in three products: W x, A x, and W x + (α/r) B (A x) at once.

    So it is for one plain adapter, in the dtype of its base or under autocast; all else is left to peft.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The adapted layer's output."""
        if args or kwargs or not self._is_plain(x):
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        low = self.lora_A[name](self.lora_dropout[name](x))  # (…, rank)
        found, up = self.base_layer(x), self.lora_B[name].weight
        return torch.addmm(
            found.flatten(0, -2), low.flatten(0, -2), up.T, alpha=self.scaling[name]
        ).view(found.shape)

    def _is_plain(self, x: torch.Tensor) -> bool:
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        if (
            name not in self.lora_A
            or name in self.lora_variant
            or self.lora_B[name].bias is not None
        ):
            return False
        one_dtype = x.dtype == self.base_layer.weight.dtype == self.lora_B[name].weight.dtype
        return one_dtype or torch.is_autocast_enabled(x.device.type)

    @classmethod
    def of(cls, layer: lora.Linear) -> "LoraProducts":
        """The layer itself, computing so from now on: peft keeps all that it knows of it."""
        layer.__class__ = cls
        return layer


def keep_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
    """1/(1 − p) with probability 1 − p, else 0; p is rounded to 1/65,536. Follows torch's seed."""
    dropped = round(p * STEPS)
    count = shape.numel()
    generator = np.random.SFC64(torch.randint(2**63 - 1, ()).item())
    bits = torch.from_numpy(generator.random_raw(-(-count // 4)).view(np.int16))[:count].view(shape)
    kept = torch.ge(
        bits, dropped - STEPS // 2, out=torch.empty_like(bits)
    )  # 1 or 0: whole numbers are quick
    scale = torch.tensor(STEPS / (STEPS - dropped), dtype=dtype)
    if dtype.itemsize == bits.itemsize:  # the scale's bits or none
        return kept.mul_(scale.view(torch.int16)).view(dtype)
    return kept.to(dtype).mul_(scale)


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
    """Attention by two matrix products where a CPU may have to differentiate it, and PyTorch's own elsewhere.

    On the CPU PyTorch's own has only a slow dropout, and with a bias its gradient takes twice as long as the products';
    its forward pass alone takes half as long. So it serves decoding, where the query is one token, and inference mode.
    Under `no_grad` a longer query goes through the products: PPO compares it with one that has a gradient, and equal
    policies must have equal log-probabilities.

    Query, key and value are (batch, heads, time, size per head); mask and position bias are added to the scores.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout,
            scaling,
            position_bias=position_bias,
            **kwargs,
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    added = [
        x.to(query.dtype) for x in (position_bias, attention_mask) if x is not None
    ]  # cast while they are small
    bias = sum(added, query.new_zeros(1, 1, 1, 1))
    if query.shape[2] == 1 or torch.is_inference_mode_enabled():
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


FAST_LAYERS: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    T5DenseGatedActDense: GatedFeedForward,
    T5LayerNorm: CastOnceNorm,
    NewGELUActivation: lambda _: nn.GELU("tanh"),
    nn.Dropout: lambda dropout: BitDropout(dropout.p),
    lora.Linear: LoraProducts.of,
}


def use_fast_layers(model: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
    """Put the fast layers in place of the slow ones, in the model itself; weights and their names stay.

    cuDNN's attention is turned off for the whole process: on a GPU it plans anew for every shape, half a second each
    way (modelscope/FunASR issue 3704), and summaries have a new length at every token.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    for slow, build in FAST_LAYERS.items():
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is slow:
                    setattr(parent, name, build(child).train(child.training))
    if model.config.model_type == "t5" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)
    return model
