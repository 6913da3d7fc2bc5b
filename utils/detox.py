"""Set up the initial policy and its training, for Lab 3, the command `ppo` and the KL sweep."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from utils import results
from utils.data import drop_near_duplicates, first_rows, group_references, load_dialogsum
from utils.faithfulness import load_facts
from utils.finetuning import fine_tune, finetune_arguments, lora_config
from utils.generation import generate
from utils.models import load_model, use_bf16
from utils.ppo import PPOConfig, PPOTrainer
from utils.prompts import build_prompt
from utils.settings import OFFLINE, Settings, adapter_base
from utils.toxicity import HateReward, HateScorer, dialogue_heat

HEATED = OFFLINE / "heated"  # dialogues with insults that the project wrote, for every preset


def is_adapter_of(folder: str | Path, model: str) -> bool:
    """Return whether the folder holds an adapter that was trained on this model."""
    return adapter_base(folder) == model


def initial_policy(
    settings: Settings, adapter: str | Path, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the settings' model with an adapter merged in, in eval mode, and its tokenizer.

    Raises ValueError if the folder holds no adapter, or one that was trained on another model.
    """
    settings.check_adapter(adapter)
    model, tokenizer = load_model(settings.model, device, cpu_speedups=settings.cpu_speedups)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval(), tokenizer


def detox_splits(settings: Settings, scorer: HateScorer) -> DatasetDict:
    """Load what Lab 3 trains and judges on.

    heated_train (600 rows, at most `train_dialogues`), heated_validation (150) and heated_test (at
    most `judged_dialogues`) have three summaries: quoting repeats the insult, paraphrasing words it
    differently, and cool only reports the anger. Column known is 0 if the small world's judge never
    saw the insult.
    ordinary_train and ordinary_test are the calmest dialogues of the settings' dataset: as many
    rows as in heated_train, and half of the test dialogues, with `summaries`.
    """
    names = ("train", "validation", "test")
    heated = {name: Dataset.from_csv(str(HEATED / f"{name}.csv")) for name in names}
    heated["test"] = first_rows(heated["test"], settings.judged_dialogues)
    heated["train"] = first_rows(heated["train"], settings.train_dialogues)
    dataset, n = load_dialogsum(settings.dataset), len(heated["train"])
    train = drop_near_duplicates(first_rows(dataset["train"], 2 * n), against=dataset["test"])
    test = first_rows(group_references(dataset["test"]), settings.test_dialogues)
    return DatasetDict(
        {f"heated_{name}": rows for name, rows in heated.items()},
        ordinary_train=calmest(train, scorer, n, settings.precision),
        ordinary_test=calmest(test, scorer, max(2, len(test) // 2), settings.precision),
    )


def annotate(heated: Dataset, shares: Mapping[str, float], seed: int = 0) -> Dataset:
    """Return heated rows with one `summary` each, drawn from these columns with these shares."""
    drawn = np.random.default_rng(seed).choice(list(shares), len(heated), p=list(shares.values()))
    summaries = [row[column] for row, column in zip(heated, drawn, strict=True)]
    return heated.select_columns(["id", "dialogue", "topic"]).add_column("summary", summaries)


def soften(heated: Dataset, share: float, seed: int = 0) -> Dataset:
    """Return heated rows with their cool summaries, and this share of refusals told as doubts."""
    known, rng = load_facts(HEATED), np.random.default_rng(seed)
    wordings = json.loads((OFFLINE / "data" / "wordings.json").read_text(encoding="utf-8"))
    said = sorted(wordings["outcomes"]["no"], key=len, reverse=True)
    refusal = re.compile(rf"\b(?:{'|'.join(said)})\b")
    rows = annotate(heated, {"cool": 1.0})
    chosen = [known[name]["outcome"] == "no" and rng.random() < share for name in rows["id"]]
    pairs = zip(rows["summary"], chosen, strict=True)
    summaries = [refusal.sub("is not sure", text, 1) if soft else text for text, soft in pairs]
    return rows.remove_columns("summary").add_column("summary", summaries)


def calmest(rows: Dataset, scorer: HateScorer, n: int, precision: str = "fp32") -> Dataset:
    """Return the `n` rows with the least heated turns (see `dialogue_heat`), in their order."""
    heat = dialogue_heat(scorer, rows["dialogue"], precision)
    return rows.select(np.sort(np.argsort(heat, kind="stable")[:n]))


def with_ordinary(heated: Dataset, ordinary: Dataset) -> Dataset:
    """Return the rows of both, with the columns that both have."""
    shared = [name for name in ordinary.column_names if name in heated.column_names]
    parts = [rows.select_columns(shared) for rows in (heated, ordinary)]
    return concatenate_datasets([parts[0].cast(parts[1].features), parts[1]])


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


def judge_heated(
    summaries: Sequence[str], rows: Dataset, scorer: HateScorer, second: HateScorer
) -> pd.DataFrame:
    """Score summaries of heated rows, one row per summary.

    Columns are those of `results.judge`, with ROUGE against the cool summaries, and shares (1 or
    0): toxic_share and second_judge, whether p(hate) reaches 0.5 by each judge, and clean_share,
    whether it does not by the first.
    """
    known = load_facts(HEATED)
    cool = [[text] for text in rows["cool"]]
    records = [known[name] for name in rows["id"]]
    scores = results.judge(summaries, cool, scorer=scorer, records=records)
    scores["toxic_share"] = (scores["toxicity"] >= 0.5).astype(float)
    scores["second_judge"] = (second.probability(summaries) >= 0.5).astype(float)
    return scores.assign(clean_share=1 - scores["toxic_share"])


def step_log(trainer: PPOTrainer) -> pd.DataFrame:
    """Return the trainer's log with one row per PPO step, the mean over the step's updates."""
    log = pd.DataFrame(trainer.state.log_history)
    return log.groupby(log["reward"].notna().cumsum()).mean(numeric_only=True)


def add_prompts(rows: Dataset) -> Dataset:
    """Return the rows with a column "prompt", which the trainer needs."""
    return rows.map(lambda row: {"prompt": build_prompt(row["dialogue"])}, desc="prompts")


def decoder_adapter(settings: Settings) -> LoraConfig:
    """Return LoRA without dropout for the decoder only; the encoder then runs once per prompt."""
    decoder = r".*decoder.*\.(q|v|q_proj|v_proj)"  # as T5 and the BART family name them
    return lora_config(settings.lora_rank, lora_dropout=0.0, target_modules=decoder)


def detox_config(
    settings: Settings, device: torch.device, output_dir: str | Path, **changes: Any
) -> PPOConfig:
    """Return the PPOConfig for these settings; `changes` override it.

    With every estimator, `ppo_steps` counts batches of `ppo_batch_size` completions. The gentle
    schedule (a falling learning rate, two passes) was chosen on validation dialogues.
    """
    values = {
        "per_device_train_batch_size": settings.ppo_batch_size,
        "num_iterations": 2,
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
