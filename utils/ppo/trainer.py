"""PPO, RLOO and GRPO for encoder-decoder models, as a subclass of transformers.Trainer.

One training step is one batch of prompts: sample responses to each, score them, and take several epochs of clipped
updates on them. Compared with the textbook (Ziegler et al. 2019; Huang et al. 2023, "The N+ Implementation Details of
RLHF with PPO"):

- There is no second model in memory: the reference is the policy as found, under a fresh adapter that can be switched
  off. The first KL is 0 by construction (`utils.ppo.policy`).
- There is no dropout anywhere: the probability ratio of the first update is 1.
- The value head reads the policy's own last hidden state and starts at zero. RLOO and GRPO have none: they compare the
  responses to one prompt.
- Where the encoder is frozen (LoRA on the decoder only), it runs once a prompt and its output serves sampling, policy,
  reference and updates.
- On several processes each has its own prompts; means, deviations and KL are taken over all of them.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils import set_seed as set_seed_of_process
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from utils.ppo.checkpointing import GuardedTrainer, Recipe, check_gradient, check_recipe
from utils.ppo.config import PPOConfig
from utils.ppo.losses import (
    adapted_kl_coef,
    explained_variance,
    gae,
    grpo_advantages,
    kl_estimates,
    masked_mean,
    policy_loss,
    response_mask,
    rloo_advantages,
    token_rewards,
    value_loss,
    whiten,
)
from utils.ppo.policy import PolicyModel
from utils.ppo.precision import frozen_weights_in_bf16
from utils.ppo.rewards import RewardFunction, call_reward, reward_name
from utils.progress import EstimateCallback
from utils.training.memory import freed_memory_kept

PROMPT_TENSORS = ("input_ids", "attention_mask")
CHECKPOINT_FILE, VALUE_HEAD = "ppo.safetensors", "value_head."

__all__ = ["PPOConfig", "PPOTrainer", "gae", "policy_loss", "value_loss", "whiten"]


@dataclass
class Rollout:
    """Responses to a batch of prompts and all that is fixed about them before learning.

    Tensors are (responses, time) over response tokens; `prompts` is what `PolicyModel.encode` returned, a row for each
    response.
    """

    prompts: dict[str, Tensor]
    responses: Tensor
    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> "Rollout":
        """The rollout of some of the responses."""
        prompts = {name: tensor[index] for name, tensor in self.prompts.items()}
        names = [field.name for field in fields(self) if field.name != "prompts"]
        return Rollout(prompts, *(getattr(self, name)[index] for name in names))


class PPOTrainer(GuardedTrainer):
    """Train a sequence-to-sequence policy to earn more reward while staying close to what it was.

    Args:
        model: the policy as found. A PeftModel is merged into its base first; a plain model is taken as it is.
        tokenizer: its tokenizer, with a pad and an end-of-sequence token.
        reward_funcs: one or several `f(prompts, completions, **columns) -> list[float]`; `columns` are the data's other
            columns.
        args: the PPOConfig.
        train_dataset: rows with a text column "prompt"; the last ones, which fill no step, are left out
            (`dataloader_drop_last`).
        peft_config: the fresh adapter's, or False to train all parameters; see `PolicyModel`.

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
        self.reward_funcs = (
            list(reward_funcs) if isinstance(reward_funcs, Sequence) else [reward_funcs]
        )
        _check_inputs(tokenizer, train_dataset, args, self.reward_funcs)
        if args.dataloader_drop_last:
            prompts = args.prompts_per_step * args.world_size
            train_dataset = train_dataset.select(range(len(train_dataset) // prompts * prompts))
        self.metrics: dict[str, list[float]] = defaultdict(list)
        self.samples: list[dict[str, Any]] = []
        self.kl_coef = args.kl_coef
        self.waiting: list[dict[str, Any]] = []  # rows of a batch that is not complete yet
        self.base_folder: Path | None = None  # where the policy as found was written
        set_seed(args.seed)  # before the adapter draws its first weights
        super().__init__(
            model=PolicyModel(model, peft_config, value_head=args.advantage_estimator == "gae"),
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            data_collator=lambda rows: {"rows": rows},
            **trainer_arguments,
        )
        set_seed_of_process(
            args.seed, device_specific=True
        )  # every process samples responses of its own
        self.remove_callback(PrinterCallback)
        self.add_callback(EstimateCallback)
        self.recipe = self._recipe(model)
        self.add_callback(Recipe(**self.recipe))
        self.sampling = GenerationConfig(
            max_new_tokens=args.max_new_tokens,
            decoder_start_token_id=model.config.decoder_start_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    @property
    def policy(self) -> PreTrainedModel | PeftModel:
        """The policy itself, without value head."""
        return self.accelerator.unwrap_model(self.model).policy

    def _recipe(self, found: PreTrainedModel | PeftModel) -> dict[str, Any]:
        """What must be the same for two runs to be one."""
        names = (
            "advantage_estimator",
            "num_generations",
            "max_new_tokens",
            "kl_coef",
            "learning_rate",
            "seed",
        )
        return {name: getattr(self.args, name) for name in names} | {
            "policy": found.config.name_or_path,
            "reward_funcs": [reward_name(function) for function in self.reward_funcs],
            "prompts": len(self.train_dataset),
            "batch_size": self.args.prompts_per_step * self.args.world_size,
            "lr_scheduler_type": str(self.args.lr_scheduler_type.value),
        }

    @property
    def completions(self) -> pd.DataFrame:
        """Samples of every step that this trainer took: step, prompt, completion, the raw score and, if several, each
        reward.
        """
        return pd.DataFrame(self.samples)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's, in memory that is kept from step to step.

        Under bf16 frozen weights are in bf16 meanwhile: a callback or reward that uses the policy must do so under
        autocast. Afterwards they are float32 again, rounded to bf16.

        Raises:
            ValueError: the checkpoint to resume from is of another run.
            TrainingError: a gradient or the weights are not finite, or a checkpoint cannot be written.
        """
        with (
            freed_memory_kept(),
            frozen_weights_in_bf16(self.model) if self.args.bf16 else nullcontext(),
        ):
            return super().train(*args, **kwargs)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One PPO step: sample, score and update, once the batch is complete. The Trainer applies the last gradient."""
        self.waiting += inputs["rows"]
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        rows, self.waiting = self.waiting, []
        model.eval()  # dropout would make the policy differ from the sampler
        rollout = self._roll_out(rows)
        minibatches = self._minibatches(len(rollout.responses))
        loss = torch.zeros((), device=self.args.device)
        for number, index in enumerate(minibatches):
            loss, drift = self._backward(model, rollout, index, first=number == 0)
            if self.args.max_kl is not None and drift > self.args.max_kl:
                model.zero_grad()
                self.metrics["skipped_updates"].append(len(minibatches) - number)
                break
            if number < len(minibatches) - 1:
                check_gradient(model, self.args, self.state)
                if (
                    self.args.max_grad_norm > 0
                ):  # 0: no clipping, as the Trainer does with the last gradient
                    self.accelerator.clip_grad_norm_(
                        list(model.parameters()), self.args.max_grad_norm
                    )
                self.optimizer.step()
                model.zero_grad()
        else:
            self.metrics["skipped_updates"].append(0)
        return loss

    def _backward(
        self, model: nn.Module, rollout: Rollout, index: Tensor, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Add up the gradient of a minibatch, in parts; its loss, and its drift from the sampler (k3 per token).

        A part counts by its share of the response tokens that all processes have in this minibatch.
        """
        tokens = self.accelerator.reduce(rollout.mask[index].sum().float(), "mean")
        loss = drift = torch.zeros((), device=self.args.device)
        for part in index.chunk(self.args.gradient_accumulation_steps):
            batch = rollout.rows(part)
            with self.accelerator.autocast():
                part_loss, part_drift = self._loss(model, batch, first)
            share = batch.mask.sum() / tokens
            self.accelerator.backward(part_loss * share)
            loss = loss + part_loss.detach() * share
            drift = drift + part_drift * share
        return loss, self.accelerator.reduce(drift, "mean")

    @torch.no_grad()
    def _roll_out(self, rows: list[dict[str, Any]]) -> Rollout:
        group = self.args.num_generations
        columns = {name: [row[name] for row in rows for _ in range(group)] for name in rows[0]}
        batch = self.processing_class(
            [row["prompt"] for row in rows], padding=True, return_tensors="pt"
        )
        model = self.accelerator.unwrap_model(self.model)
        with self.accelerator.autocast():
            prompts = model.encode(
                **{name: batch[name].to(self.args.device) for name in PROMPT_TENSORS}
            )
            prompts = {
                name: tensor.repeat_interleave(group, dim=0) for name, tensor in prompts.items()
            }
            responses = model.sample(prompts, self.sampling)
            mask = response_mask(responses, self.processing_class.eos_token_id)
            logprobs, values, _ = model(prompts, responses)
            reference_logprobs = model.reference_logprobs(prompts, responses)
        scores = self._scores(columns, mask, responses)
        k1, _, k3 = kl_estimates(logprobs, reference_logprobs)
        advantages, returns = self._advantages(scores, k1, values, mask)
        self._record_kl(scores, k1, k3, mask)
        self._adapt_kl_coef()
        return Rollout(
            prompts, responses, mask, logprobs, reference_logprobs, values, advantages, returns
        )

    def _advantages(
        self, scores: Tensor, k1: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns, (responses, time); returns are 0 without a value head."""
        if self.args.advantage_estimator == "gae":
            rewards = token_rewards(scores, k1, mask, self.kl_coef)
            advantages, returns = gae(rewards, values, mask, self.args.gamma, self.args.lam)
            self.metrics["explained_variance"].append(
                self._mean(explained_variance(values, returns, mask))
            )
            return self._whiten(advantages, mask), returns
        if self.args.advantage_estimator == "rloo":
            rewards = scores - self.kl_coef * (k1 * mask).sum(dim=1)
            advantages = rloo_advantages(rewards, self.args.num_generations)
        else:  # grpo pays for KL in the loss
            advantages = grpo_advantages(scores, self.args.num_generations)
        return advantages.unsqueeze(1) * mask, torch.zeros_like(values)

    def _whiten(self, x: Tensor, mask: Tensor) -> Tensor:
        """Whitened over the response tokens of all processes."""
        everyone = [
            self.accelerator.gather(self.accelerator.pad_across_processes(part, dim=1))
            for part in (x, mask)
        ]
        first = self.accelerator.process_index * len(x)
        return whiten(*everyone)[first : first + len(x), : x.shape[1]]

    def _adapt_kl_coef(self) -> None:
        """Set the price of the next batch by the KL that was recorded of this one."""
        if self.args.kl_target is None:
            return
        kl = self.metrics["kl/k1_per_sequence"][-1]
        responses = self.args.responses_per_step * self.accelerator.num_processes
        self.kl_coef = adapted_kl_coef(
            self.kl_coef, kl, self.args.kl_target, responses, self.args.kl_horizon
        )

    def _scores(self, columns: dict[str, list], mask: Tensor, responses: Tensor) -> Tensor:
        """One scaled score per response; raw and scaled scores are logged, and samples kept."""
        completions = self.processing_class.batch_decode(responses, skip_special_tokens=True)
        prompts, others = (
            columns["prompt"],
            {name: values for name, values in columns.items() if name != "prompt"},
        )
        weights = self.args.reward_weights or [1.0] * len(self.reward_funcs)
        rewards = {
            reward_name(function): call_reward(function, prompts, completions, others).to(
                responses.device
            )
            for function in self.reward_funcs
        }
        raw = sum(weight * reward for weight, reward in zip(weights, rewards.values(), strict=True))
        finished = (responses == self.processing_class.eos_token_id).any(dim=1)
        penalized = raw - self.args.missing_eos_penalty * (~finished)
        scores = penalized
        if self.args.scale_scores and (deviation := self.accelerator.gather(penalized).std()) > 0:
            scores = penalized / (deviation + 1e-8)
        self.metrics["score/raw"].append(self._mean(raw))
        self.metrics["score/scaled"].append(self._mean(scores))
        self.metrics["truncated"].append(self._mean(1 - finished.float()))
        self.metrics["response_tokens"].append(self._mean(mask.sum(dim=1).float()))
        if len(rewards) > 1:
            for name, reward in rewards.items():
                self.metrics[f"score/{name}"].append(self._mean(reward))
        self._keep_samples(
            prompts, completions, {"score": raw} | (rewards if len(rewards) > 1 else {})
        )
        return scores

    def _keep_samples(
        self, prompts: list[str], completions: list[str], scores: dict[str, Tensor]
    ) -> None:
        numbers = {name: tensor.tolist() for name, tensor in scores.items()}
        for i in range(min(self.args.log_completions, len(prompts))):
            row = {
                "step": self.state.global_step + 1,
                "prompt": prompts[i],
                "completion": completions[i],
            }
            self.samples.append(row | {name: values[i] for name, values in numbers.items()})

    def _record_kl(self, scores: Tensor, k1: Tensor, k3: Tensor, mask: Tensor) -> None:
        for name, kl in (("k1", k1), ("k3", k3)):
            self.metrics[f"kl/{name}_per_sequence"].append(self._mean((kl * mask).sum(dim=1)))
            self.metrics[f"kl/{name}_per_token"].append(self._mean(masked_mean(kl, mask)))
        self.metrics["kl/coef"].append(self.kl_coef)
        price = (
            0.0 if self.args.advantage_estimator == "grpo" else self.kl_coef
        )  # which grpo pays in the loss
        self.metrics["reward"].append(
            self._mean(scores) - price * self.metrics["kl/k1_per_sequence"][-1]
        )

    def _loss(self, model: nn.Module, batch: Rollout, first: bool) -> tuple[Tensor, Tensor]:
        """The loss of some responses, and how far the policy has drifted from the sampler (k3 per token)."""
        logprobs, values, entropy = model(batch.prompts, batch.responses)
        loss, clip_fraction = policy_loss(
            logprobs, batch.logprobs, batch.advantages, batch.mask, self.args.cliprange
        )
        drift = masked_mean(kl_estimates(batch.logprobs, logprobs)[2], batch.mask).detach()
        named = {
            "ratio_first" if first else "ratio": masked_mean(
                torch.exp(logprobs - batch.logprobs), batch.mask
            ),
            "clip_fraction": clip_fraction,
            "entropy": masked_mean(entropy, batch.mask),
            "loss/policy": loss,
        }
        if self.args.advantage_estimator == "gae":
            named["loss/value"] = value_loss(
                values, batch.values, batch.returns, batch.mask, self.args.cliprange_value
            )
            loss = loss + self.args.vf_coef * named["loss/value"]
        if self.args.advantage_estimator == "grpo":
            named["loss/kl"] = masked_mean(
                kl_estimates(logprobs, batch.reference_logprobs)[2], batch.mask
            )
            loss = loss + self.kl_coef * named["loss/kl"]
        for name, value in named.items():
            self.metrics[name].append(self._mean(value.detach()))
        return loss, drift

    def _minibatches(self, responses: int) -> list[Tensor]:
        """Row numbers of every optimizer step; each epoch is shuffled anew."""
        return [
            part
            for _ in range(self.args.num_ppo_epochs)
            for part in torch.randperm(responses).chunk(min(responses, self.args.num_mini_batches))
        ]

    def _mean(self, x: Tensor) -> float:
        """Mean over all processes."""
        return self.accelerator.gather(x.float().mean().reshape(1)).mean().item()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of what was recorded since the last entry."""
        logs |= {name: sum(values) / len(values) for name, values in self.metrics.items()}
        self.metrics.clear()
        super().log(logs, start_time)

    def save_merged(self, folder: str | Path) -> None:
        """Write the trained policy as one plain model, its adapter merged in float32, with its tokenizer."""
        policy = self.policy
        if isinstance(policy, PeftModel):
            policy = copy.deepcopy(policy).float().merge_and_unload().to(policy.dtype)
        policy.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write what training changed. An adapter belongs to the policy as found, which is written once, to the folder
        `base` in the run's output folder, and which the adapter names as its base.
        """
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model.policy, PeftModel):
            if self.base_folder is None:
                self.base_folder = Path(self.args.output_dir) / "base"
                model.policy.get_base_model().save_pretrained(
                    self.base_folder, state_dict=model.base_state_dict()
                )
                self.processing_class.save_pretrained(self.base_folder)
            model.policy.peft_config["default"].base_model_name_or_path = str(self.base_folder)
            weights = get_peft_model_state_dict(model.policy)
        else:
            weights = model.policy.state_dict()
        model.policy.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        rest = {"kl_coef": torch.tensor(self.kl_coef, dtype=torch.float64)}
        if model.value_head is not None:
            rest |= {
                f"{VALUE_HEAD}{name}": tensor
                for name, tensor in model.value_head.state_dict().items()
            }
        tensors = {name: tensor.contiguous().clone() for name, tensor in (weights | rest).items()}
        save_file(tensors, folder / CHECKPOINT_FILE)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        check_recipe(Path(resume_from_checkpoint), self.recipe)
        model = self.accelerator.unwrap_model(self.model)
        tensors = load_file(Path(resume_from_checkpoint) / CHECKPOINT_FILE)
        self.kl_coef = tensors.pop("kl_coef").item()
        head = {
            name.removeprefix(VALUE_HEAD): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(VALUE_HEAD)
        }
        if model.value_head is not None:
            model.value_head.load_state_dict(head)
        if isinstance(model.policy, PeftModel):
            set_peft_model_state_dict(model.policy, tensors)
        else:
            model.policy.load_state_dict(tensors)


def _check_inputs(
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: Dataset,
    args: PPOConfig,
    reward_funcs: list[RewardFunction],
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
    if len(train_dataset) < (batch := args.prompts_per_step * args.world_size):
        raise ValueError(
            f"train_dataset has {len(train_dataset)} prompts, fewer than a batch of {batch}: give more, or lower "
            "per_device_train_batch_size (in the labs LABS_PPO_BATCH_SIZE)"
        )
    if clash := {"prompts", "completions"} & set(train_dataset.column_names):
        raise ValueError(
            f"train_dataset has a column {clash.pop()!r}, a name that reward functions use: rename it"
        )
    if not reward_funcs:
        raise ValueError("reward_funcs is empty: give at least one reward function")
    if len({reward_name(function) for function in reward_funcs}) < len(reward_funcs):
        raise ValueError(
            f"reward functions {', '.join(map(reward_name, reward_funcs))}: give each a name of its own (__name__)"
        )
    if args.reward_weights is not None and len(args.reward_weights) != len(reward_funcs):
        raise ValueError(
            f"{len(args.reward_weights)} reward_weights for {len(reward_funcs)} reward functions: give one each"
        )
