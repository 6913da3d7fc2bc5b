"""The same layers in fewer passes: what a T5's training spends on a CPU beside its matrix products.

Two of its pieces are slow there out of proportion. `NewGELUActivation` is a formula of eight operations, each a pass
over memory; PyTorch has it as one. And dropout draws a double from a serial generator for every element, while its
decision needs few bits: here one draw of 64 bits decides about four elements.
"""

import torch
from torch import nn
from transformers.activations import NewGELUActivation

STEPS = 65_536  # a decision takes 16 bits: p is met to within 1/65,536


class BitDropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) with 16 random bits for each element on the CPU; elsewhere as it is."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Zeroes each element with probability p, and scales the others by 1/(1 − p), in training only."""
        if not self.training or self.p == 0 or hidden.device.type != "cpu":
            return super().forward(hidden)
        return hidden * keep_mask(hidden.shape, self.p, hidden.dtype)


def keep_mask(shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
    """1/(1 − p) with probability 1 − p, else 0, drawn from torch's generator; p is rounded to 1/65,536."""
    dropped = round(p * STEPS)
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count].view(shape)
    return (bits >= dropped - STEPS // 2).to(dtype).mul_(STEPS / (STEPS - dropped))


def use_fast_layers(model: nn.Module) -> nn.Module:
    """Put the fast layers in place of the slow ones, in the model itself; weights and their names stay."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU("tanh"))
            elif type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p).train(child.training))
    return model
