"""Set up the initial policy and its training, for Lab 3, the command `ppo` and the KL sweep."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from utils.data import first_rows, load_splits
from utils.finetuning import fine_tune, finetune_arguments, lora_config
from utils.generation import generate
from utils.models import load_model, use_bf16
from utils.ppo import PPOConfig, PPOTrainer
from utils.prompts import build_prompt
from utils.settings import Settings, adapter_base
from utils.toxicity import HateReward, HateScorer


def initial_policy(
    settings: Settings, adapter: str | Path, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the settings' model with an adapter merged in, in eval mode, and its tokenizer.

    Raises ValueError if the folder holds no adapter, or one that was trained on another model.
    """
    settings.check_adapter(adapter)
    model, tokenizer = load_model(settings.model, device, cpu_speedups=settings.cpu_speedups)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval(), tokenizer


def lab2_policy(
    settings: Settings, output_dir: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the settings' model with Lab 2's LoRA adapter merged in, and its tokenizer.

    If Lab 2 has not stored an adapter of this model, train one in `output_dir`.
    """
    adapter = Path(settings.output_dir) / "lab2" / "lora" / "best"
    if adapter_base(adapter) != settings.model:
        data, adapter = load_splits(settings), Path(output_dir) / "lora"
        base = load_model(settings.model, cpu_speedups=settings.cpu_speedups)
        chosen = finetune_arguments(settings, "lora", output_dir=f"{adapter}_run")
        fine_tune(*base, data["train"], data["validation"], **chosen).model.save_pretrained(adapter)
    return initial_policy(settings, adapter)


def tuned_copy(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    settings: Settings,
    output_dir: str | Path,
    **changes: Any,
) -> PreTrainedModel:
    """Fine-tune a copy of the policy with LoRA on dialogues and summaries, and merge the adapter.

    `changes` override the arguments of `finetune_arguments`; by default it takes one epoch.
    """
    unwatched = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    once = {"num_train_epochs": 1, "output_dir": str(output_dir), "resume": False}
    arguments = finetune_arguments(settings, "lora", **once | unwatched | changes)
    result = fine_tune(copy.deepcopy(policy), tokenizer, rows, first_rows(rows, 2), **arguments)
    return result.model.merge_and_unload().eval()


def write(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    settings: Settings,
    **decoding: Any,
) -> list[str]:
    """Sample one summary for each prompt, with the settings' seed each time.

    `decoding` overrides the options of `generate`; do_sample=False decodes greedily.
    """
    set_seed(settings.seed)
    options = {"precision": settings.precision, "max_new_tokens": settings.max_new_tokens}
    if decoding.get("do_sample", True):
        options |= {"do_sample": True, "top_k": 0}
    return generate(policy, tokenizer, list(prompts), **options | decoding)


def step_log(trainer: PPOTrainer) -> pd.DataFrame:
    """Return the trainer's log with one row per PPO step, the mean over the step's updates."""
    log = pd.DataFrame(trainer.state.log_history)
    return log.groupby(log["reward"].notna().cumsum()).mean(numeric_only=True)


def add_prompts(rows: Dataset) -> Dataset:
    """Return the rows with a column "prompt", which the trainer needs."""
    return rows.map(lambda row: {"prompt": build_prompt(row["dialogue"])}, desc="prompts")


def decoder_adapter(settings: Settings) -> LoraConfig:
    """Return LoRA without dropout for the decoder only; the encoder then runs once per prompt.

    It adapts all linear layers. With only query and value adapted, the policy learned less in the
    same number of steps, at the same cost in quality (on the small world's validation dialogues).
    """
    encoder = r"(.*\.)?encoder\..*"
    options = {"target_modules": "all-linear", "exclude_modules": encoder}
    return lora_config(settings.lora_rank, lora_dropout=0.0, **options)


def detox_config(
    settings: Settings, device: torch.device, output_dir: str | Path, **changes: Any
) -> PPOConfig:
    """Return the PPOConfig for these settings; `changes` override it.

    `ppo_steps` counts batches of `ppo_batch_size` completions, for rloo and grpo rounded to whole
    groups. The falling learning rate and the single update per sample were chosen on validation
    dialogues: further passes over a sample cost quality on ordinary dialogues.
    """
    values = {
        "per_device_train_batch_size": settings.ppo_batch_size,
        "num_iterations": 1,
        "learning_rate": settings.ppo_learning_rate,
        "lr_scheduler_type": "linear",
        "beta": settings.kl_coef,
        "log_kl": True,
        "max_completion_length": settings.max_new_tokens,
        "missing_eos_penalty": 1.0,
        "bf16": use_bf16(settings.precision, device),
        "use_cpu": device.type == "cpu",
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": settings.seed,
    }
    estimator = changes.get("advantage_estimator", "gae")
    if estimator != "gae":
        values["num_generations"] = settings.ppo_generations
        groups = max(1, settings.ppo_batch_size // settings.ppo_generations)
        values["per_device_train_batch_size"] = groups * settings.ppo_generations
    if estimator == "grpo":
        values["beta"] = settings.grpo_kl_coef
    values |= changes
    values.setdefault("max_steps", settings.ppo_steps * values["num_iterations"])
    return PPOConfig(str(output_dir), **values)


def detox_reward(
    scorer: HateScorer, settings: Settings, estimator: str = "gae", kind: str = "logp"
) -> HateReward:
    """Return the reward in the settings' precision, but in float32 for GRPO (see `HateReward`)."""
    return HateReward(scorer, "fp32" if estimator == "grpo" else settings.precision, kind)
