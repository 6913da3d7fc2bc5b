"""Prepare the model, check the data, and list the settings that a resumed run must match."""

import copy
import logging
import warnings
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN_TO_PEFT
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from trl.trainer.utils import hash_module

from .config import PPOConfig
from .policy import remove_value_head

LOG = logging.getLogger(__name__)
_DECODER_ONLY = (
    "{} is decoder-only, but this trainer needs an encoder-decoder: use TRL's GRPOTrainer or "
    "RLOOTrainer, which accept the same reward functions"
)
QUERY_AND_VALUE = {"q", "v", "q_proj", "v_proj", "query", "value"}
RESERVED = {"prompts", "completions", "trainer_state", "log_extra", "log_metric"}


def prepared_model(
    model: str | PreTrainedModel | PeftModel, args: PPOConfig, peft_config: PeftConfig | None
) -> PreTrainedModel | PeftModel:
    """Load the policy if it is given by id, and add a new adapter if there is a peft_config.

    Raises ValueError if the model is decoder-only, has nothing to train, or would get two adapters.
    """
    if isinstance(model, str):
        options = {"dtype": torch.float32, "use_safetensors": True}
        model = _loaded(model, options | (args.model_init_kwargs or {}))
    if not model.config.is_encoder_decoder:
        raise ValueError(_DECODER_ONLY.format(model.name_or_path or type(model).__name__))
    remove_value_head(model)
    if peft_config is not None and isinstance(model, PeftModel):
        raise ValueError(
            "a PeftModel and a peft_config are given: leave peft_config out to train the model's "
            "adapter, or merge it first (model.merge_and_unload()) to train a fresh one"
        )
    if peft_config is not None:
        model = with_adapter(model, peft_config)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "the model has no parameter to train: load its adapter with is_trainable=True, or pass "
            "a peft_config"
        )
    if isinstance(model, PeftModel) and args.gradient_checkpointing:
        model.enable_input_require_grads()
    if args.value_trunk == "shared" and args.advantage_estimator == "gae":
        text = "the value loss also trains the policy, and can wreck its text"
        warnings.warn(f"value_trunk='shared': {text}", stacklevel=3)
    return model


def _loaded(name: str, options: dict[str, Any]) -> PreTrainedModel:
    try:
        return AutoModelForSeq2SeqLM.from_pretrained(name, **options)
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        remedy = "to convert it, load it with transformers and call save_pretrained"
        unread = "pickles (pytorch_model.bin) are not loaded"
        raise OSError(f"{name} has no model.safetensors, and {unread}: {remedy}") from error
    except ValueError as error:
        if "Unrecognized configuration class" in str(error):
            raise ValueError(_DECODER_ONLY.format(name)) from error
        raise


def with_adapter(model: PreTrainedModel, peft_config: PeftConfig) -> PeftModel:
    """Add a new adapter to the model.

    By default, LoRA adapts the query and value projections. peft knows them in T5, mT5 and BART; in
    other families they are found by their names, and those of a vision tower are excluded.
    """
    unknown = isinstance(peft_config, LoraConfig) and model.config.model_type not in KNOWN_TO_PEFT
    if unknown and not (peft_config.target_modules or peft_config.target_parameters):
        names = [name for name, _ in model.named_modules()]
        peft_config = copy.copy(peft_config)
        peft_config.target_modules = QUERY_AND_VALUE & {name.rpartition(".")[2] for name in names}
        if any("vision_tower" in name for name in names):
            peft_config.exclude_modules = r".*\bvision_tower\b.*"
    return get_peft_model(model, peft_config)


def check_data(train_dataset: Any, eval_dataset: Any, args: PPOConfig) -> None:
    """Check the datasets, and adapt the arguments if a dataset is streamed.

    Raises ValueError if train_dataset is missing or too small, or if a dataset lacks the column
    "prompt" or has one with a reserved name, and TypeError if one is not a Dataset.
    """
    if train_dataset is None:
        raise ValueError("train_dataset is missing: pass rows with a column 'prompt'")
    given = list(eval_dataset.values()) if isinstance(eval_dataset, dict) else [eval_dataset]
    for rows in (train_dataset, *(d for d in given if d is not None)):
        if not isinstance(rows, Dataset | IterableDataset):
            raise TypeError(f"a Dataset or IterableDataset is needed, not a {type(rows).__name__}")
        names = rows.column_names or ["prompt"]  # unknown in some streams
        if "prompt" not in names:
            raise ValueError(
                f"no column is named 'prompt' (columns: {', '.join(names)}): rename one"
            )
        if isinstance(rows, Dataset) and None in rows["prompt"]:
            row = list(rows["prompt"]).index(None)
            raise ValueError(f"row {row} has no prompt (None): write one, or leave the row out")
        if clash := RESERVED & set(names):
            raise ValueError(
                f"the column {clash.pop()!r} has a name reserved for reward functions: rename it"
            )
        if isinstance(rows, IterableDataset):
            args.accelerator_config.dispatch_batches = False  # each process reads its own share
            if args.dataloader_num_workers:
                LOG.warning("a streamed dataset is read by one worker, to keep groups together")
                args.dataloader_num_workers = 0
    if isinstance(train_dataset, Dataset) and len(train_dataset) < args.prompts_per_generation:
        raise ValueError(
            f"train_dataset has {len(train_dataset)} prompts, fewer than the "
            f"{args.prompts_per_generation} needed for one sample: pass more prompts, or lower "
            "per_device_train_batch_size or steps_per_generation"
        )


def reward_weights(args: PPOConfig, names: list[str]) -> Tensor:
    """Return one weight per reward function, 1 by default, or raise ValueError if counts differ."""
    weights = [1.0] * len(names) if args.reward_weights is None else args.reward_weights
    if len(weights) != len(names):
        raise ValueError(
            f"{len(weights)} reward_weights for {len(names)} reward functions: pass one for each"
        )
    return torch.tensor(weights)


def recipe(
    model: nn.Module, args: PPOConfig, train_dataset: Any, reward_names: list[str]
) -> dict[str, Any]:
    """Return the settings that must match when a run is resumed."""
    names = ("advantage_estimator", "num_generations", "num_iterations", "max_completion_length")
    names += ("beta", "learning_rate", "weight_decay", "seed", "gamma", "lam", "epsilon", "vf_coef")
    names += ("value_learning_rate", "value_trunk", "min_advantage_std", "loss_type")
    names += ("scale_rewards", "temperature", "missing_eos_penalty")
    names += ("generation_batch_size", "gradient_accumulation_steps")
    return {name: getattr(args, name) for name in names} | {
        "lr_scheduler_type": str(args.lr_scheduler_type.value),
        "reward_funcs": reward_names,
        "prompts": getattr(train_dataset, "_fingerprint", None),
        "initial_policy": hash_module(model),
    }
