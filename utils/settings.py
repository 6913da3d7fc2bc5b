"""Define the settings of a run and their presets, and read settings from text."""

from __future__ import annotations  # keeps annotations as text, which _parse reads

import contextlib
import dataclasses
import difflib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger(__name__)
OFFLINE = Path(__file__).parent / "offline"
SWITCH = {"on": True, "true": True, "off": False, "false": False}
READERS = {  # type: function that reads its text, and its name in messages
    "bool": (lambda text: SWITCH[text.lower()], "on or off"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "list": (json.loads, "a list in JSON"),
    "tuple": (lambda text: tuple(json.loads(text)), "a list in JSON"),
    "dict": (json.loads, "an object in JSON"),
    "str": (str, "text"),
}


def _option(meaning: str, default: Any = dataclasses.MISSING, **bounds: Any) -> Any:
    """Declare a setting; integers must be at least 1 and floats positive unless `bounds` differ."""
    return field(default=default, metadata={"help": meaning, **bounds})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a lab or command; `load_settings` creates and checks them."""

    preset: str = _option("preset that the other values come from")
    model: str = _option("encoder-decoder model, hub id or folder")
    reward_model: str = _option("hate-speech classifier, hub id or folder")
    dataset: str = _option("dialogues with summaries, hub id or folder")
    precision: str = _option(
        "auto, fp32 or bf16 (autocast over fp32 weights)", "auto", choices=("auto", "fp32", "bf16")
    )
    cpu_speedups: bool = _option("faster layers on CPUs; off uses the libraries' own", True)
    seed: int = _option("seed of all random choices", 42, minimum=0, below=2**32)
    output_dir: str = _option("folder for results, checkpoints and pages")
    resume: bool = _option("continue interrupted training from output_dir", False)

    train_dialogues: int | None = _option("dialogues for training and examples", None, none="all")
    validation_dialogues: int | None = _option(
        "dialogues for choosing the best checkpoint", None, none="all"
    )
    test_dialogues: int | None = _option("test dialogues to score", None, minimum=2, none="all")
    max_prompt_tokens: int = _option("longest prompt, in tokens", 1024)
    max_new_tokens: int = _option("longest summary, in tokens", 128)
    few_shot: int = _option("worked examples in a few-shot prompt", 3)

    batch_size: int = _option("dialogues in one step of fine-tuning", 16)
    full_epochs: float = _option("epochs of full fine-tuning", 2.0)
    full_learning_rate: float | None = _option("full fine-tuning's peak rate", 3e-4, none="default")
    lora_epochs: float = _option("epochs of LoRA", 2.0)
    lora_learning_rate: float | None = _option("LoRA's peak rate", 1e-3, none="default")
    lora_rank: int = _option("rank r of LoRA's matrices", 32)
    finetune_seeds: int = _option("runs of each fine-tuning method with different seeds", 2)
    sweep_steps: int = _option("steps of each run in Lab 2's sweep of ranks", 100)
    sweep_seeds: int = _option("runs per point in Lab 2's sweeps", 2)

    ppo_steps: int = _option("batches of prompts that PPO trains on", 100)
    ppo_batch_size: int = _option("responses in one PPO step", 16)
    ppo_learning_rate: float = _option("PPO's peak rate", 1e-3)
    kl_coef: float = _option("β, the penalty for one nat of KL to the reference", 0.6, minimum=0)
    grpo_kl_coef: float = _option("β of the KL per token in GRPO's loss", 0.2, minimum=0)
    ppo_seeds: int = _option("runs of PPO with different seeds", 3)
    ppo_generations: int = _option("responses per prompt with RLOO and GRPO", 4, minimum=2)
    second_judge: str = _option(
        "another toxicity classifier, hub id or folder, never used as a reward"
    )
    second_judge_labels: str = _option("labels for toxic and other texts", "toxic,neutral", names=2)
    judged_dialogues: int = _option("heated test dialogues to score, at most 300", 300, minimum=2)
    ordinary_dialogues: int = _option("limit on Lab 3's ordinary training dialogues", 600)

    @property
    def is_embedded_default(self) -> bool:
        """Whether at most the seed, output_dir and resume differ from "offline"."""
        own = {name: getattr(self, name) for name in ("seed", "output_dir", "resume")}
        return self == Settings(preset="offline", **PRESETS["offline"] | own)

    @property
    def model_name(self) -> str:
        """The model's name in figures."""
        if self.model == PRESETS["offline"]["model"]:
            return "the small world's T5"
        return self.model.rstrip("/").split("/")[-1]

    def shown(self, name: str) -> str:
        """Return a setting's value as text; show a folder in the project relative to its root."""
        value = getattr(self, name)
        if value is None:
            return FIELDS[name].metadata.get("none", "none")
        return str(value).removeprefix(f"{OFFLINE.parents[1]}{os.sep}")

    def table(self) -> pd.DataFrame:
        """Return one row per setting: its value and its meaning."""
        import pandas as pd

        rows = {f.name: (self.shown(f.name), f.metadata["help"]) for f in dataclasses.fields(self)}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "meaning"])

    def check_adapter(self, folder: str | Path) -> None:
        """Raise ValueError unless the folder holds this model's adapter, as safetensors.

        If the folder of the adapter's model no longer exists, this logs a warning and assumes that
        this model is a copy.
        """
        base = adapter_base(folder)
        if base is None:
            raise ValueError(
                f"{folder} holds no adapter: run Lab 2 first, or give a folder that the command "
                "finetune wrote (for a fully fine-tuned model, set model to its folder instead)"
            )
        pickled = Path(folder) / "adapter_model.bin"
        if pickled.is_file() and not pickled.with_suffix(".safetensors").is_file():
            raise ValueError(
                f"{pickled} is a pickle, which is not loaded: to convert it to safetensors, load "
                "the adapter with peft and call save_pretrained"
            )
        if base == self.model:
            return
        if Path(base).is_absolute() and not Path(base).exists() and Path(self.model).is_dir():
            gone = "the adapter in %s was trained on %s, which is gone: assuming that %s is a copy"
            LOG.warning(gone, folder, base, self.model)
        else:
            raise ValueError(
                f"the adapter in {folder} belongs to {base!r}, not to {self.model!r}: choose the "
                "preset or model that it was trained with, or run Lab 2 again"
            )


