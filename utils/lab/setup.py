"""Introduce a lab's run: which model it uses, where, and how long it takes."""

from collections.abc import Mapping

import torch

from utils.settings import PRESETS, Settings

FLAN = 'to get FLAN-T5, write load_settings("cpu") or load_settings("gpu") in this cell'


def introduce(settings: Settings, lab: str, minutes: Mapping[str, int | str]) -> None:
    """Print one sentence: the model, the device, the time of the lab, and how to get FLAN-T5.

    `minutes` maps each preset to how long the lab takes with it.
    """
    embedded = settings.model == PRESETS["offline"]["model"]
    model = "the small world's T5" if embedded else settings.model_name
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    time = f"takes about {minutes[settings.preset]} minutes"
    real = "flan-t5" in settings.model.lower()
    remedy = "" if real else f"; {FLAN}"
    print(f"{lab} runs {model} on {device} (preset {settings.preset}) and {time}{remedy}.")
