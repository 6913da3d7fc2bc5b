"""The one Settings dataclass, and the presets that fill it in."""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

OFFLINE = Path(__file__).parent / "offline"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a lab can be told. A preset fills the fields in; a keyword or a variable LABS_<FIELD> overrides one.

    Numbers of dialogues may be None: all of them.
    """

    preset: str = field(metadata={"help": "where the values came from"})
    model: str = field(metadata={"help": "encoder-decoder model, hub id or folder"})
    reward_model: str = field(metadata={"help": "hate-speech classifier, hub id or folder"})
    dataset: str = field(metadata={"help": "dialogues with summaries, hub id or folder"})
    precision: str = field(
        default="auto", metadata={"help": "auto, fp32 or bf16 (autocast over fp32 weights)"}
    )
    seed: int = field(default=42, metadata={"help": "of every random choice"})
    output_dir: str = field(
        default="out", metadata={"help": "folder of results, checkpoints and pages"}
    )

    train_dialogues: int | None = field(
        default=None, metadata={"help": "used for fine-tuning and examples"}
    )
    validation_dialogues: int | None = field(
        default=None, metadata={"help": "used to choose checkpoints"}
    )
    test_dialogues: int | None = field(default=None, metadata={"help": "used to judge"})
    max_prompt_tokens: int = field(
        default=512, metadata={"help": "budget of a prompt with examples"}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "longest summary, in tokens"})
    few_shot: int = field(default=3, metadata={"help": "worked examples in a few-shot prompt"})

    batch_size: int = field(default=16, metadata={"help": "of fine-tuning"})
    full_epochs: float = field(
        default=1.0, metadata={"help": "passes over train, full fine-tuning"}
    )
    full_learning_rate: float = field(default=1e-4, metadata={"help": "peak, full fine-tuning"})
    lora_epochs: float = field(default=1.0, metadata={"help": "passes over train, LoRA"})
    lora_learning_rate: float = field(default=1e-3, metadata={"help": "peak, LoRA"})
    lora_rank: int = field(default=32, metadata={"help": "r of LoRA"})

    sweep_steps: int = field(
        default=100, metadata={"help": "steps of each run in Lab 2's sweep of ranks"}
    )
    sweep_seeds: int = field(default=2, metadata={"help": "runs for each point of Lab 2's sweeps"})

    ppo_steps: int = field(
        default=100, metadata={"help": "batches of prompts sampled and learned from"}
    )
    ppo_batch_size: int = field(default=16, metadata={"help": "prompts in one PPO step"})
    ppo_learning_rate: float = field(default=1e-4, metadata={"help": "peak, PPO"})
    kl_coef: float = field(
        default=0.05, metadata={"help": "price of one nat of KL to the reference"}
    )
    grpo_kl_coef: float = field(
        default=0.05, metadata={"help": "the same for GRPO, whose KL stands in the loss, per token"}
    )
    ppo_seeds: int = field(default=3, metadata={"help": "runs of PPO, each judged"})
    ppo_generations: int = field(
        default=4, metadata={"help": "responses to one prompt, RLOO and GRPO"}
    )
    second_judge: str | None = field(
        default=None,
        metadata={"help": "another toxicity classifier, hub id or folder, that is no reward"},
    )
    second_judge_labels: str = field(
        default="toxic,neutral", metadata={"help": "its label of toxic texts, and that of others"}
    )
    searched_dialogues: int | None = field(
        default=None, metadata={"help": "of train, searched for heated ones that PPO learns from"}
    )
    judged_dialogues: int = field(
        default=120, metadata={"help": "held-out heated dialogues that toxicity is judged on"}
    )

    @property
    def is_embedded_default(self) -> bool:
        """Whether all is as the preset "offline" has it, but for the seed and the folder written to."""
        default = Settings(preset="offline", **PRESETS["offline"])
        return (
            dataclasses.replace(self, seed=default.seed, output_dir=default.output_dir) == default
        )

    @property
    def model_name(self) -> str:
        """What figures call the model."""
        return (
            "the embedded T5"
            if self.model == PRESETS["offline"]["model"]
            else self.model.rstrip("/").split("/")[-1]
        )

    def shown(self, name: str) -> str:
        """A field's value as text; folders inside the project are shown from its root."""
        return str(getattr(self, name)).removeprefix(f"{OFFLINE.parents[1]}{os.sep}")

    def table(self) -> pd.DataFrame:
        """One row per field: its value and its meaning."""
        rows = {f.name: (self.shown(f.name), f.metadata["help"]) for f in dataclasses.fields(self)}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "meaning"])


