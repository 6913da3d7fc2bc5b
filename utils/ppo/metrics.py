"""Collect metrics on each process, and average them over all processes at each log."""

from collections import defaultdict

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


class Metrics:
    """Weighted means by name, accumulated from one log to the next."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = defaultdict(self._zeros)

    def _zeros(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)

    def add(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add a value with a weight, and ignore NaN."""
        value = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device).detach()
        weight = torch.as_tensor(weight, dtype=torch.float64, device=self.accelerator.device)
        counted = torch.stack([value * weight, weight])
        self.sums[name] = self.sums[name] + torch.where(value.isnan(), 0.0, counted)

    def flush(self, prefix: str = "") -> dict[str, float | None]:
        """Return the means over all processes, None where there is no value, and reset them."""
        names = set(self.sums)
        if self.accelerator.num_processes > 1:
            names = set(gather_object(sorted(names)))
        if not names:
            return {}
        stacked = torch.stack([self.sums[name] for name in sorted(names)]).to(torch.float32)
        gathered = self.accelerator.gather(stacked[None]).double().sum(dim=0).tolist()
        self.sums.clear()
        return {
            prefix + name: total / weight if weight else None
            for name, (total, weight) in zip(sorted(names), gathered, strict=True)
        }


def gather_columns(accelerator: Accelerator, columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather columns (rows,) from all processes at once, and return columns (all rows,)."""
    table = accelerator.gather(torch.stack([c.float() for c in columns.values()], dim=1))
    return dict(zip(columns, table.unbind(dim=1), strict=True))
