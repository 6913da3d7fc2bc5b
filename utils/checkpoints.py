"""Trainer checkpoints: the newest one that is whole. A run can be killed, or a disk be full, while one is written."""

import json
import logging
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

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
    if not any(zipfile.is_zipfile(file) for file in folder.glob("rng_state*.pth")):
        return "rng_state.pth is missing or cut short"
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "trainer_state.json is missing or cut short"
    return None