_HUB = {
    "model": "google/flan-t5-base",
    "reward_model": "facebook/roberta-hate-speech-dynabench-r4-target",
    "dataset": "knkarthick/dialogsum",
}
PRESETS: dict[str, dict[str, Any]] = {
    "offline": {
        "model": str(OFFLINE / "t5"),
        "reward_model": str(OFFLINE / "classifier"),
        "dataset": str(OFFLINE / "data"),
        "precision": "fp32",  # a model this small gains nothing from bf16
        "max_new_tokens": 48,
        "batch_size": 32,
        "full_epochs": 2.0,
        "full_learning_rate": 1e-3,
        "lora_epochs": 3.0,
        "lora_learning_rate": 5e-3,
        "lora_rank": 32,
        "sweep_steps": 30,
        "ppo_steps": 40,
        "ppo_batch_size": 32,
        "ppo_learning_rate": 5e-4,
        "kl_coef": 1.0,
        "grpo_kl_coef": 0.3,
    },
    "cpu": _HUB
    | {
        "train_dialogues": 200,
        "validation_dialogues": 24,
        "test_dialogues": 40,
        "sweep_steps": 3,
        "sweep_seeds": 1,
        "searched_dialogues": 1000,
        "ppo_steps": 8,
        "ppo_seeds": 1,
        "judged_dialogues": 24,
    },
    "gpu": _HUB | {"ppo_steps": 60},  # sized for a T4, which has no bf16
}
PRECISIONS = ("auto", "fp32", "bf16")
MINIMA = dict.fromkeys(("seed", "kl_coef", "grpo_kl_coef"), 0)  # of all others: 1
MINIMA |= dict.fromkeys(
    ("test_dialogues", "judged_dialogues", "ppo_generations"), 2
)  # one alone has no interval


def load_settings(preset: str | None = None, **overrides: Any) -> Settings:
    """Fill in the Settings: preset, then variables LABS_<FIELD>, then keywords; the later wins.

    `preset` is "offline", "cpu", "gpu" or "auto" (gpu where CUDA is, else cpu); None reads LABS_PRESET, else means
    "auto".

    Raises:
        ValueError: an unknown preset, field or variable, or a value that a field cannot take.
    """
    preset = preset or os.environ.get("LABS_PRESET") or "auto"
    if preset == "auto":
        preset = "gpu" if torch.cuda.is_available() else "cpu"
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose auto, {', '.join(PRESETS)}")
    fields = {f.name: f for f in dataclasses.fields(Settings) if f.name != "preset"}
    chosen = _from_environment(fields) | overrides
    if unknown := set(chosen) - set(fields):
        raise ValueError(
            f"unknown setting {', '.join(sorted(unknown))}: choose from {', '.join(fields)}"
        )
    for name, value in chosen.items():
        _check(name, value, fields[name].type)
    return Settings(preset=preset, **(PRESETS[preset] | chosen))


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Overrides for `load_settings` from texts NAME=VALUE.

    Raises:
        ValueError: a text of another form, an unknown name, or a value that is no number where one is needed.
    """
    fields = {f.name: f for f in dataclasses.fields(Settings) if f.name != "preset"}
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in fields:
            raise ValueError(
                f"{pair!r} is no override: write NAME=VALUE, with a NAME of {', '.join(fields)}"
            )
        values[name] = _parse(name, text, fields[name].type)
    return values


def _from_environment(fields: dict[str, dataclasses.Field]) -> dict[str, Any]:
    values = {}
    for variable, text in os.environ.items():
        name = variable.removeprefix("LABS_").lower()
        if not variable.startswith("LABS_") or name == "preset":
            continue
        if name not in fields:
            raise ValueError(
                f"unknown variable {variable}: "
                f"choose from {', '.join(f'LABS_{name.upper()}' for name in ('preset', *fields))}"
            )
        values[name] = _parse(variable, text, fields[name].type)
    return values


def _parse(variable: str, text: str, kind: Any) -> Any:
    if kind in (int | None, str | None) and text.lower() in ("all", "none"):
        return None
    if kind in (str, str | None):
        return text
    try:
        return float(text) if kind is float else int(text)
    except ValueError:
        raise ValueError(
            f"{variable}={text!r} is not a number: give {'a number' if kind is float else 'a whole number'}"
        ) from None


def _check(name: str, value: Any, kind: Any) -> None:
    accepted = int | float if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool):
        raise ValueError(
            f"setting {name}={value!r} must be of type {getattr(kind, '__name__', kind)}"
        )
    if name == "precision" and value not in PRECISIONS:
        raise ValueError(f"setting precision={value!r}: choose from {', '.join(PRECISIONS)}")
    if kind is str and not value.strip():
        raise ValueError(
            f"setting {name}={value!r} is empty: give a value, or leave the setting out"
        )
    if (
        name == "second_judge_labels"
        and len([label for label in value.split(",") if label.strip()]) != 2
    ):
        raise ValueError(
            f"setting second_judge_labels={value!r} must be two labels, of toxic texts and of others: toxic,neutral"
        )
    if name == "seed" and isinstance(value, int) and value >= 2**32:
        raise ValueError(f"setting seed={value!r} must be below 2**32")
    minimum = MINIMA.get(name, 1)
    if kind is float and not (0 < value < math.inf or value == minimum == 0):
        raise ValueError(f"setting {name}={value!r} must be positive and finite")
    if kind is not float and isinstance(value, int) and value < minimum:
        raise ValueError(f"setting {name}={value!r} must be at least {minimum}")
