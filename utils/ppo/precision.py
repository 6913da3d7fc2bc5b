"""Save time and memory under bf16 autocast, and compute the logits in float32."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def weights_cast_once(model: nn.Module) -> Iterator[None]:
    """Under autocast, cast each weight once per block instead of at each use; gradients are off.

    Autocast caches casts only for weights that require a gradient, so in the block all weights do.
    Decoding uses every weight for each token; casts would take a third of its time on a CPU.
    A model whose attribute `cpu_speedups` is False is not changed.
    """
    if not getattr(model, "cpu_speedups", True):
        yield
        return
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        with torch.no_grad():
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        torch.clear_autocast_cache()  # cached casts have no gradient, so training cannot use them


@contextlib.contextmanager
def frozen_weights_in_bf16(model: nn.Module) -> Iterator[None]:
    """Store the float32 weights of frozen linear layers in bf16 in the block, under autocast.

    This halves their memory and changes no output, because autocast would cast them at each use.
    Afterwards they are float32 again, but rounded to bf16. The output head, which computes in
    float32, and weights shared with an embedding are excluded.
    """
    excluded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None:
        excluded.add(id(model.get_output_embeddings().weight))
    linear = [module.weight for module in model.modules() if type(module) is nn.Linear]
    frozen = [w for w in linear if not w.requires_grad and w.dtype == torch.float32]
    frozen = [weight for weight in frozen if id(weight) not in excluded]
    try:
        for weight in frozen:
            weight.data = weight.data.to(torch.bfloat16)
        yield
    finally:
        for weight in frozen:
            weight.data = weight.data.to(torch.float32)


@contextlib.contextmanager
def float32_head(model: PreTrainedModel) -> Iterator[None]:
    """Compute the logits in float32 in the block, even under bf16 autocast.

    bf16 has 8 significant bits, so a logit of 20 would be rounded by up to 0.06, with a similar
    error in probability ratios.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        yield
        return

    def forward(hidden: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias.float()
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), head.weight.float(), bias)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward
