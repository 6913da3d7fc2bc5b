"""Before training: the model made ready, the data checked, and the recipe that runs must share."""

import copy
import hashlib
import logging
import warnings
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN_TO_PEFT
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from .config import PPOConfig
from .policy import remove_value_head

LOG = logging.getLogger(__name__)
_NOT_OURS = (
    "{} is decoder-only: this trainer is for encoder-decoders. TRL's GRPOTrainer and RLOOTrainer "
    "take the same reward functions"
)
QUERY_AND_VALUE = {"q", "v", "q_proj", "v_proj", "query", "value"}
RESERVED = {"prompts", "completions", "trainer_state", "log_extra", "log_metric"}


def prepared_model(
    model: str | PreTrainedModel | PeftModel, args: PPOConfig, peft_config: PeftConfig | None
) -> PreTrainedModel | PeftModel:
    """Return the policy to train, loaded if it is an id, under a fresh adapter if there is one.

    Raises ValueError if the model is decoder-only, has an adapter already, or has nothing to train.
    """
    if isinstance(model, str):
        model = _loaded(model, {"dtype": torch.float32} | (args.model_init_kwargs or {}))
    if not model.config.is_encoder_decoder:
        raise ValueError(_NOT_OURS.format(model.name_or_path or type(model).__name__))
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
            "the model has no parameter to train: load its adapter with is_trainable=True, or give "
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
    except ValueError as error:
        if "Unrecognized configuration class" in str(error):
            raise ValueError(_NOT_OURS.format(name)) from error
        raise


def with_adapter(model: PreTrainedModel, peft_config: PeftConfig) -> PeftModel:
    """Put a fresh adapter into the model.

    Where a LoraConfig names no target modules, peft knows the query and value projections of T5,
    mT5 and BART; in other families they are found by name, without those of a vision tower.
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
    """Check the data, and prepare the arguments for a stream.

    Raises ValueError if there are none, no column "prompt", a reserved name, or too few rows;
    TypeError if they are no dataset.
    """
    if train_dataset is None:
        raise ValueError("train_dataset is missing: give rows with a column 'prompt'")
    given = list(eval_dataset.values()) if isinstance(eval_dataset, dict) else [eval_dataset]
    for rows in (train_dataset, *(d for d in given if d is not None)):
        if not isinstance(rows, Dataset | IterableDataset):
            raise TypeError(f"a Dataset or IterableDataset is needed, not a {type(rows).__name__}")
        names = rows.column_names or ["prompt"]  # a stream may not know them
        if "prompt" not in names:
            raise ValueError(f"the data have the columns {', '.join(names)}: name one 'prompt'")
        if clash := RESERVED & set(names):
            raise ValueError(
                f"the data have a column {clash.pop()!r}, which rewards use: rename it"
            )
        if isinstance(rows, IterableDataset):
            args.accelerator_config.dispatch_batches = False  # each process reads its own part
            if args.dataloader_num_workers:
                LOG.warning("a stream is read by one worker, which keeps groups together")
                args.dataloader_num_workers = 0
    if isinstance(train_dataset, Dataset) and len(train_dataset) < args.prompts_per_generation:
        raise ValueError(
            f"train_dataset has {len(train_dataset)} prompts, fewer than the "
            f"{args.prompts_per_generation} that are sampled from at once: give more, or lower "
            "per_device_train_batch_size or steps_per_generation"
        )


def reward_weights(args: PPOConfig, names: list[str]) -> Tensor:
    """Return the reward functions' weights, 1 by default; ValueError if their number differs."""
    weights = [1.0] * len(names) if args.reward_weights is None else args.reward_weights
    if len(weights) != len(names):
        raise ValueError(
            f"{len(weights)} reward_weights for {len(names)} reward functions: give one each"
        )
    return torch.tensor(weights)


def recipe(
    model: nn.Module, args: PPOConfig, train_dataset: Any, reward_names: list[str]
) -> dict[str, Any]:
    """Return the settings that must match when a run is resumed."""
    names = ("advantage_estimator", "num_generations", "num_iterations", "max_completion_length")
    names += (
        "beta",
        "learning_rate",
        "seed",
        "generation_batch_size",
        "gradient_accumulation_steps",
    )
    return {name: getattr(args, name) for name in names} | {
        "lr_scheduler_type": str(args.lr_scheduler_type.value),
        "reward_funcs": reward_names,
        "prompts": getattr(train_dataset, "_fingerprint", None),
        "initial_policy": weights_fingerprint(model),
    }


def weights_fingerprint(model: nn.Module) -> str:
    """Return a hash of all weights, which tells two initial policies apart."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
