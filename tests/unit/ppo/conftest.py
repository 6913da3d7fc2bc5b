"""Fixtures of the trainer's tests: a few prompts, a tiny tokenizer, and a quiet configuration."""

from collections.abc import Callable

import pytest
from datasets import Dataset

from utils.ppo import PPOConfig

PROMPTS = [
    "#Person1#: good",
    "hello world",
    "Anna asks #Person2# for the ladder on Friday.",
    "nice ugly bad good",
]


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
        quiet |= {"num_iterations": 1}  # a sample, and a log, for each step
        return PPOConfig(**quiet | changes)

    return build
