"""PPO for encoder-decoder models, as a subclass of transformers.Trainer.

One training step is one batch of prompts: sample a response to each, score them, and take several epochs of clipped
updates on them. Compared with the textbook (Ziegler et al. 2019; Huang et al. 2023, "The N+ Implementation Details of
RLHF with PPO"):

- There is no second model in memory: the reference is the policy as found, under a fresh adapter that can be switched
  off. The first KL is 0 by construction (`utils.policy`).
- There is no dropout anywhere: the probability ratio of the first update is 1.
- The value head reads the policy's own last hidden state and starts at zero.
- Where the encoder is frozen (LoRA on the decoder only), it runs once a batch and its output serves sampling, policy,
  reference and updates.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from utils.policy import PolicyWithValueHead
from utils.policy_gradient import (
    explained_variance,
    gae,
    kl_estimates,
    masked_mean,
    policy_loss,
    response_mask,
    token_rewards,
    value_loss,
    whiten,
)

__all__ = ["PPOConfig", "PPOTrainer", "gae", "policy_loss", "value_loss", "whiten"]

RewardFunction = Callable[..., list[float]]


@dataclass
class PPOConfig(TrainingArguments):
    """TrainingArguments, and what PPO adds. `per_device_train_batch_size` is the number of prompts of one step and
    process.
    """

    max_new_tokens: int = field(default=64, metadata={"help": "longest response, in tokens"})
    num_ppo_epochs: int = field(default=4, metadata={"help": "passes over each batch of responses"})
    num_mini_batches: int = field(default=1, metadata={"help": "optimiser steps in each pass"})
    kl_coef: float = field(default=0.05, metadata={"help": "reward paid for one nat of k1 to the reference"})
    cliprange: float = field(default=0.2, metadata={"help": "how far the probability ratio may move from 1"})
    cliprange_value: float = field(default=0.2, metadata={"help": "how far a value may move in one batch"})
    vf_coef: float = field(default=0.1, metadata={"help": "weight of the value loss"})
    gamma: float = field(default=1.0, metadata={"help": "discount per token"})
    lam: float = field(default=0.95, metadata={"help": "lambda of generalised advantage estimation"})
    max_kl: float | None = field(
        default=None, metadata={"help": "stop a batch's updates once k3 per token to its sampler exceeds this"}
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

    learning_rate: float = field(default=1e-4, metadata={"help": "peak learning rate"})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "schedule of the learning rate, by PPO step"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "norm to which every gradient is clipped"})
    logging_steps: float = field(default=1, metadata={"help": "PPO steps between log entries"})
    save_strategy: str = field(default="no", metadata={"help": "when to write checkpoints"})
    report_to: str | list[str] | None = field(default="none", metadata={"help": "loggers beside the log history"})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "no progress bar"})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "no step on a batch that is not full"})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "faster copies to a GPU"}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "False: reward functions receive the data's columns"}
    )

    def __post_init__(self) -> None:
        """Check what PPO adds.

        Raises:
            ValueError: a number below 1, minibatches that do not divide the batch, or gradient accumulation.
        """
        super().__post_init__()
        for name in ("max_new_tokens", "num_ppo_epochs", "num_mini_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.per_device_train_batch_size % self.num_mini_batches:
            raise ValueError(
                f"num_mini_batches={self.num_mini_batches} must divide "
                f"the batch of {self.per_device_train_batch_size} prompts"
            )
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient_accumulation_steps must be 1: a PPO step samples and learns from one batch; "
                "use num_mini_batches"
            )


@dataclass
class Rollout:
    """Responses to a batch of prompts and all that is fixed about them before learning.

    Tensors are (batch, time) over response tokens; `prompts` is what `PolicyWithValueHead.encode` returned.
    """

    prompts: dict[str, Tensor]
    responses: Tensor
    mask: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> "Rollout":
        """The rollout of some of the prompts."""
        prompts = {name: tensor[index] for name, tensor in self.prompts.items()}
        names = ("responses", "mask", "logprobs", "values", "advantages", "returns")
        return Rollout(prompts, *(getattr(self, name)[index] for name in names))


class PPOTrainer(Trainer):
    """Train a sequence-to-sequence policy to earn more reward while staying close to what it was.

    Args:
        model: the policy as found. A PeftModel is merged into its base first; a plain model is taken as it is.
        tokenizer: its tokenizer, with a pad and an end-of-sequence token.
        reward_funcs: one or several `f(prompts, completions, **columns) -> list[float]`; `columns` are the data's other
            columns.
        args: the PPOConfig.
        train_dataset: rows with a text column "prompt".
        peft_config: the fresh adapter's, or False to train all parameters; see `PolicyWithValueHead`.

    Raises:
        ValueError: the tokenizer lacks a token, the data lacks "prompt", or weights do not match the reward functions.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        args: PPOConfig,
        train_dataset: Dataset,
        peft_config: LoraConfig | bool | None = None,
        **trainer_arguments: Any,
    ):
        self.reward_funcs = list(reward_funcs) if isinstance(reward_funcs, Sequence) else [reward_funcs]
        _check_inputs(tokenizer, train_dataset, args, self.reward_funcs)
        self.metrics: dict[str, list[float]] = defaultdict(list)
        self.samples: list[dict[str, Any]] = []
        set_seed(args.seed)  # before the adapter draws its first weights
        super().__init__(
            model=PolicyWithValueHead(model, peft_config),
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=self._collate,
            **trainer_arguments,
        )
        self.remove_callback(PrinterCallback)
        self.sampling = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=args.max_new_tokens,
            decoder_start_token_id=model.config.decoder_start_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    @property
    def policy(self) -> PreTrainedModel | PeftModel:
        """The policy itself, without value head."""
        return self.accelerator.unwrap_model(self.model).policy

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One PPO step: sample, score and update. The Trainer applies the last gradient itself."""
        model.eval()  # dropout would make the policy differ from the sampler
        rollout = self._roll_out(inputs)
        minibatches = self._minibatches(len(rollout.responses))
        loss = torch.zeros((), device=rollout.values.device)
        for number, index in enumerate(minibatches):
            with self.compute_loss_context_manager():
                loss, drift = self._loss(model, rollout.rows(index), first=number == 0)
            if self.args.max_kl is not None and self.accelerator.reduce(drift, "mean") > self.args.max_kl:
                self.metrics["skipped_updates"].append(len(minibatches) - number)
                break
            self.accelerator.backward(loss)
            if number < len(minibatches) - 1:
                self.accelerator.clip_grad_norm_(list(model.parameters()), self.args.max_grad_norm)
                self.optimizer.step()
                model.zero_grad()
        else:
            self.metrics["skipped_updates"].append(0)
        return loss.detach()

    @torch.no_grad()
    def _roll_out(self, inputs: dict[str, Any]) -> Rollout:
        batch = {name: inputs[name].to(self.args.device) for name in ("input_ids", "attention_mask")}
        model = self.accelerator.unwrap_model(self.model)
        with self.compute_loss_context_manager():
            prompts = model.encode(**batch)
            responses = model.sample(prompts, self.sampling)
            mask = response_mask(responses, self.processing_class.eos_token_id)
            logprobs, values, _ = model(prompts, responses)
            reference_logprobs = model.reference_logprobs(prompts, responses)
        completions = self.processing_class.batch_decode(responses, skip_special_tokens=True)
        scores = self._scores(inputs, completions, mask, responses)
        k1, _, k3 = kl_estimates(logprobs, reference_logprobs)
        rewards = token_rewards(scores, k1, mask, self.args.kl_coef)
        advantages, returns = gae(rewards, values, mask, self.args.gamma, self.args.lam)
        self._record_rollout(k1, k3, rewards, values, returns, mask)
        return Rollout(prompts, responses, mask, logprobs, values, whiten(advantages, mask), returns)

    def _scores(self, inputs: dict[str, Any], completions: list[str], mask: Tensor, responses: Tensor) -> Tensor:
        """One scaled score per response; raw and scaled scores are logged."""
        columns = {
            name: values for name, values in inputs.items() if name not in ("prompt", "input_ids", "attention_mask")
        }
        weights = self.args.reward_weights or [1.0] * len(self.reward_funcs)
        raw = torch.zeros(len(completions), device=responses.device)
        for weight, function in zip(weights, self.reward_funcs, strict=True):
            raw += weight * _call_reward(function, inputs["prompt"], completions, columns).to(raw)
        finished = (responses == self.processing_class.eos_token_id).any(dim=1)
        penalised = raw - self.args.missing_eos_penalty * (~finished)
        everyone = self.accelerator.gather(penalised)
        scores = penalised / (everyone.std() + 1e-8) if self.args.scale_scores and everyone.std() > 0 else penalised
        self.metrics["score/raw"].append(self._mean(raw))
        self.metrics["score/scaled"].append(self._mean(scores))
        self.metrics["truncated"].append(self._mean(1 - finished.float()))
        self.metrics["response_tokens"].append(self._mean(mask.sum(dim=1).float()))
        self.samples = [
            {"prompt": p, "completion": c, "score": s}
            for p, c, s in zip(inputs["prompt"], completions, raw.tolist(), strict=True)
        ]
        return scores

    def _record_rollout(
        self, k1: Tensor, k3: Tensor, rewards: Tensor, values: Tensor, returns: Tensor, mask: Tensor
    ) -> None:
        for name, kl in (("k1", k1), ("k3", k3)):
            self.metrics[f"kl/{name}_per_sequence"].append(self._mean((kl * mask).sum(dim=1)))
            self.metrics[f"kl/{name}_per_token"].append(self._mean(masked_mean(kl, mask)))
        self.metrics["reward"].append(self._mean(rewards.sum(dim=1)))
        self.metrics["explained_variance"].append(self._mean(explained_variance(values, returns, mask)))

    def _loss(self, model: nn.Module, batch: Rollout, first: bool) -> tuple[Tensor, Tensor]:
        """PPO's loss of a minibatch, and how far the policy has drifted from the sampler (k3 per token)."""
        logprobs, values, entropy = model(batch.prompts, batch.responses)
        surrogate, clip_fraction = policy_loss(
            logprobs, batch.logprobs, batch.advantages, batch.mask, self.args.cliprange
        )
        error = value_loss(values, batch.values, batch.returns, batch.mask, self.args.cliprange_value)
        drift = masked_mean(kl_estimates(batch.logprobs, logprobs)[2], batch.mask).detach()
        ratio = masked_mean(torch.exp(logprobs - batch.logprobs), batch.mask)
        named = {
            "ratio_first" if first else "ratio": ratio,
            "clip_fraction": clip_fraction,
            "entropy": masked_mean(entropy, batch.mask),
        }
        for name, value in named.items() | {"loss/policy": surrogate, "loss/value": error}.items():
            self.metrics[name].append(self._mean(value.detach()))
        return surrogate + self.args.vf_coef * error, drift

    def _minibatches(self, prompts: int) -> list[Tensor]:
        """Row numbers of every optimiser step; each epoch is shuffled anew."""
        return [
            part
            for _ in range(self.args.num_ppo_epochs)
            for part in torch.randperm(prompts).chunk(min(prompts, self.args.num_mini_batches))
        ]

    def _mean(self, x: Tensor) -> float:
        """Mean over all processes."""
        return self.accelerator.gather(x.float().mean().reshape(1)).mean().item()

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        encoded = self.processing_class(columns["prompt"], padding=True, truncation=False, return_tensors="pt")
        return columns | {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was recorded since the last entry."""
        logs |= {name: sum(values) / len(values) for name, values in self.metrics.items()}
        self.metrics.clear()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write what training changed; an adapter belongs to the policy as found, its own adapter merged."""
        output_dir = output_dir or self.args.output_dir
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        weights = (
            get_peft_model_state_dict(model.policy)
            if isinstance(model.policy, PeftModel)
            else model.policy.state_dict()
        )
        model.policy.save_pretrained(output_dir)
        self.processing_class.save_pretrained(output_dir)
        values = {f"value_head.{name}": tensor for name, tensor in model.value_head.state_dict().items()}
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in (weights | values).items()},
            Path(output_dir) / "ppo.safetensors",
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        tensors = load_file(Path(resume_from_checkpoint) / "ppo.safetensors")
        head = {
            name.removeprefix("value_head."): tensors.pop(name)
            for name in list(tensors)
            if name.startswith("value_head.")
        }
        model.value_head.load_state_dict(head)
        if isinstance(model.policy, PeftModel):
            set_peft_model_state_dict(model.policy, tensors)
        else:
            model.policy.load_state_dict(tensors)