def adapter_base(folder: str | Path) -> str | None:
    """Return the model that a folder's adapter was trained on, or None without an adapter."""
    file = Path(folder) / "adapter_config.json"
    if not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")


FIELDS = {f.name: f for f in dataclasses.fields(Settings) if f.name != "preset"}
_HUB = {
    "model": "google/flan-t5-base",
    "reward_model": "facebook/roberta-hate-speech-dynabench-r4-target",
    "second_judge": "s-nlp/roberta_toxicity_classifier",
    "dataset": "knkarthick/dialogsum",
}
PRESETS: dict[str, dict[str, Any]] = {
    "offline": {
        "output_dir": "out",  # each preset has its own, so that none overwrites another's results
        "model": str(OFFLINE / "t5"),
        "reward_model": str(OFFLINE / "judge"),
        "second_judge": str(OFFLINE / "second_judge"),
        "dataset": str(OFFLINE / "data"),
        "precision": "fp32",  # a model this small gains nothing from bf16
        "train_dialogues": 800,  # more take longer, and fine-tuning ends at the same score
        "max_prompt_tokens": 768,
        "max_new_tokens": 64,
        "batch_size": 32,
        "lora_learning_rate": 3e-3,
        "sweep_steps": 40,
        "sweep_seeds": 1,
        "ppo_steps": 20,
        "ppo_batch_size": 32,
        "ppo_learning_rate": 1.7e-3,
        "ppo_seeds": 5,
        "judged_dialogues": 200,
    },
    "cpu": _HUB  # aims at 30 minutes a lab on two cores: see docs/performance.md
    | {
        "output_dir": "out/cpu",
        "model": "google/flan-t5-small",
        "train_dialogues": 600,
        "validation_dialogues": 32,
        "test_dialogues": 200,
        "batch_size": 8,  # less padding than with 16, and twice the steps
        "finetune_seeds": 1,
        "sweep_steps": 3,
        "sweep_seeds": 1,
        "ppo_steps": 20,
        "ppo_seeds": 1,
        "judged_dialogues": 150,
        "ordinary_dialogues": 300,
    },
    "gpu": _HUB  # aims at 45 minutes a lab on a T4, which has no bf16
    | {
        "output_dir": "out/gpu",
        "train_dialogues": 3000,
        "sweep_steps": 30,
        "ppo_steps": 100,
        "ppo_batch_size": 32,
    },
}


