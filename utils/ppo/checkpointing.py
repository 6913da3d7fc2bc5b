"""Check that checkpoints are complete, belong to this run, and hold only finite numbers."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

LOG = logging.getLogger(__name__)
DIGESTS = "sha256.json"  # in a checkpoint: a hash of each file of these kinds, to find damage
HASHED = (".safetensors", ".pt", ".pth", ".json")


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why, and where earlier checkpoints are."""


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint-N of a Trainer's output folder, or None.

    A checkpoint is incomplete if the run was killed or the disk filled up while it was written.
    Such checkpoints are skipped, with a warning that names them.
    """
    folders = [f for f in Path(output_dir).glob("checkpoint-*") if f.name[11:].isdigit()]
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:]), reverse=True):
        flaw = checkpoint_flaw(folder)
        if flaw is None:
            return folder
        LOG.warning("skipping %s: %s", folder, flaw)
    return None


def checkpoint_flaw(folder: Path) -> str | None:
    """Return which file of a checkpoint is missing or damaged, or None if none is.

    A `CheckedTrainer` writes the hashes of all files last; without them, the run was cut short.
    """
    try:
        known = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{DIGESTS} is missing or truncated"
    for name in dict.fromkeys(("optimizer.pt", "scheduler.pt", "trainer_state.json", *known)):
        if name not in known or _digest(folder / name) != known[name]:
            return f"{name} is missing or damaged: {DIGESTS} has another hash"
    return None


def write_digests(folder: Path) -> None:
    """Write the hashes of a checkpoint's files, by which `checkpoint_flaw` finds damaged ones."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix in HASHED]
    digests = {file.name: _digest(file) for file in files if file.name != DIGESTS}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def _digest(file: Path) -> str | None:
    """Return the SHA-256 of a file, or None if it does not exist."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def only_run_in(output_dir: str | Path) -> Iterator[None]:
    """Hold a folder for one run; the operating system releases it even if the run is killed.

    Raises TrainingError if another process trains there.
    """
    lock = FileLock(Path(output_dir) / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise TrainingError(
            f"another run is training in {output_dir}: wait for it, or choose another output_dir"
        ) from error


class Recipe(TrainerCallback, ExportableState):
    """Settings that must match when a run is resumed, stored in trainer_state.json."""

    def __init__(self, **values: Any):
        self.values = values

    def state(self) -> dict[str, dict[str, Any]]:
        """Return the settings in the form that the Trainer stores."""
        return {"args": self.values, "attributes": {}}


def check_recipe(checkpoint: Path, values: dict[str, Any]) -> None:
    """Check that a checkpoint was written by a run with these settings.

    Raises ValueError if the `Recipe` stored in the checkpoint differs.
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
    """A Trainer that stops if a number is not finite or a checkpoint cannot be written."""

    written: Path | None = None  # the newest checkpoint of this run

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(FiniteGradients)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the Trainer does.

        Raises TrainingError if a trained weight is not finite, or another run trains in the folder.
        """
        folder = self.args.output_dir
        with only_run_in(folder) if self.args.should_save else contextlib.nullcontext():
            output = super().train(*args, **kwargs)
        check_weights(self.model, self.args, self.state)
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Skip the epoch if all steps are done; the Trainer would take one more after resuming."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        check_weights(self.model, self.args, self.state)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if self.args.should_save:
                write_digests(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write {folder}: {error}. Free some space or choose another disk, then "
                "start again and resume; the last complete checkpoint is "
                f"{self.written or last_whole_checkpoint(folder.parent)}"
            ) from error
        self.written = folder


class FiniteGradients(TrainerCallback):
    """Stop before the optimizer applies a gradient that is not finite."""

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
