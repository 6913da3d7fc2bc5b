"""The options of a PPO, RLOO or GRPO run, under TRL's names."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

# TRL's defaults for each estimator: gae's from TRL's last PPOConfig, the others' from RLOOConfig
# and GRPOConfig. PPO whitens its advantages, as is standard in its implementations.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gae": {"num_generations": 1, "num_iterations": 4, "beta": 0.05, "scale_rewards": "none"}
    | {"normalize_advantages": True, "loss_type": "bnpo", "importance_sampling_level": "token"},
    "rloo": {"num_generations": 2, "num_iterations": 1, "beta": 0.05, "scale_rewards": "none"}
    | {"normalize_advantages": False, "loss_type": "grpo", "importance_sampling_level": "sequence"},
    "grpo": {"num_generations": 8, "num_iterations": 1, "beta": 0.0, "scale_rewards": "group"}
    | {"normalize_advantages": False, "loss_type": "dapo", "importance_sampling_level": "token"},
}
CHOICES = {
    "advantage_estimator": tuple(DEFAULTS),
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none"),
    "value_trunk": ("detached", "shared", "own"),
}


TINY, BIG = 1e-6, 1e6
BOUNDS = {  # options: lowest and highest value
    ("gamma", "lam", "top_p", "min_p", "ref_model_mixup_alpha"): (0, 1),
    ("beta", "vf_coef", "min_advantage_std", "value_learning_rate"): (0, BIG),
    ("epsilon", "epsilon_high", "epsilon_value", "delta", "temperature"): (TINY, BIG),
}


def _option(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass
class PPOConfig(TrainingArguments):
    """Add the options of PPO, RLOO and GRPO to TrainingArguments.

    Options that TRL also has keep TRL's names and meanings. Defaults follow TRL's PPOConfig (gae),
    RLOOConfig and GRPOConfig, unless an option's help says otherwise. As in TRL,
    `per_device_train_batch_size` counts completions, and a global step is one optimizer step.
    The trainer samples `steps_per_generation` batches at once and passes over them
    `num_iterations` times. For options in DEFAULTS, None means the estimator's default.
    """

    _VALID_DICT_FIELDS = (
        *TrainingArguments._VALID_DICT_FIELDS,
        "generation_kwargs",
        "chat_template_kwargs",
        "model_init_kwargs",
    )

    advantage_estimator: str = _option("gae", "gae (PPO with a value head), rloo, or grpo")
    num_generations: int | None = _option(None, "completions per prompt in training")
    num_generations_eval: int | None = _option(
        None, "completions per prompt in evaluation; None: as many as in training"
    )
    max_completion_length: int = _option(512, "longest completion, in tokens")
    shuffle_dataset: bool = _option(True, "reshuffle the prompts in each epoch")
    generation_batch_size: int | None = _option(
        None, "completions sampled at once, across all processes"
    )
    steps_per_generation: int | None = _option(
        None, "batches sampled at once; None: gradient_accumulation_steps"
    )
    num_iterations: int | None = _option(None, "passes over each sample of completions")

    temperature: float = _option(
        1.0, "sampling temperature; log-probabilities are computed with it, too"
    )
    top_p: float = _option(1.0, "nucleus sampling; below 1, samples do not come from the policy")
    top_k: int = _option(0, "number of most likely tokens to sample from; 0: all")
    min_p: float | None = _option(
        None, "minimum probability of a sampled token, relative to the most likely token's"
    )
    repetition_penalty: float = _option(
        1.0, "penalty on repeated tokens; above 1, samples do not come from the policy"
    )
    generation_kwargs: dict[str, Any] | str | None = _option(
        None, "additional arguments for transformers' GenerationConfig"
    )
    chat_template_kwargs: dict[str, Any] | str | None = _option(
        None, "more arguments for the tokenizer's apply_chat_template"
    )
    pad_to_multiple_of: int | None = _option(None, "pad prompts to a multiple of this many tokens")
    cache_implementation: str | None = _option(None, "key-value cache to use in generation")

    beta: float | None = _option(
        None,
        "coefficient of the KL to the reference: gae and rloo subtract beta · k1 from the reward, "
        "grpo adds beta · k3 to the loss",
    )
    log_kl: bool = _option(False, "log the KL even if beta is 0; this needs the reference")
    kl_target: float | None = _option(
        None, "adapt beta so that k1 per sequence approaches this many nats (Ziegler et al. 2019)"
    )
    kl_horizon: int = _option(10_000, "number of completions over which beta adapts to kl_target")
    max_kl: float | None = _option(
        None,
        "skip the remaining updates on a sample once the KL (k3 per token) between the policy that "
        "drew it and the current one exceeds this",
    )
    sync_ref_model: bool = _option(False, "move the reference toward the policy during training")
    ref_model_mixup_alpha: float = _option(
        0.6, "weight of the policy in each update of the reference"
    )
    ref_model_sync_steps: int = _option(512, "optimizer steps between updates of the reference")

    epsilon: float = _option(0.2, "how far the probability ratio may fall below 1")
    epsilon_high: float | None = _option(
        None, "how far the probability ratio may rise above 1; None: epsilon"
    )
    delta: float | None = _option(None, "upper bound on the ratio, even for negative advantages")
    loss_type: str | None = _option(
        None,
        "how to average the loss over tokens: grpo (mean of the completions' means), bnpo (mean "
        "over an optimizer step's tokens), dr_grpo (sum / (completions × max_completion_length)), "
        "or dapo (mean over the whole sample's tokens)",
    )
    importance_sampling_level: str | None = _option(
        None,
        "compute the probability ratio for each token or for the whole sequence; with grpo, the "
        "ratio of a sequence is the geometric mean over its tokens (GSPO)",
    )
    use_bias_correction_kl: bool = _option(True, "multiply grpo's k3 by the ratio, as TRL does")

    reward_weights: list[float] | None = _option(
        None, "weights of the reward functions; None: 1 each"
    )
    reward_clip_range: tuple[float, float] | None = _option(
        None, "lower and upper bound on the weighted reward"
    )
    scale_rewards: str | bool | None = _option(
        None, "divide by the standard deviation of the group or of the batch; none: do not divide"
    )
    normalize_advantages: bool | None = _option(None, "whiten the advantages over all completions")
    min_advantage_std: float = _option(
        1.0,
        "lower bound on the standard deviation in gae's whitening. TRL's PPO had none, so once "
        "all rewards were alike, it scaled noise and the effect of position up to variance 1",
    )
    drop_zero_std_groups: bool = _option(
        False, "exclude groups whose rewards are all equal from the loss"
    )
    mask_truncated_completions: bool = _option(
        False, "exclude completions without an end-of-sequence token from the loss"
    )
    missing_eos_penalty: float | None = _option(
        None, "reward lost by a completion without an end-of-sequence token"
    )

    gamma: float = _option(1.0, "gae's discount factor per token")
    lam: float = _option(
        1.0,
        "gae's lambda. TRL's PPO had 0.95, but with a reward at the end of a completion, a lambda "
        "below 1 makes early tokens look worse than late ones until the value head has learned",
    )
    vf_coef: float = _option(0.1, "weight of the value loss")
    epsilon_value: float = _option(0.2, "how far a value may move from the one at sampling time")
    value_learning_rate: float = _option(1e-2, "learning rate of the value head, a linear layer")
    value_trunk: str = _option(
        "detached",
        "which hidden state the value head reads: the policy's, without a gradient (detached); the "
        "policy's, with a gradient (shared), so that the value loss also trains the policy and can "
        "ruin its text; or that of a copy of the model (own)",
    )

    disable_dropout: bool = _option(
        True, "turn off dropout in training. TRL: False, but then the first ratio is not 1"
    )
    log_completions: bool = _option(False, "print some completions with each log entry")
    num_completions_to_print: int | None = _option(None, "completions to print; None: all")
    num_completions_to_keep: int = _option(
        2, "completions of each sample to store in trainer.completions"
    )
    model_init_kwargs: dict[str, Any] | str | None = _option(
        None, "arguments of from_pretrained, for models given by id"
    )

    learning_rate: float = _option(
        1e-5, "peak learning rate. TRL: 1e-6, meant for models a thousand times larger than a T5"
    )
    logging_steps: float = _option(10, "optimizer steps between log entries")
    report_to: str | list[str] | None = _option("none", "where to log, besides the log history")
    remove_unused_columns: bool | None = _option(
        False, "False: reward functions receive all columns of the data"
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "pin memory to copy faster"}
    )

    def __post_init__(self) -> None:
        """Fill in the estimator's defaults, and check the options that PPO adds.

        Raises ValueError if an option has an unknown value, or if options contradict each other.
        """
        super().__post_init__()
        self.scale_rewards = {True: "group", False: "none"}.get(
            self.scale_rewards, self.scale_rewards
        )
        if self.advantage_estimator in DEFAULTS:
            for name, value in DEFAULTS[self.advantage_estimator].items():
                if getattr(self, name) is None:
                    setattr(self, name, value)
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r}: choose from {', '.join(choices)}")
        self._set_generation_batch()
        self._check()

    def _set_generation_batch(self) -> None:
        """Derive steps_per_generation and generation_batch_size from each other, as in TRL."""
        batch = self.per_device_train_batch_size * self.world_size
        if self.generation_batch_size is None:
            self.steps_per_generation = (
                self.steps_per_generation or self.gradient_accumulation_steps
            )
            self.generation_batch_size = batch * self.steps_per_generation
        elif self.steps_per_generation not in (None, self.generation_batch_size // batch):
            raise ValueError("pass generation_batch_size or steps_per_generation, not both")
        elif self.generation_batch_size % batch:
            raise ValueError(
                f"generation_batch_size={self.generation_batch_size} must be a multiple of the "
                f"{batch} completions in one batch across all processes"
            )
        self.steps_per_generation = self.generation_batch_size // batch

    def _check(self) -> None:
        for names, (low, high) in BOUNDS.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not low <= value <= high:
                    raise ValueError(f"{name}={value} must be between {low:g} and {high:g}")
        for name in ("num_generations", "num_iterations", "max_completion_length", "kl_horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.advantage_estimator != "gae" and self.num_generations < 2:
            raise ValueError(
                f"advantage_estimator={self.advantage_estimator!r} compares the completions of one "
                f"prompt: num_generations={self.num_generations} must be at least 2"
            )
        if self.advantage_estimator == "gae" and self.importance_sampling_level == "sequence":
            raise ValueError(
                "importance_sampling_level='sequence' needs one advantage per completion: "
                "choose 'token', or advantage_estimator='rloo' or 'grpo'"
            )
        if self.generation_batch_size % self.num_generations:
            raise ValueError(
                f"generation_batch_size={self.generation_batch_size} must be a multiple of "
                f"num_generations={self.num_generations}, so that it holds whole groups: change "
                "per_device_train_batch_size, steps_per_generation or num_generations"
            )
        if self.eval_strategy != "no":
            self.check_eval_batch()
        if self.kl_target is not None and not self.kl_target > 0:
            raise ValueError(f"kl_target={self.kl_target} must be a positive number of nats")
        if self.kl_target is not None and not self.beta:
            raise ValueError(
                "kl_target adapts beta by multiplying it, so 0 would stay 0: set a beta above 0"
            )
        if self.auto_find_batch_size:
            raise ValueError(
                "auto_find_batch_size=True would break up groups of completions: set it to False"
            )

    def check_eval_batch(self) -> None:
        """Raise ValueError if an evaluation batch does not hold whole groups."""
        eval_batch = self.per_device_eval_batch_size * self.world_size
        if eval_batch % self.generations_eval:
            raise ValueError(
                f"an evaluation batch of {eval_batch} completions must be a multiple of "
                f"num_generations_eval={self.generations_eval}: change per_device_eval_batch_size"
            )

    @property
    def generations_eval(self) -> int:
        """Completions per prompt in evaluation."""
        return self.num_generations_eval or self.num_generations

    @property
    def prompts_per_generation(self) -> int:
        """Distinct prompts in one sample, across all processes."""
        return self.generation_batch_size // self.num_generations

    @property
    def batches_per_generation(self) -> int:
        """Batches to train on per sample, over all passes."""
        return self.steps_per_generation * self.num_iterations
