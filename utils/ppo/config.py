"""What a PPO run can be told."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

ESTIMATORS = ("gae", "rloo", "grpo")


@dataclass
class PPOConfig(TrainingArguments):
    """TrainingArguments, and what PPO adds.

    One step takes `per_device_train_batch_size` × `gradient_accumulation_steps` prompts on each process, and
    `num_generations` responses to each. Every optimizer step sees one of `num_mini_batches` parts of them, whose
    gradient is added up over `gradient_accumulation_steps` passes: more of these need less memory and change nothing
    else.
    """

    max_new_tokens: int = field(default=64, metadata={"help": "longest response, in tokens"})
    advantage_estimator: str = field(
        default="gae",
        metadata={
            "help": "gae (value head; Schulman et al. 2016), rloo (Ahmadian et al. 2024) or grpo (Shao et al. 2024)"
        },
    )
    num_generations: int = field(
        default=1, metadata={"help": "responses to each prompt; rloo and grpo need several"}
    )
    num_ppo_epochs: int = field(default=4, metadata={"help": "passes over each batch of responses"})
    num_mini_batches: int = field(default=1, metadata={"help": "optimizer steps in each pass"})
    kl_coef: float = field(
        default=0.05,
        metadata={
            "help": "price of one nat to the reference: k1 in the reward, with grpo k3 in the loss"
        },
    )
    kl_target: float | None = field(
        default=None,
        metadata={
            "help": "adapt kl_coef so that k1 per sequence comes to this many nats; None: kl_coef is fixed"
        },
    )
    kl_horizon: int = field(
        default=10_000, metadata={"help": "responses over which an adaptive kl_coef adapts"}
    )
    cliprange: float = field(
        default=0.2, metadata={"help": "how far the probability ratio may move from 1"}
    )
    cliprange_value: float = field(
        default=0.2, metadata={"help": "how far a value may move in one batch"}
    )
    vf_coef: float = field(default=0.1, metadata={"help": "weight of the value loss"})
    gamma: float = field(default=1.0, metadata={"help": "discount per token"})
    lam: float = field(
        default=0.95, metadata={"help": "lambda of generalized advantage estimation"}
    )
    max_kl: float | None = field(
        default=None,
        metadata={"help": "stop a batch's updates once k3 per token to its sampler exceeds this"},
    )
    missing_eos_penalty: float = field(
        default=1.0, metadata={"help": "taken off the score of a response without end-of-sequence"}
    )
    scale_scores: bool = field(
        default=False,
        metadata={
            "help": "divide scores by their standard deviation in the batch; blows noise up once all score alike"
        },
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "weight of each reward function; 1 each by default"}
    )
    log_completions: int = field(
        default=2, metadata={"help": "responses of each step kept in the table of samples"}
    )

    learning_rate: float = field(default=1e-4, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(
        default="constant", metadata={"help": "schedule of the learning rate, by PPO step"}
    )
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "norm to which every gradient is clipped; 0: none is"}
    )
    logging_steps: float = field(default=1, metadata={"help": "PPO steps between log entries"})
    save_strategy: str = field(default="no", metadata={"help": "when to write checkpoints"})
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "loggers beside the log history"}
    )
    disable_tqdm: bool | None = field(default=True, metadata={"help": "no progress bar"})
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "leave out the last rows, which fill no step"}
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "faster copies to a GPU"}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "False: reward functions receive the data's columns"}
    )

    def __post_init__(self) -> None:
        """Check what PPO adds.

        Raises:
            ValueError: an unknown estimator, a number below 1, too few responses to a prompt for the estimator, parts
                that do not divide the batch, or a KL target that is not positive.
        """
        super().__post_init__()
        if self.data_seed is None:
            self.data_seed = (
                self.seed
            )  # the order of prompts, which all processes must share; they sample apart
        if self.advantage_estimator not in ESTIMATORS:
            raise ValueError(
                f"advantage_estimator={self.advantage_estimator!r}: choose {', '.join(ESTIMATORS)}"
            )
        for name in (
            "max_new_tokens",
            "num_generations",
            "num_ppo_epochs",
            "num_mini_batches",
            "kl_horizon",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.advantage_estimator != "gae" and self.num_generations < 2:
            raise ValueError(
                f"advantage_estimator={self.advantage_estimator!r} compares the responses to one prompt: "
                f"num_generations={self.num_generations} must be at least 2"
            )
        if self.responses_per_step % (self.num_mini_batches * self.gradient_accumulation_steps):
            raise ValueError(
                f"num_mini_batches={self.num_mini_batches} × "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} "
                f"must divide the batch of {self.responses_per_step} responses"
            )
        if self.kl_target is not None and not self.kl_target > 0:
            raise ValueError(
                f"kl_target={self.kl_target} must be a positive number of nats, or None"
            )

    @property
    def prompts_per_step(self) -> int:
        """Prompts that one process takes in one PPO step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def responses_per_step(self) -> int:
        """Responses that one process samples in one PPO step."""
        return self.prompts_per_step * self.num_generations