def load_settings(preset: str | None = None, **overrides: Any) -> Settings:
    """Create Settings from a preset, then variables LABS_<NAME>, then `overrides`; the last wins.

    `preset` is "offline", "cpu", "gpu" or "auto" (gpu if CUDA is available, else offline). It
    defaults to the variable LABS_PRESET, or to "auto" if that is not set.

    Raises ValueError if a preset, setting or variable is unknown, or a value is not allowed.
    """
    preset = preset or os.environ.get("LABS_PRESET") or "auto"
    if preset not in ("auto", *PRESETS):
        raise ValueError(f"unknown preset {preset!r}: choose auto, {', '.join(PRESETS)}")
    overrides = _from_environment() | overrides
    for name in overrides:
        if name not in FIELDS:
            raise ValueError(unknown("setting", name, FIELDS))
    values = {name: _checked(FIELDS[name], value) for name, value in overrides.items()}
    if preset == "auto":
        import torch

        preset = "gpu" if torch.cuda.is_available() else "offline"
    return Settings(preset=preset, **PRESETS[preset] | values)


def small_world(settings: Settings) -> Settings:
    """Return the settings if their model is the small world's T5, or else those of "offline"."""
    if settings.model == PRESETS["offline"]["model"]:
        return settings
    names = (*_HUB, "second_judge_labels", "precision")
    own = {name: PRESETS["offline"].get(name, FIELDS[name].default) for name in names}
    return load_settings("offline", seed=settings.seed, **own)


def parse_overrides(
    pairs: Sequence[str], arguments: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Parse texts of the form NAME=VALUE, where NAME is a setting or a training argument.

    `arguments` maps names of training arguments to annotations; a setting of the same name wins.

    Raises ValueError if a text is not NAME=VALUE, a name is unknown, or a value cannot be read.
    """
    settings = {name: setting.type for name, setting in FIELDS.items()}
    values, annotations = {}, {**(arguments or {}), **settings}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"cannot read the override {pair!r}: write NAME=VALUE")
        if name not in annotations:
            raise ValueError(unknown("setting", name, annotations))
        values[name] = _parse(name, text, annotations[name])
    return values


def _from_environment() -> dict[str, Any]:
    values = {}
    for variable, text in os.environ.items():
        if variable.startswith("LABS_") and variable != "LABS_PRESET":
            try:
                values |= parse_overrides([f"{variable[5:].lower()}={text}"])
            except ValueError as error:
                raise ValueError(f"variable {variable}: {error}") from None
    return values


def unknown(kind: str, name: str, known: Iterable[str], else_from: str = ", ".join(FIELDS)) -> str:
    """Return what is wrong with an unknown name, with the nearest known one as the remedy."""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {else_from}"
    return f"unknown {kind} {name!r}: {hint}"


def _parse(name: str, text: str, annotation: str) -> Any:
    """Convert a text to the first type in READERS that the annotation names and the text fits."""
    types = set(re.findall(r"\w+", re.sub(r"\[.*?\]", "", annotation)))
    none = FIELDS[name].metadata.get("none") if name in FIELDS else None
    if "None" in types and text.lower() in ("none", none):
        return None
    readers = [READERS[kind] for kind in READERS if kind in types]
    for read, _ in readers:
        with contextlib.suppress(ValueError, KeyError):
            return read(text)
    wanted = " or ".join(wanted for _, wanted in readers) or annotation
    raise ValueError(f"{name}={text!r} cannot be read: give {wanted}")


def _checked(option: dataclasses.Field, value: Any) -> Any:
    """Return an allowed value, without spaces around names; raise ValueError for any other."""
    bounds, (kind, *optional) = option.metadata, option.type.split(" | ")
    if value is None and optional:
        return None
    accepted = {"str": str, "bool": bool, "int": int, "float": int | float}[kind]
    problem = ""
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind != "bool"):
        problem = f"must be of type {option.type}"
    elif kind == "str" and not value.strip():
        problem = "is empty: give a value, or leave it out"
    elif "choices" in bounds and value not in bounds["choices"]:
        problem = f"is not allowed: choose from {', '.join(bounds['choices'])}"
    elif kind == "int" and value < bounds.get("minimum", 1):
        problem = f"must be at least {bounds.get('minimum', 1)}"
    elif kind == "int" and value >= bounds.get("below", math.inf):
        problem = f"must be below {bounds['below']}"
    elif kind == "float" and not (0 < value < math.inf or value == bounds.get("minimum")):
        problem = "must be positive and finite"
    elif "names" in bounds:
        names = [part.strip() for part in value.split(",")]
        if len(names) == bounds["names"] and all(names):
            return ",".join(names)
        problem = (
            f"must be {bounds['names']} names with a comma in between, such as {option.default}"
        )
    if problem:
        raise ValueError(f"setting {option.name}={value!r} {problem}")
    return value
