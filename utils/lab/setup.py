"""Set a lab up: install it in Colab, and say which model runs, where, and how long it takes."""

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from utils.settings import PRESETS, Settings

DRIVE = "/content/drive/MyDrive/dialogue-summarization-labs"
T4 = "choose Runtime > Change runtime type > T4 GPU, and run this cell again."


def set_up(keep_on_drive: bool = False) -> None:
    """In Colab, install what it lacks; keep checkpoints and results on Google Drive if asked.

    Colab's own torch and numpy stay. With Drive, interrupted training resumes. Elsewhere, this
    does nothing.
    """
    if "google.colab" not in sys.modules:
        return
    kept = "".join(f"{name}=={version(name)}\n" for name in ("torch", "numpy"))
    Path("kept.txt").write_text(kept, encoding="utf-8")
    install = [sys.executable, "-m", "pip", "install", "--quiet"]
    lists = ["-r", "requirements-colab.txt", "-c", "kept.txt"]
    subprocess.run(install + lists, check=True)
    if keep_on_drive:
        from google.colab import drive  # exists only in Colab

        drive.mount("/content/drive")
        os.environ |= {"LABS_OUTPUT_DIR": DRIVE, "LABS_RESUME": "on"}
        print(f"Checkpoints and results go to {DRIVE}, and training resumes from there.")
    elif os.environ.get("LABS_OUTPUT_DIR") == DRIVE:  # the switch was on before
        del os.environ["LABS_OUTPUT_DIR"], os.environ["LABS_RESUME"]


def introduce(settings: Settings, lab: str, minutes: Mapping[str, int | str]) -> None:
    """Print which model a lab runs, on what, and how long it takes, and how to get FLAN-T5.

    `minutes` maps each preset to how long the lab takes with it.
    """
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "this CPU"
    time = f"takes about {minutes[settings.preset]} minutes"
    print(f"{lab} runs {settings.model_name} on {device} (preset {settings.preset}) and {time}.")
    if not gpu and "google.colab" in sys.modules:
        print(f"This Colab has no GPU. To get FLAN-T5-base, switch on a free one: {T4}")
    elif "flan-t5" not in settings.model.lower():
        preset, why = ("gpu", "") if gpu else ("cpu", "No CUDA GPU was found. ")
        real = PRESETS[preset]["model"].removeprefix("google/")
        remedy = f'rerun this cell with load_settings("{preset}")'
        print(f"{why}To run {real} on {device} (about {minutes[preset]} minutes), {remedy}.")