def _check_inputs(
    tokenizer: PreTrainedTokenizerBase, train_dataset: Dataset, args: PPOConfig, reward_funcs: list[RewardFunction]
) -> None:
    for name in ("pad_token", "eos_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(
                f"the tokenizer has no {name}: set tokenizer.{name}, PPO needs it to batch prompts and end responses"
            )
    if "prompt" not in train_dataset.column_names:
        raise ValueError(
            f"train_dataset has columns {', '.join(train_dataset.column_names)}: it needs a text column 'prompt'"
        )
    if clash := {"prompts", "completions"} & set(train_dataset.column_names):
        raise ValueError(f"train_dataset has a column {clash.pop()!r}, a name that reward functions use: rename it")
    if not reward_funcs:
        raise ValueError("reward_funcs is empty: give at least one reward function")
    if args.reward_weights is not None and len(args.reward_weights) != len(reward_funcs):
        raise ValueError(
            f"{len(args.reward_weights)} reward_weights for {len(reward_funcs)} reward functions: give one each"
        )


def _call_reward(
    function: RewardFunction, prompts: list[str], completions: list[str], columns: dict[str, list]
) -> Tensor:
    name = getattr(function, "__name__", type(function).__name__)
    rewards = torch.as_tensor(function(prompts, completions, **columns), dtype=torch.float32)
    if rewards.shape != (len(completions),):
        raise ValueError(
            f"the reward function {name} returned shape {tuple(rewards.shape)} "
            f"for {len(completions)} completions: return one number each"
        )
    if not torch.isfinite(rewards).all():
        row = int((~torch.isfinite(rewards)).nonzero()[0])
        raise ValueError(
            f"the reward function {name} returned {rewards[row].item()} "
            f"for the completion {completions[row]!r}: return finite numbers"
        )
    return rewards
