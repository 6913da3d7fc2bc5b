"""Fixtures of the trainer's tests: a few prompts, a tiny tokenizer, and a quiet configuration."""

from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset
from tiny_ppo import DATA, PROMPTS, length_reward
from transformers import TrainerCallback

from utils.ppo import PPOConfig, PPOTrainer


@pytest.fixture
def dataset() -> Dataset:
    """Four prompts."""
    return Dataset.from_dict({"prompt": PROMPTS})


@pytest.fixture
def tokenizer(tiny_tokenizer):
    """The tiny models' tokenizer."""
    return tiny_tokenizer


@pytest.fixture
def config(tmp_path) -> Callable[..., PPOConfig]:
    """A function that gives a PPOConfig of two quiet steps on the CPU; arguments change it."""

    def build(**changes) -> PPOConfig:
        quiet = {"output_dir": str(tmp_path), "report_to": "none", "disable_tqdm": True}
        quiet |= {"use_cpu": True, "save_strategy": "no", "learning_rate": 0.1}
        quiet |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
        quiet |= {"num_generations": 2, "max_completion_length": 8, "max_steps": 2}
        quiet |= {"num_iterations": 1, "logging_steps": 1}  # a sample and a log for each step
        return PPOConfig(**quiet | changes)

    return build


@pytest.fixture
def make(tiny_t5, tokenizer, config) -> Callable[..., PPOTrainer]:
    """A function that gives a trainer of `tiny_ppo.DATA`: four completions, learned from twice."""

    def build(
        model: Any = None,
        reward: Any = length_reward,
        rows: Any = DATA,
        eval_rows: Any = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        processing_class: Any = None,
        **changes: Any,
    ) -> PPOTrainer:
        groups = changes.get("advantage_estimator", "gae") != "gae"
        quiet = {"num_generations": 2 if groups else 1, "num_iterations": 2, "learning_rate": 1e-2}
        return PPOTrainer(
            model=tiny_t5 if model is None else model,
            reward_funcs=reward,
            args=config(**quiet | {"max_completion_length": 6} | changes),
            train_dataset=rows,
            eval_dataset=eval_rows,
            processing_class=processing_class or tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
        )

    return build
