"""Save time and memory under bf16 autocast, and compute the logits in float32."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def prepared_for_decoding(model: nn.Module) -> Iterator[None]:
    """Prepare the weights of linear layers once per `with` block; gradients are off.

    Decoding uses every weight for each token. On a CPU, each weight is packed for oneDNN's kernels.
    In float32, a LoRA adapter is merged into its layer's weight, which saves the adapter's own
    matrix products. Under autocast, each weight is cast once instead of at each use, and adapters
    are not merged: bf16 would round small updates away, and samples would be off-policy. A model
    whose attribute `cpu_speedups` is False is not changed.
    """
    device = next(model.parameters()).device.type
    fast = getattr(model, "cpu_speedups", True)
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    modules = [m for m in model.modules() if fast and "forward" not in vars(m)]  # hooks stay
    with torch.no_grad():
        forwards = {m: _merged(m) for m in modules if dtype is None and _is_plain_lora(m)}
        merged = {part for layer in forwards for part in layer.modules()}
        linear = [m for m in modules if type(m) is nn.Linear and m not in merged]
        if dtype is not None or device == "cpu":
            forwards |= {m: _prepared(m.weight, m.bias, dtype) for m in linear}
        with forward_replaced(forwards):
            yield


def _is_plain_lora(module: nn.Module) -> bool:
    """Return whether the module is a float32 layer with LoRA that acts like one merged weight."""
    return (
        type(module) is LoraLinear
        and type(module.base_layer) is nn.Linear
        and module.base_layer.weight.dtype == torch.float32
        and not (module.training or module.merged or module.disable_adapters)
        and not (module.lora_variant or any(module.lora_bias.values()))
    )


def _merged(layer: LoraLinear) -> Callable[[Tensor], Tensor]:
    """Return the layer's forward pass with its active adapters added to its weight."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    added = (layer.get_delta_weight(name).float() for name in names)
    return _prepared(sum(added, layer.base_layer.weight), layer.base_layer.bias, None)


@contextlib.contextmanager
def forward_replaced(forwards: dict[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """Let each module compute its new forward pass inside the `with` block."""
    own = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward


def _prepared(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None
) -> Callable[[Tensor], Tensor]:
    """Return a linear layer's forward pass, in `dtype` and with packed weights where possible."""
    dtype = dtype or weight.dtype
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    if weight.device.type != "cpu" or not _packs(dtype):
        return lambda hidden: nn.functional.linear(hidden.to(dtype), weight, bias)
    kernels = torch.ops.mkldnn
    packed = kernels._reorder_linear_weight(weight, None)
    return lambda hidden: kernels._linear_pointwise(hidden.to(dtype), packed, bias, "none", [], "")


def _packs(dtype: torch.dtype) -> bool:
    """Return whether this CPU has kernels for packed weights of a type."""
    known = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not known or not torch.backends.mkldnn.is_available():
        return False
    bf16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bf16 or dtype == torch.float32


@contextlib.contextmanager
def frozen_weights_in_bf16(model: nn.Module) -> Iterator[None]:
    """Store the float32 weights of frozen linear layers in bf16 inside the `with` block.

    This halves their memory and changes no output under autocast, which would cast them anyway.
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
    """Compute the logits in float32 inside the `with` block, even under bf16 autocast.

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

    with forward_replaced({head: forward}):
        yield
