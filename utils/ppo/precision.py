"""Weights under bf16 autocast: cast once instead of at every use, and frozen ones held in bf16."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def weights_cast_once(model: nn.Module) -> Iterator[None]:
    """Under autocast, cast each weight once in the block and not at each use; no gradients inside.

    Autocast remembers its casts only of weights that require a gradient: in the block, all do.
    Decoding uses every weight once a token; casts would take a third of its time on a CPU.
    A model whose attribute `cpu_speedups` is False is left alone.
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
        torch.clear_autocast_cache()  # casts without a gradient are of no use to what comes after


@contextlib.contextmanager
def frozen_weights_in_bf16(model: nn.Module) -> Iterator[None]:
    """Hold the float32 weights of frozen linear layers in bf16 in the block, under autocast.

    Autocast would cast them at each use, so no output changes, and they take half the memory.
    Afterwards they are float32 again, rounded to bf16. The head, which computes in float32, and
    weights that an embedding shares stay as they are.
    """
    kept = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None:
        kept.add(id(model.get_output_embeddings().weight))
    linear = [module.weight for module in model.modules() if type(module) is nn.Linear]
    frozen = [w for w in linear if not w.requires_grad and w.dtype == torch.float32]
    frozen = [weight for weight in frozen if id(weight) not in kept]
    try:
        for weight in frozen:
            weight.data = weight.data.to(torch.bfloat16)
        yield
    finally:
        for weight in frozen:
            weight.data = weight.data.to(torch.float32)


@contextlib.contextmanager
def float32_head(model: PreTrainedModel) -> Iterator[None]:
    """Compute the logits in float32 in the block, also under bf16 autocast.

    bf16 has 8 significant bits: a logit of 20 would be rounded by up to 0.06, and a probability
    ratio with it.
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
