"""Weights under bf16 autocast: cast once instead of at every use, and frozen ones held in bf16."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


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
    frozen = [
        layer.weight
        for layer in layers
        if not layer.weight.requires_grad and id(layer.weight) not in shared
    ]
    frozen = [weight for weight in frozen if weight.dtype == torch.float32]
    try:
        for weight in frozen:
            weight.data = weight.data.to(torch.bfloat16)
        yield
    finally:
        for weight in frozen:
            weight.data = weight.data.to(torch.float32)
