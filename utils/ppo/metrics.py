"""Collect metrics on each process, and average them over all processes at each log."""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


class Metrics:
    """Weighted means by name, accumulated from one log to the next."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}
        self.kind = {"dtype": torch.float64, "device": accelerator.device}

    def add(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add a value with a weight, and ignore NaN."""
        value = torch.as_tensor(value, **self.kind).detach()
        weight = torch.as_tensor(weight, **self.kind)
        counted = torch.stack([value * weight, weight])
        self.sums[name] = self.sums.get(name, 0) + torch.where(value.isnan(), 0.0, counted)

    def flush(self, prefix: str = "") -> dict[str, float | None]:
        """Return the means over all processes, None where there is no value, and reset them."""
        names = sorted(set(gather_object(sorted(self.sums))))
        if not names:
            return {}
        zeros = torch.zeros(2, **self.kind)
        stacked = torch.stack([self.sums.get(name, zeros) for name in names]).float()
        gathered = self.accelerator.gather(stacked[None]).double().sum(dim=0).tolist()
        self.sums.clear()
        means = (total / weight if weight else None for total, weight in gathered)
        return {prefix + name: mean for name, mean in zip(names, means, strict=True)}
