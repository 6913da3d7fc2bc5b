"""Check that checkpoints are complete, belong to this run, and hold only finite numbers."""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate.utils.memory import should_reduce_batch_size
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

LOG = logging.getLogger(__name__)
DIGESTS = "sha256.json"  # in a checkpoint: hashes of its files with suffixes in HASHED
RUN = ".run"  # in the output folder: the id of its newest run
HASHED = (".safetensors", ".pt", ".pth", ".json")


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why, and where earlier checkpoints are."""


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint-N of the newest run in an output folder, or None.

    A checkpoint is incomplete if the run was killed or the disk filled up while it was written.
    Such checkpoints, and those of earlier runs, are skipped, with a warning that names them.
    """
    for folder in reversed(_checkpoints(output_dir)):
        flaw = checkpoint_flaw(folder)
        if flaw is None:
            return folder
        LOG.warning("skipping %s: %s", folder, flaw)
    return None


def _checkpoints(output_dir: str | Path) -> list[Path]:
    folders = [f for f in Path(output_dir).glob("checkpoint-*") if f.name[11:].isdigit()]
    return sorted(folders, key=lambda folder: int(folder.name[11:]))


def checkpoint_flaw(folder: Path) -> str | None:
    """Return why a run cannot be resumed from this checkpoint, or None if it can.

    A `CheckedTrainer` writes the files' hashes last; without them, the run was cut short.
    The hash of the run's id is among them, since the folder may hold checkpoints of earlier runs.
    """
    known = _digests(folder)
    if not known:
        return f"{DIGESTS} is missing or truncated"
    if known.pop(RUN, None) != _digest(folder.parent / RUN):
        return f"according to its {DIGESTS}, another run wrote it"
    for name in dict.fromkeys(("optimizer.pt", "scheduler.pt", "trainer_state.json", *known)):
        if name not in known or _digest(folder / name) != known[name]:
            return f"{name} is missing or damaged: its hash is not the one in {DIGESTS}"
    return None


def _digests(folder: Path) -> dict[str, str | None]:
    """Return what `write_digests` wrote into a checkpoint, or nothing if it cannot be read."""
    try:
        return dict(json.loads((folder / DIGESTS).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return {}


def write_digests(folder: Path) -> None:
    """Write the hashes of a checkpoint's files, by which `checkpoint_flaw` finds damaged ones."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix in HASHED]
    digests = {file.name: _digest(file) for file in files if file.name != DIGESTS}
    digests[RUN] = _digest(folder.parent / RUN)
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def _digest(file: Path) -> str | None:
    """Return the SHA-256 of a file, or None if it does not exist."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def only_run_in(output_dir: str | Path) -> Iterator[None]:
    """Lock a folder for one run; the operating system releases it even if the run is killed.

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


def _mark_run(folder: Path, checkpoint: str | Path | None) -> None:
    """Write a new id into the folder, unless the checkpoint continues the folder's newest run."""
    inside = checkpoint and Path(checkpoint).resolve().parent == folder.resolve()
    if not inside or _digests(Path(checkpoint)).get(RUN) != _digest(folder / RUN):
        (folder / RUN).write_text(uuid4().hex, encoding="utf-8")


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

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Train as the Trainer does; True resumes from the newest complete checkpoint of this run.

        Raises ValueError if there is none with weights as safetensors, and TrainingError if a
        trained weight is not finite, another run trains in the folder, or one of several processes
        runs out of memory.
        """
        folder, checkpoint = Path(self.args.output_dir), resume_from_checkpoint or None
        if checkpoint is True and (checkpoint := last_whole_checkpoint(folder)) is None:
            raise ValueError(f"{folder} has no complete checkpoint of its newest run: start again")
        if checkpoint and not any(Path(checkpoint).glob("*model*.safetensors")):
            raise ValueError(
                f"{checkpoint} has no model.safetensors, and pickles (pytorch_model.bin) are not "
                "loaded: to convert it, load it with transformers and call save_pretrained"
            )
        with only_run_in(folder) if self.args.should_save else contextlib.nullcontext():
            if self.args.should_save:
                _mark_run(folder, checkpoint)
            with self._failures_told():
                output = super().train(checkpoint and str(checkpoint), *args, **kwargs)
        check_weights(self.model, self.args, self.state)
        return output

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Raise TrainingError if one of several processes runs out of memory or loses another."""
        try:
            yield
        except RuntimeError as error:
            args = self.args
            who = f"the process of rank {args.process_index} (of {args.world_size})"
            if args.world_size > 1 and should_reduce_batch_size(error):  # the others wait for it
                raise TrainingError(
                    f"{who} ran out of memory at step {self.state.global_step + 1}: start again "
                    f"with a smaller per_device_train_batch_size "
                    f"(now {args.per_device_train_batch_size}) and more "
                    f"gradient_accumulation_steps (now {args.gradient_accumulation_steps}); "
                    f"earlier checkpoints remain in {args.output_dir}"
                ) from error
            if args.world_size > 1 and "by peer" in str(error):
                lost = f"{who} lost contact with another: see that one's error"
                raise TrainingError(lost) from error
            raise

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Skip the epoch if no steps are left; a resumed Trainer would take one more step."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        check_weights(self.model, self.args, self.state)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(*args, **kwargs)
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if self.args.should_save:
                write_digests(folder)
                if limit:  # delete others only now that this one is complete
                    self._rotate(limit)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write {folder}: {error}. Free some space or choose another disk, then "
                "start again and resume; the last complete checkpoint: "
                f"{self.written or last_whole_checkpoint(folder.parent) or 'none yet'}"
            ) from error
        finally:
            self.args.save_total_limit = limit
        self.written = folder

    def _rotate(self, limit: int) -> None:
        """Delete the oldest checkpoints beyond `limit`, those of earlier runs first."""
        folder = self.args.output_dir
        found, run = _checkpoints(folder), _digest(Path(folder) / RUN)
        others = [other for other in found if _digests(other).get(RUN) != run]
        for other in others[: max(0, len(found) - limit)]:
            shutil.rmtree(other, ignore_errors=True)
        rotate_checkpoints(folder, limit, self.state.best_model_checkpoint)


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
