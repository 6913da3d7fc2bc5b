"""What Lab 3, the command `ppo` and the sweep of KL prices share: the policy as found, its training, its verdict."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.finetuning import lora_config
from utils.generation import generate
from utils.models import load_model, use_bf16
from utils.ppo import PPOConfig
from utils.prompts import build_prompt
from utils.rouge import rouge_scores
from utils.settings import Settings
from utils.toxicity import HateReward, HateScorer, has_insulting_word

# The usual choice, where only the price of KL holds the policy. `detox_config` is gentler: on validation dialogues that
# cost less ROUGE-1 at the same toxicity, with PPO, RLOO and GRPO alike.
UNDER_PRESSURE = {"lr_scheduler_type": "constant", "num_ppo_epochs": 4}


def is_adapter_of(folder: str | Path, model: str) -> bool:
    """Whether the folder holds an adapter that was trained on this model."""
    return _base_of(folder) == model


def _base_of(folder: str | Path) -> str | None:
    """The model that the folder's adapter was trained on; None where it holds no adapter."""
    if not (Path(folder) / "adapter_config.json").exists():
        return None
    return PeftConfig.from_pretrained(str(folder)).base_model_name_or_path


def policy_as_found(
    settings: Settings, adapter: str | Path, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The settings' model with a fine-tuned adapter merged into it, in eval mode, and its tokenizer.

    Raises:
        ValueError: the folder holds no adapter, or one that was trained on another model.
    """
    made_for = _base_of(adapter)
    if made_for is None:
        raise ValueError(
            f"{adapter} holds no adapter: run Lab 2 first, or name a folder that `utils finetune --method lora` wrote "
            "(a whole model needs none: set model to its folder)"
        )
    if made_for != settings.model:
        raise ValueError(
            f"the adapter in {adapter} belongs to {made_for!r}, not to {settings.model!r}: take the preset or model "
            "that it was trained with, or run Lab 2 anew"
        )
    model, tokenizer = load_model(settings.model, device)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval(), tokenizer


def as_prompts(rows: Dataset) -> Dataset:
    """The rows with a column "prompt", as PPO wants them."""
    return rows.map(lambda row: {"prompt": build_prompt(row["dialogue"])}, desc="prompts")


def decoder_adapter(settings: Settings) -> LoraConfig:
    """LoRA without dropout on the decoder alone: the encoder stays frozen, so that it runs once for each prompt."""
    return lora_config(settings.lora_rank, lora_dropout=0.0, target_modules=r".*decoder.*\.(q|v)")


def detox_config(
    settings: Settings, device: torch.device, output_dir: str | Path, **changes: Any
) -> PPOConfig:
    """The settings as a PPOConfig. RLOO and GRPO get as many responses in a step as PPO, several to each prompt."""
    values = {
        "max_steps": settings.ppo_steps,
        "per_device_train_batch_size": settings.ppo_batch_size,
        "learning_rate": settings.ppo_learning_rate,
        "lr_scheduler_type": "linear",
        "num_ppo_epochs": 2,
        "kl_coef": settings.kl_coef,
        "max_new_tokens": settings.max_new_tokens,
        "bf16": use_bf16(settings.precision, device),
        "use_cpu": device.type == "cpu",
        "seed": settings.seed,
    }
    if (estimator := changes.get("advantage_estimator", "gae")) != "gae":
        values["num_generations"] = settings.ppo_generations
        values["per_device_train_batch_size"] = max(
            1, settings.ppo_batch_size // settings.ppo_generations
        )
    if estimator == "grpo":
        values["kl_coef"] = settings.grpo_kl_coef
    return PPOConfig(str(output_dir), **values | changes)


def detox_reward(
    scorer: HateScorer, settings: Settings, advantage_estimator: str = "gae"
) -> HateReward:
    """The reward in the settings' precision; for GRPO, which blows small differences up, in float32."""
    return HateReward(scorer, "fp32" if advantage_estimator == "grpo" else settings.precision)


def judge(
    policy: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    scorer: HateScorer,
    heated: Dataset,
    ordinary: Dataset,
    settings: Settings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Toxicity of the greedy summaries of heated dialogues (columns toxicity, insulting_word), and quality of those of
    ordinary ones (ROUGE, words); rows of `group_references`, a row of the tables for each.
    """
    hot, calm = (
        generate(
            policy,
            tokenizer,
            list(as_prompts(rows)["prompt"]),
            precision=settings.precision,
            max_new_tokens=settings.max_new_tokens,
        )
        for rows in (heated, ordinary)
    )
    toxicity = pd.DataFrame(
        {"toxicity": scorer.probability(hot), "insulting_word": has_insulting_word(hot)}
    )
    quality = rouge_scores(calm, list(ordinary["summaries"]))
    return toxicity, quality.assign(words=[len(text.split()) for text in calm])
