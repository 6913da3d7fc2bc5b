"""Trainer checkpoints: the newest one that is whole, and whether it belongs to the run that asks for it. A run can be
killed, or a disk be full, while one is written.
"""

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


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint-N in a Trainer's output folder, or None. A broken one is passed over, and named in a
    warning.
    """
    folders = [
        folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name[11:].isdigit()
    ]
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:]), reverse=True):
        flaw = checkpoint_flaw(folder)
        if flaw is None:
            return folder
        LOG.warning("passing over %s: %s", folder, flaw)
    return None


def checkpoint_flaw(folder: Path) -> str | None:
    """What is missing or cut short in a checkpoint, or None if it is whole.

    A safetensors file tells its own length in its header, and an archive of torch.save ends in its directory, so that
    both are known to be whole without reading them through. The Trainer writes trainer_state.json last.
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
    for name in ("optimizer.pt", "scheduler.pt"):
        if not zipfile.is_zipfile(folder / name):
            return f"{name} is missing or cut short"
    states = sorted(folder.glob("rng_state*.pth"))  # one of each process
    if not states:
        return "rng_state.pth is missing"
    for file in states:
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut short"
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "trainer_state.json is missing or cut short"
    return None


class Recipe(TrainerCallback, ExportableState):
    """What a run was asked for; the Trainer writes it into every checkpoint's trainer_state.json."""

    def __init__(self, **values: Any):
        self.values = values

    def state(self) -> dict[str, dict[str, Any]]:
        """What is written."""
        return {"args": self.values, "attributes": {}}


def check_recipe(checkpoint: Path, values: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of a run with another recipe.

    Raises:
        ValueError: `values` are not those of the `Recipe` in the checkpoint.
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
            f"{checkpoint} is of another run ({'; '.join(changed)}): ask for the same, choose another output folder, "
            "or start anew, without resume"
        )


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what is kept."""


class GuardedTrainer(Trainer):
    """A Trainer that stops, before harm is done, with one error that names the step and what is kept."""

    written: Path | None = None  # the newest checkpoint of this run

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(FiniteGradients)

    def train(self, *args, **kwargs) -> TrainOutput:
        """As the Trainer's; weights that are not finite are refused at the end."""
        output = super().train(*args, **kwargs)
        check_weights(self.model, self.args, self.state)
        return output

    def _run_epoch(self, *args, **kwargs) -> None:
        """A run that is resumed at its last step is over: the Trainer looks only after the next one."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        check_weights(self.model, self.args, self.state)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write {folder}: {error}. Free some space or choose another disk, then start again and resume; "
                f"the last whole checkpoint is {self.written or last_whole_checkpoint(folder.parent)}"
            ) from error
        self.written = folder


class FiniteGradients(TrainerCallback):
    """Refuses a gradient that is no number before it is applied."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs,
    ) -> None:
        """Look at the gradient's norm."""
        check_gradient(model, args, state)


def check_gradient(model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
    """Refuse a gradient whose norm is not finite: a loss that is no number has such a one, and so has an overflow.

    Raises:
        TrainingError: it is not.
    """
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if not torch.isfinite(norm):
        raise TrainingError(
            f"the norm of the gradient is {norm.item()} at step {state.global_step + 1}: {_remedy(args)}"
        )


def check_weights(model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
    """Refuse trained weights that are not finite.

    Raises:
        TrainingError: some are not.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise TrainingError(
                f"{name} holds numbers that are not finite after step {state.global_step}: {_remedy(args)}"
            )


def _remedy(args: TrainingArguments) -> str:
    return (
        f"lower the learning rate (now {args.learning_rate}); checkpoints written before that remain in "
        f"{args.output_dir}"
    )
