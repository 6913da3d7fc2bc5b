"""The options of a PPO, RLOO or GRPO run, under TRL's names."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

# PPO whitens its advantages, as is standard in its implementations.
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


def _option(help_text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass
class PPOConfig(TrainingArguments):
    """Add the options of PPO, RLOO and GRPO to TrainingArguments.

    Options that TRL also has keep TRL's names and meanings. Defaults follow TRL's RLOOConfig and
    GRPOConfig, and for gae's own options its last PPOConfig, unless an option's help says
    otherwise; None means the one in DEFAULTS. As in TRL, `per_device_train_batch_size` counts
    completions, and a global step is one optimizer step. The trainer samples `steps_per_generation`
    batches at once and passes over them `num_iterations` times.
    """

    _VALID_DICT_FIELDS = (
        *TrainingArguments._VALID_DICT_FIELDS,
        *("generation_kwargs", "chat_template_kwargs", "model_init_kwargs"),
    )

    advantage_estimator: str = _option("gae (PPO with a value head), rloo, or grpo", "gae")
    num_generations: int | None = _option("completions per prompt in training")
    num_generations_eval: int | None = _option("completions per eval prompt; None: num_generations")
    max_completion_length: int = _option("longest completion, in tokens", 512)
    shuffle_dataset: bool = _option("reshuffle the prompts in each epoch", True)
    generation_batch_size: int | None = _option("completions sampled at once, over all processes")
    steps_per_generation: int | None = _option("batches sampled at once; None: enough for one step")
    num_iterations: int | None = _option("passes over each sample of completions")

    temperature: float = _option("sampling temperature; log-probabilities use it, too", 1.0)
    top_p: float = _option("nucleus sampling; below 1, samples are off-policy", 1.0)
    top_k: int = _option("number of most likely tokens to sample from; 0: all", 0)
    min_p: float | None = _option("minimum probability, as a fraction of the top token's")
    repetition_penalty: float = _option("penalty on repeats; above 1, samples are off-policy", 1.0)
    generation_kwargs: dict[str, Any] | str | None = _option("more arguments of GenerationConfig")
    chat_template_kwargs: dict[str, Any] | str | None = _option("arguments of apply_chat_template")
    pad_to_multiple_of: int | None = _option("pad prompts to a multiple of this many tokens")
    cache_implementation: str | None = _option("key-value cache to use in generation")

    beta: float | None = _option(
        "coefficient of the KL to the reference: gae and rloo subtract beta · k1 from the reward, "
        "grpo adds beta · k3 to the loss"
    )
    log_kl: bool = _option("log the KL even if beta is 0; this needs the reference", False)
    kl_target: float | None = _option(
        "adapt beta so that k1 per sequence approaches this many nats (Ziegler et al. 2019)"
    )
    kl_horizon: int = _option("completions over which beta adapts to kl_target", 10_000)
    max_kl: float | None = _option(
        "stop updates on a sample once policy drift since sampling (k3 per token) exceeds this"
    )
    sync_ref_model: bool = _option("move the reference toward the policy during training", False)
    ref_model_mixup_alpha: float = _option("weight of the policy in the reference's updates", 0.6)
    ref_model_sync_steps: int = _option("optimizer steps between updates of the reference", 512)

    epsilon: float = _option("how far the probability ratio may fall below 1", 0.2)
    epsilon_high: float | None = _option("how far the ratio may rise above 1; None: epsilon")
    delta: float | None = _option("upper bound on the ratio, even for negative advantages")
    loss_type: str | None = _option(
        "how to average token losses: by completion, then over all (grpo), over an optimizer step "
        "(bnpo), over a sample (dapo), or as sum / (completions × max_completion_length) (dr_grpo)"
    )
    importance_sampling_level: str | None = _option(
        "ratio per token, or per sequence: with grpo, the geometric mean over its tokens (GSPO)"
    )
    use_bias_correction_kl: bool = _option("multiply grpo's k3 by the ratio, as TRL does", True)

    reward_weights: list[float] | None = _option("weights of the reward functions; None: 1 each")
    reward_clip_range: tuple[float, float] | None = _option("bounds of the weighted reward")
    scale_rewards: str | bool | None = _option("std dividing rewards: group (grpo), batch, none")
    normalize_advantages: bool | None = _option("whiten the advantages over all completions")
    min_advantage_std: float = _option(
        "lower bound on the standard deviation in gae's whitening. TRL's PPO had none, so once all "
        "rewards were alike, it scaled noise and the effect of position up to variance 1",
        1.0,
    )
    drop_zero_std_groups: bool = _option("exclude groups of equal rewards from the loss", False)
    mask_truncated_completions: bool = _option("exclude truncated completions from the loss", False)
    missing_eos_penalty: float | None = _option("reward lost by completions without an end token")

    gamma: float = _option("gae's discount factor per token", 1.0)
    lam: float = _option(
        "gae's lambda. TRL's PPO had 0.95, but with a reward at the end of a completion, a lambda "
        "below 1 makes early tokens look worse than late ones until the value head has learned",
        1.0,
    )
    vf_coef: float = _option("weight of the value loss", 0.1)
    epsilon_value: float = _option("how far a value may move from the one at sampling time", 0.2)
    value_learning_rate: float = _option("learning rate of the value head, a linear layer", 1e-2)
    value_trunk: str = _option(
        "hidden state for the value head: the policy's, without a gradient (detached) or with one "
        "(shared; this can ruin the policy's text), or that of a copy of the model (own)",
        "detached",
    )

    disable_dropout: bool = _option("turn dropout off, so the first ratio is 1; TRL: False", True)
    log_completions: bool = _option("print some completions with each log entry", False)
    num_completions_to_print: int | None = _option("completions to print; None: all")
    num_completions_to_keep: int = _option("completions per sample in trainer.completions", 2)
    model_init_kwargs: dict[str, Any] | str | None = _option("arguments for loading models by id")

    learning_rate: float = _option("peak; TRL's 1e-6 suits models with billions of weights", 1e-5)
    logging_steps: float = _option("optimizer steps between log entries", 10)
    report_to: str | list[str] | None = _option("where to log, besides the log history", "none")
    remove_unused_columns: bool | None = _option("False: reward functions get all columns", False)
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "pin memory to copy faster"}
    )

    def __post_init__(self) -> None:
        """Fill in the estimator's defaults, and check the options that PPO adds.

        Raises ValueError if an option has an unknown value, or if options contradict each other.
        """
        super().__post_init__()
        if isinstance(self.scale_rewards, bool):
            self.scale_rewards = "group" if self.scale_rewards else "none"
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
            steps = self.steps_per_generation or self.gradient_accumulation_steps
            self.generation_batch_size = batch * steps
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
