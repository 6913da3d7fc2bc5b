"""Checkpoints that can be trusted: whole, of this run, and without numbers that are not finite."""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

LOG = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what is kept."""


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint-N of a Trainer's output folder, or None.

    A run can be killed, or a disk can fill up, while one is written: incomplete ones are passed
    over, with a warning that names them.
    """
    folders = [f for f in Path(output_dir).glob("checkpoint-*") if f.name[11:].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:]), reverse=True):
        flaw = checkpoint_flaw(folder)
        if flaw is None:
            return folder
        LOG.warning("passing over %s: %s", folder, flaw)
    return None


def checkpoint_flaw(folder: Path) -> str | None:
    """Return what is missing from or cut short in a checkpoint, or None if it is complete.

    A safetensors file states its length in its header, and an archive of torch.save ends with its
    directory: neither has to be read through. The Trainer writes trainer_state.json last.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        return "it has no weights (*.safetensors)"
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name} is cut short ({error})"
    states = sorted(folder.glob("rng_state*.pth"))  # one for each process
    for file in (folder / "optimizer.pt", folder / "scheduler.pt", *states):
        if not zipfile.is_zipfile(file):
            return f"{file.name} is missing or cut short"
    if not states:
        return "rng_state.pth is missing"
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "trainer_state.json is missing or cut short"
    return None


class Recipe(TrainerCallback, ExportableState):
    """What a run was asked for; the Trainer writes it into each checkpoint's trainer_state.json."""

    def __init__(self, **values: Any):
        self.values = values

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what is written."""
        return {"args": self.values, "attributes": {}}


def check_recipe(checkpoint: Path, values: dict[str, Any]) -> None:
    """Check that a checkpoint was written by a run with this recipe.

    Raises ValueError if the `Recipe` in the checkpoint has other values.
    """
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    written = state["stateful_callbacks"].get(Recipe.__name__, {"args": {}})["args"]
    changed = [
        f"{name} {written.get(name)!r}, now {now!r}"
        for name, now in values.items()
        if written.get(name) != now
    ]
    if changed:
        raise ValueError(
            f"{checkpoint} belongs to another run ({'; '.join(changed)}): use the same settings, "
            "choose another output folder, or start again without resume"
        )


class CheckedTrainer(Trainer):
    """A Trainer that stops, before harm is done, where a number is not finite or a disk is full."""

    written: Path | None = None  # the newest checkpoint of this run

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(FiniteGradients)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the Trainer does; raises TrainingError if a trained weight is not finite."""
        output = super().train(*args, **kwargs)
        check_weights(self.model, self.args, self.state)
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Take no step after the last one, as the Trainer would where a run resumes there."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        check_weights(self.model, self.args, self.state)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write {folder}: {error}. Free some space or choose another disk, then "
                "start again and resume; the last complete checkpoint is "
                f"{self.written or last_whole_checkpoint(folder.parent)}"
            ) from error
        self.written = folder


class FiniteGradients(TrainerCallback):
    """Refuse a gradient that is not finite before the optimizer applies it."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Raise TrainingError if the norm of the gradient is not finite."""
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            where = f"the norm of the gradient is {norm.item()} at step {state.global_step + 1}"
            raise TrainingError(f"{where}: {_remedy(args)}")


def check_weights(model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
    """Raise TrainingError if a trained weight is not finite."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            where = f"{name} holds numbers that are not finite after step {state.global_step}"
            raise TrainingError(f"{where}: {_remedy(args)}")


def _remedy(args: TrainingArguments) -> str:
    return (
        f"lower the learning rate (now {args.learning_rate}); earlier checkpoints remain in "
        f"{args.output_dir}"
    )
