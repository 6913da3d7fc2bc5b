"""Trainer checkpoints: the newest one that is whole, and whether it belongs to the run that asks for it. A run can be
killed, or a disk be full, while one is written.
"""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

LOG = logging.getLogger(__name__)


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint-N in a Trainer's output folder, or None. A broken one is passed over, and named in a
    warning.
    """
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name[11:].isdigit()]
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
    changed = [f"{name} {written.get(name)!r}, now {now!r}" for name, now in values.items() if written.get(name) != now]
    if changed:
        raise ValueError(
            f"{checkpoint} is of another run ({'; '.join(changed)}): ask for the same, choose another output folder, "
            "or start anew, without resume"
        )
