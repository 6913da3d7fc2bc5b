"""Fine-tuning of tiny models in tests: four pairs of texts, and what the tests compare."""

from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback

PAIRS = Dataset.from_dict(
    {
        "dialogue": [
            "#Person1#: good\n#Person2#: bad",
            "#Person1#: nice ugly",
            "hello world good bad",
            "ladder",
        ],
        "summary": ["good bad", "nice", "hello world", "Anna asks for the ladder"],
    }
)
SMALL = {
    "template": "{dialogue}",
    "precision": "fp32",
    "max_new_tokens": 8,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "warmup_steps": 0,
    "disable_tqdm": True,
}
UNSAVED = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
EVERY_STEP = UNSAVED | {"save_strategy": "steps", "save_steps": 1}


class Scores(TrainerCallback):
    """Replaces the ROUGE-1 of each evaluation by the next of these scores."""

    def __init__(self, *scores: float):
        self.scores = iter(scores)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_rouge1"] = next(self.scores)


class OutOfMemory(TrainerCallback):
    """Raises the error of a full memory for batches of more than `rows`, from `step` on."""

    def __init__(self, model: nn.Module, rows: int, step: int = 0):
        self.rows, self.first_step, self.step, self.sizes = rows, step, 0, []
        model.register_forward_pre_hook(self._check, with_kwargs=True)

    def on_step_begin(self, args, state, control, **kwargs):
        self.step = state.global_step

    def _check(self, model, args, inputs):
        if model.training:
            self.sizes.append(len(inputs["input_ids"]))
            if self.step >= self.first_step and self.sizes[-1] > self.rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the model's weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    """Return the largest difference between weights of two models of the same form."""
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max((x - y).abs().max().item() for x, y in pairs)


def losses(result) -> list[float]:
    """Return the logged training losses of a result."""
    return result.history["loss"].dropna().tolist()


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
