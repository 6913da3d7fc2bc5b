"""PPO, RLOO and GRPO for encoder-decoder models, with the interface of TRL's trainers.

The Trainer's own loop takes the optimizer steps. After the last update on a sample of completions,
`_prepare_inputs` draws the next sample: it generates and rewards completions, estimates advantages,
and splits the sample into batches. Differences from the textbook algorithm (Ziegler et al. 2019;
Huang et al. 2023, "The N+ Implementation Details of RLHF with PPO"):

- The reference is the initial policy. With a new adapter, it needs no extra memory.
- Dropout is off, so that the first probability ratio is 1.
- The value head does not train the policy: it reads hidden states without a gradient.
- A frozen encoder (with an adapter on the decoder only) runs once for each prompt.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils import set_seed as set_process_seed
from datasets import Dataset, IterableDataset
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import is_rich_available
from trl.trainer.utils import (
    RepeatSampler,
    print_prompt_completions_sample,
    repeat_iterable_dataset,
)

from . import losses
from .callbacks import PromptSampler, StopAtMaxKL, SyncReference, WholeSamples
from .checkpointing import CheckedTrainer, Recipe, check_recipe
from .config import PPOConfig
from .metrics import Metrics
from .policy import (
    Reference,
    add_value_head,
    base_model,
    completion_logprobs,
    encode,
    sample,
    start_token,
    zero_dropout,
)
from .precision import float32_head, frozen_weights_in_bf16, prepared_for_decoding
from .rewards import RewardFunc, Rewards, as_text
from .setup import check_data, prepared_model, recipe, reward_weights

STATE_FILE = "ppo.safetensors"  # in a checkpoint: β, value head, synced reference
LOGITS_AT_ONCE = 2**26  # a quarter of a gigabyte in float32
Sample = dict[str, Any]  # tensors with one row per completion; "prompts" is a dictionary of them


class PPOTrainer(CheckedTrainer):
    """Train an encoder-decoder model to maximize reward while staying close to the initial policy.

    Args:
        model: the initial policy, or its id or folder. A PeftModel's adapter is trained further.
        reward_funcs: one or several reward functions, classifiers or ids; see `Rewards`.
        args: a PPOConfig.
        train_dataset: rows with a column "prompt"; reward functions receive the other columns.
        eval_dataset: a dataset with the same columns, or a dictionary of several.
        processing_class: the model's tokenizer; None loads it by the model's id.
        reward_processing_classes: tokenizers of the classifiers among the reward functions.
        callbacks, optimizers: as in transformers.Trainer.
        peft_config: a new adapter to train; None trains all parameters, or a PeftModel's adapter.

    Raises ValueError if the model is decoder-only or has no trainable parameter, if a dataset has
    no column "prompt" or too few rows, or if options contradict each other.
    """

    loss_is_scaled_for_ga = True  # compute_loss already averages over an optimizer step

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardFunc | Sequence[RewardFunc],
        args: PPOConfig | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Any] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        args = args or PPOConfig("ppo")
        check_data(train_dataset, eval_dataset, args)
        set_seed(args.seed)  # before an adapter's weights are initialized
        model = prepared_model(model, args, peft_config)
        self.rewards = Rewards(reward_funcs, reward_processing_classes, args.model_init_kwargs)
        self.recipe = recipe(model, args, train_dataset, self.rewards.names)
        self.reference = None
        if args.beta or args.log_kl:
            self.reference = Reference(model, fresh_adapter=peft_config is not None)
        self.value_head = None
        if args.advantage_estimator == "gae":
            self.value_head = add_value_head(model, args.value_trunk)
        super().__init__(
            model=model,
            args=args,
            data_collator=list,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class or AutoTokenizer.from_pretrained(model.name_or_path),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self._init_run()
        self.generation_config = self._generation_config()
        self._add_callbacks()
        # each process samples its own completions
        set_process_seed(args.seed, device_specific=True)

    def _init_run(self) -> None:
        args, device = self.args, self.args.device
        self.weights = reward_weights(args, self.rewards.names).to(device)
        self.rewards.to(device)
        self.metrics = {mode: Metrics(self.accelerator) for mode in ("train", "eval")}
        self.mode = "train"
        self.beta = self.next_beta = args.beta  # of the current sample and of the next
        self.drift = torch.zeros(2, device=device)  # sums of k3 and of tokens in this step
        self.stopped_early = False
        self.stored: list[dict[str, Any]] = []
        self.shown: dict[str, Any] = {}
        self.extra: dict[str, list[Any]] = defaultdict(list)
        self.sample: Sample = {}
        self.batches: list[tuple[Tensor, Tensor]] = []  # rows of the sample, and their normalizer

    def _generation_config(self) -> GenerationConfig:
        """Return settings for `generate`, greedy if `InverseTransformSampling` draws the tokens."""
        args, tokenizer, model = self.args, self.processing_class, self.policy
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos_token to end completions: set it")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        own = model.generation_config.eos_token_id
        ends = dict.fromkeys([tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])])
        self.eos_token_ids = [token for token in ends if token is not None]
        self.start_token = start_token(model)
        options = {
            "max_new_tokens": args.max_completion_length,
            "decoder_start_token_id": self.start_token,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": self.eos_token_ids,
            "cache_implementation": args.cache_implementation,
            "do_sample": False,
        }
        special = {name: getattr(args, name) for name in ("top_p", "top_k", "min_p")}
        special["repetition_penalty"] = args.repetition_penalty
        theirs = not getattr(base_model(model), "cpu_speedups", True)
        if theirs or args.generation_kwargs or list(special.values()) != [1.0, 0, None, 1.0]:
            options |= {"do_sample": True, "temperature": args.temperature} | special
        return GenerationConfig(**options | (args.generation_kwargs or {}))

    def _add_callbacks(self) -> None:
        args = self.args
        if args.disable_dropout and args.gradient_checkpointing:
            zero_dropout(self.policy)  # gradient checkpointing needs train mode
        self.remove_callback(PrinterCallback)
        self.add_callback(Recipe(**self.recipe))
        self.add_callback(WholeSamples(args.batches_per_generation))
        if args.max_kl is not None:
            self.add_callback(StopAtMaxKL(self))
        if args.sync_ref_model:
            if self.reference is None or self.reference.model is None:
                raise ValueError(
                    "sync_ref_model=True needs a separate reference model: train all parameters "
                    "(no adapter) with beta above 0, or leave it out"
                )
            self.add_callback(SyncReference(self.reference.model, self.accelerator))

    @property
    def policy(self) -> PreTrainedModel | PeftModel:
        """The trained model without distributed wrappers."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def ref_model(self) -> PreTrainedModel | None:
        """The frozen reference model, under TRL's name; None with an adapter or without KL."""
        return self.reference.model if self.reference is not None else None

    @property
    def reward_processing_classes(self) -> list[PreTrainedTokenizerBase | None]:
        """One tokenizer per classifier among the reward functions, None for the others."""
        return self.rewards.tokenizers

    @property
    def completions(self) -> pd.DataFrame:
        """Stored completions: step, prompt, completion, rewards, and columns from `log_extra`."""
        return pd.DataFrame(self.stored)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the Trainer does.

        With bf16=True, frozen weights are in bf16 during training and stay rounded afterwards. A
        callback or reward function that calls the policy must do so under autocast.
        Raises ValueError if the checkpoint to resume from belongs to another run, and TrainingError
        if a gradient or weight is not finite or a checkpoint cannot be written.
        """
        self.batches = []
        self.add_callback(self.pop_callback(WholeSamples))  # last, after all others
        with frozen_weights_in_bf16(self.policy) if self.args.bf16 else nullcontext():
            return super().train(*args, **kwargs)

    # Data: repeat each prompt for its completions, and each sample's prompts for its updates.

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Return a data loader whose batches each hold the prompts of one sample."""
        dataset = self.train_dataset
        if isinstance(dataset, IterableDataset):
            if self.args.shuffle_dataset:
                dataset = dataset.shuffle(seed=self.args.seed)
            dataset = repeat_iterable_dataset(dataset, **self._repetition())
        return self._get_dataloader(
            dataset=dataset,
            description="Training",
            batch_size=self._train_batch_size * self.args.steps_per_generation,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _repetition(self) -> dict[str, int]:
        return {
            "mini_repeat_count": self.args.num_generations,
            "batch_size": self.args.prompts_per_generation,
            "repeat_count": self.args.num_iterations * self.args.steps_per_generation,
        }

    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        rows = self.train_dataset if dataset is None else dataset
        order = {"shuffle": self.args.shuffle_dataset, "seed": self.args.seed}
        return PromptSampler(rows, **self._repetition(), **order, epoch=lambda: self.state.epoch)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt"]  # the one that remove_unused_columns=True keeps

    def _get_eval_sampler(self, eval_dataset: Dataset) -> RepeatSampler:
        return RepeatSampler(eval_dataset, self.args.generations_eval, shuffle=False)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        """Return a data loader for the evaluation prompts."""
        self.args.check_eval_batch()
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        if isinstance(dataset, IterableDataset):
            dataset = repeat_iterable_dataset(dataset, self.args.generations_eval)
        return super().get_eval_dataloader(dataset)

    # Sampling: completions, rewards, advantages.

    def _prepare_inputs(self, inputs: list[dict[str, Any]]) -> Sample:
        """Return the next training batch; draw a new sample once the last one is used up."""
        if self.mode == "eval":
            drawn = self._draw(inputs)
            rows = torch.arange(len(drawn["ids"]))
            return drawn | {"normalizer": self._normalizers(drawn, [rows], samples=1)[0]}
        if not self.batches:
            self.stopped_early, self.beta = False, self.next_beta
            self.sample = self._draw(inputs)
            self.batches = self._split(self.sample)
            self.model.train()  # sampling left it in eval mode
        rows, normalizer = self.batches.pop(0)
        return _rows(self.sample, rows.to(self.args.device)) | {"normalizer": normalizer}

    def _draw(self, inputs: list[dict[str, Any]]) -> Sample:
        """Sample a completion for each row, reward it, and estimate its advantages."""
        chat = self.args.chat_template_kwargs or {}
        prompts = [as_text(row["prompt"], self.processing_class, **chat) for row in inputs]
        drawn = self._generate(prompts)
        rewards, texts = self._reward(inputs, drawn)
        gathered = self._gather(drawn, rewards)
        scores = self._scores(gathered)
        self._log_sample(gathered, scores)
        advantages = self._advantages(drawn, gathered, scores)
        self._store_completions(inputs, texts, rewards, advantages)
        drawn["mask"] = drawn["mask"] * self._in_loss(gathered).unsqueeze(1)
        return drawn

    @torch.no_grad()
    def _generate(self, prompts: list[str]) -> Sample:
        """Sample completions, with values and log-probabilities under policy and reference."""
        model, device = self.policy.eval(), self.args.device
        unique = list(dict.fromkeys(prompts))
        options = {"padding": True, "pad_to_multiple_of": self.args.pad_to_multiple_of}
        batch = self.processing_class(unique, return_tensors="pt", **options).to(device)
        index = torch.tensor([unique.index(prompt) for prompt in prompts], device=device)
        with self.accelerator.autocast(), prepared_for_decoding(base_model(model)):
            encoded = encode(model, batch["input_ids"], batch["attention_mask"])
            encoded = {name: tensor[index] for name, tensor in encoded.items()}
            ids, sampled = sample(model, encoded, self.generation_config, self.args.temperature)
        mask = losses.response_mask(ids, self.eos_token_ids)
        drawn: Sample = {"prompts": encoded, "ids": ids, "mask": mask}
        drawn["old_logprobs"], values = self._in_parts(model, drawn, self.value_head is not None)
        drawn["values"] = torch.zeros_like(drawn["old_logprobs"]) if values is None else values
        drawn["reference_logprobs"] = drawn["old_logprobs"]
        if self.reference is not None:
            with self.reference.active(model) as reference:
                drawn["reference_logprobs"], _ = self._in_parts(reference, drawn, values=False)
        sampled = drawn["old_logprobs"] if sampled is None else sampled
        drawn["difference"] = (sampled - drawn["old_logprobs"]).abs()
        return drawn

    def _in_parts(
        self, model: nn.Module, drawn: Sample, values: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities and values, computed in parts to limit memory use."""
        vocabulary = base_model(model).get_output_embeddings().weight.shape[0]
        size = LOGITS_AT_ONCE // (drawn["ids"].shape[1] * vocabulary)
        size = max(size, self.args.per_device_train_batch_size)
        starts = range(0, len(drawn["ids"]), size)
        parts = [self._forward(model, _rows(drawn, slice(i, i + size)), values) for i in starts]
        logprobs = torch.cat([part[0] for part in parts])
        return logprobs, torch.cat([part[1] for part in parts]) if values else None

    def _forward(self, model: nn.Module, batch: Sample, *wanted: bool) -> tuple[Any, ...]:
        """Return log-probabilities, values and entropies of a batch; see `completion_logprobs`."""
        core = base_model(self.accelerator.unwrap_model(model))
        decoding = self.start_token, self.args.temperature
        with self.accelerator.autocast(), float32_head(core):
            return completion_logprobs(model, batch["prompts"], batch["ids"], *decoding, *wanted)

    def _reward(self, inputs: list[dict[str, Any]], drawn: Sample) -> tuple[Tensor, list[str]]:
        """Return rewards, (completions, functions), and the completions as texts."""
        ids = [i[m.bool()].tolist() for i, m in zip(drawn["ids"], drawn["mask"], strict=True)]
        texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        passed = ("prompt", "completion", "completion_ids")
        rewards = self.rewards(
            [row["prompt"] for row in inputs],
            [
                text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
                for text, row in zip(texts, inputs, strict=True)
            ],
            completion_ids=ids,
            trainer_state=self.state,
            log_extra=lambda column, values: self.extra[column].extend(values),
            log_metric=self.metrics[self.mode].add,
            **{name: [row[name] for row in inputs] for name in inputs[0] if name not in passed},
        )
        return rewards.to(self.args.device), texts

    def _gather(self, drawn: Sample, rewards: Tensor) -> dict[str, Tensor]:
        """Gather per-completion quantities, each (completions of all processes,)."""
        mask, logprobs = drawn["mask"], drawn["old_logprobs"]
        k1, _, k3 = losses.kl_estimates(logprobs, drawn["reference_logprobs"])
        ends = torch.tensor(self.eos_token_ids, device=mask.device)
        columns = dict(zip(self.rewards.names, rewards.unbind(dim=1), strict=True))
        summed = {"/length": 1, "/k1": k1, "/k3": k3, "/difference": drawn["difference"]}
        columns |= {name: (x * mask).sum(dim=1) for name, x in summed.items()}
        columns["/finished"] = torch.isin(drawn["ids"], ends).any(dim=1)
        return self.accelerator.gather({name: c.float() for name, c in columns.items()})

    def _scores(self, gathered: dict[str, Tensor]) -> Tensor:
        """Return the weighted reward of each completion of all processes, NaN without a reward.

        Options clip it, subtract missing_eos_penalty, and divide by the batch's standard deviation.
        """
        args = self.args
        rewards = torch.stack([gathered[name] for name in self.rewards.names], dim=1)
        scores = (rewards * self.weights).nansum(dim=1)
        scores[rewards.isnan().all(dim=1)] = torch.nan
        gathered["/raw"] = scores
        if args.reward_clip_range is not None:
            scores = scores.clamp(*args.reward_clip_range)
        if args.missing_eos_penalty:
            scores = scores - args.missing_eos_penalty * (1 - gathered["/finished"])
        if args.advantage_estimator != "grpo" and args.scale_rewards == "batch":
            scores = scores / (losses.nanstd(scores, dim=0) + losses.GROUP_EPSILON)
        return scores

    def _advantages(self, drawn: Sample, gathered: dict[str, Tensor], scores: Tensor) -> Tensor:
        """Store advantages and returns in the sample; return completions' advantages or scores.

        With "gae" and "rloo", β · KL is subtracted here; with "grpo", `compute_loss` adds it.
        """
        args, mask = self.args, drawn["mask"]
        first = self.accelerator.process_index * len(mask)
        if args.advantage_estimator == "gae":
            k1 = losses.kl_estimates(drawn["old_logprobs"], drawn["reference_logprobs"])[0]
            own = scores[first : first + len(mask)].nan_to_num(0.0)
            rewards = losses.token_rewards(own, k1, mask, self.beta)
            advantages, returns = losses.gae(rewards, drawn["values"], mask, args.gamma, args.lam)
            add, values = self.metrics[self.mode].add, drawn["values"]
            add("explained_variance", losses.explained_variance(values, returns, mask))
            add("advantages/position_share", losses.position_share(advantages, mask))
            drawn["returns"] = returns
            drawn["advantages"] = self._whiten(advantages, mask)
            return scores
        generations = args.num_generations if self.mode == "train" else args.generations_eval
        if generations < 2:
            whole = torch.zeros_like(scores)
        elif args.advantage_estimator == "rloo":
            whole = losses.rloo_advantages(scores - self.beta * gathered["/k1"], generations)
        else:
            whole = losses.grpo_advantages(scores, generations, args.scale_rewards)
        if args.normalize_advantages:
            whole = (whole - whole.mean()) / (whole.std() + losses.GROUP_EPSILON)
        drawn["advantages"] = whole[first : first + len(mask)].unsqueeze(1) * mask
        drawn["returns"] = torch.zeros_like(drawn["values"])
        return whole

    def _whiten(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Whiten over the completion tokens of all processes if requested; never in evaluation."""
        if not self.args.normalize_advantages or self.mode == "eval":
            return advantages
        pad, gather = self.accelerator.pad_across_processes, self.accelerator.gather
        x, m = (gather(pad(tensor, dim=1)) for tensor in (advantages, mask))
        if m.sum() < 2:
            return torch.zeros_like(advantages)  # one token has no variance
        whitened = losses.whiten(x, m, self.args.min_advantage_std)
        first = self.accelerator.process_index * len(advantages)
        return whitened[first : first + len(advantages), : advantages.shape[1]]

    def _in_loss(self, gathered: dict[str, Tensor]) -> Tensor:
        """Return 1 for each completion of this process that is part of the loss, (completions,)."""
        counts = ~gathered["/raw"].isnan()
        if self.args.mask_truncated_completions:
            counts &= gathered["/finished"].bool()
        if self.args.drop_zero_std_groups and self.mode == "train":
            counts &= ~gathered["/zero_std"].bool()
        own = len(counts) // self.accelerator.num_processes
        return counts[self.accelerator.process_index * own :][:own].long()

    # Updates: batches of the sample, and their loss.

    def _split(self, drawn: Sample) -> list[tuple[Tensor, Tensor]]:
        """Return the rows of every batch, reshuffled in each pass, with their normalizers."""
        args = self.args
        batches: list[Tensor] = []
        for _ in range(args.num_iterations):
            batches += torch.randperm(len(drawn["ids"])).chunk(args.steps_per_generation)
        step = args.gradient_accumulation_steps
        if len(batches) % step:  # a step spans two samples: give all batches the same weight
            step = 1
        steps = [torch.cat(batches[i : i + step]) for i in range(0, len(batches), step)]
        normalizers = self._normalizers(drawn, steps, samples=args.num_iterations / len(steps))
        equal = args.gradient_accumulation_steps // step
        return [(rows, equal * normalizers[i // step]) for i, rows in enumerate(batches)]

    def _normalizers(self, drawn: Sample, steps: list[Tensor], samples: float) -> list[Tensor]:
        """Return the divisor of each optimizer step's sum over tokens, the same on each process.

        `samples` is the average fraction of the sample that a step uses.
        """
        mask = drawn["mask"]
        if self.args.loss_type == "bnpo":
            sizes = torch.stack([mask[rows.to(mask.device)].sum() for rows in steps]).float()
        elif self.args.loss_type == "dapo":
            sizes = mask.sum().float().expand(len(steps)) * samples
        else:
            longest = self.args.max_completion_length if self.args.loss_type == "dr_grpo" else 1
            sizes = mask.new_tensor([len(rows) * longest for rows in steps]).float()
        return list(self.accelerator.reduce(sizes, "mean").clamp(min=1).unbind())

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Train on the next batch, unless the remaining updates on this sample are skipped."""
        if self.stopped_early and self.batches:
            self.batches.pop(0)
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model: nn.Module, inputs: Sample, *_: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch: the sum of policy, value (gae) and KL (grpo) losses."""
        args, mask = self.args, inputs["mask"]
        if args.disable_dropout and not args.gradient_checkpointing:
            model.eval()
        logprobs, values, entropy = self._forward(model, inputs, self.value_head is not None, True)
        weight = mask / inputs["normalizer"]
        if args.loss_type == "grpo":
            weight = weight / mask.sum(dim=1, keepdim=True).clamp(min=1)
        log_ratio = (logprobs - inputs["old_logprobs"]) * mask
        surrogate = self._surrogate(log_ratio, inputs)
        terms = {"policy": (surrogate * weight).sum()}
        if values is not None:
            old, returns = inputs["values"], inputs["returns"]
            error = losses.clipped_value_error(values, old, returns, args.epsilon_value)
            terms["value"] = args.vf_coef * (error * weight).sum()
        if args.advantage_estimator == "grpo" and self.beta:
            k3 = losses.kl_estimates(logprobs, inputs["reference_logprobs"])[2]
            k3 = k3 * log_ratio.exp() if args.use_bias_correction_kl else k3
            terms["kl"] = self.beta * (k3 * weight).sum()
        self._log_loss(terms, log_ratio.detach(), entropy, mask)
        return sum(terms.values())

    def _surrogate(self, log_ratio: Tensor, inputs: Sample) -> Tensor:
        """Return the clipped loss of each token, or of its completion, (batch, time)."""
        args, mask, advantages = self.args, inputs["mask"], inputs["advantages"]
        if args.importance_sampling_level == "sequence":
            mean = args.advantage_estimator == "grpo"
            log_ratio = losses.sequence_log_ratio(log_ratio, mask, mean)
            advantages = advantages[:, :1]
        bounds = (args.epsilon, args.epsilon_high, args.delta)
        loss, low, high = losses.clipped_surrogate(log_ratio, advantages, *bounds)
        counted = mask[:, :1] if loss.shape[1] == 1 else mask
        metrics, tokens = self.metrics[self.mode], counted.sum()
        for name, where in (("low", low), ("high", high), ("region", low | high)):
            share = losses.masked_mean(where.float(), counted)
            metrics.add(f"clip_ratio/{name}_mean", share, tokens)
        return loss.expand_as(mask)

    def prediction_step(
        self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None, None]:
        """Sample completions of the evaluation prompts, and return their loss."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def evaluation_loop(
        self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate, and report metrics of rewards, KL and completions with the loss."""
        self.mode = "eval"
        try:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            output.metrics.update(self.metrics["eval"].flush(f"{metric_key_prefix}_"))
        finally:
            self.mode = "train"
        return output

    # Logs and checkpoints: metrics under TRL's names, stored completions, saved state.

    def _log_sample(self, gathered: dict[str, Tensor], scores: Tensor) -> None:
        """Log the sample's metrics under TRL's names, and adapt β."""
        add, args = self.metrics[self.mode].add, self.args
        length, finished = gathered["/length"], gathered["/finished"]
        ended = length[finished.bool()] if finished.any() else torch.zeros(1, device=length.device)
        for name, lengths in (("", length), ("terminated_", ended)):
            add(f"completions/mean_{name}length", lengths.mean())
            add(f"completions/min_{name}length", lengths.min())
            add(f"completions/max_{name}length", lengths.max())
        add("completions/clipped_ratio", 1 - finished.mean())
        for name in self.rewards.names:
            add(f"rewards/{name}/mean", gathered[name].nanmean())
            add(f"rewards/{name}/std", losses.nanstd(gathered[name], dim=0).squeeze())
        add("reward", gathered["/raw"].nanmean())
        add("reward_std", losses.nanstd(gathered["/raw"], dim=0).squeeze())
        generations = args.num_generations if self.mode == "train" else args.generations_eval
        spread = losses.nanstd(scores.view(-1, generations), dim=1)
        zero = (spread < losses.EPSILON) & (generations > 1)
        gathered["/zero_std"] = zero.float().expand(-1, generations).flatten()
        if generations > 1:
            add("frac_reward_zero_std", zero.float().mean())
        if self.generation_config.do_sample is False:
            add("sampling/logp_difference", gathered["/difference"].sum() / length.sum())
        if self.reference is not None:
            self._log_kl(gathered, length.sum())
        beta = 0.0 if args.advantage_estimator == "grpo" else self.beta  # grpo has KL in the loss
        add("reward/after_kl", (scores - beta * gathered["/k1"]).nanmean())

    def _log_kl(self, gathered: dict[str, Tensor], tokens: Tensor) -> None:
        add, grpo = self.metrics[self.mode].add, self.args.advantage_estimator == "grpo"
        for name in ("k1", "k3"):
            add(f"kl/{name}_per_sequence", gathered[f"/{name}"].mean())
            add(f"kl/{name}_per_token", gathered[f"/{name}"].sum() / tokens)
        add("kl", gathered["/k3" if grpo else "/k1"].sum() / tokens)
        if self.mode == "eval":
            return
        add("beta", self.beta)
        if (target := self.args.kl_target) is not None:
            kl, count = gathered["/k1"].mean().item(), len(gathered["/k1"])
            self.next_beta = losses.adapted_beta(self.beta, kl, target, count, self.args.kl_horizon)

    def _log_loss(
        self, terms: dict[str, Tensor], log_ratio: Tensor, entropy: Tensor, mask: Tensor
    ) -> None:
        add, tokens = self.metrics[self.mode].add, mask.sum()
        for name, term in terms.items():
            add(f"loss/{name}", term)
        add("ratio", losses.masked_mean(log_ratio.exp(), mask), tokens)
        add("entropy", losses.masked_mean(entropy, mask), tokens)
        if self.mode == "train":
            k3 = losses.kl_estimates(torch.zeros_like(log_ratio), log_ratio)[2]
            self.drift += torch.stack([(k3 * mask).sum(), tokens.float()])

    def _store_completions(
        self, inputs: list[dict[str, Any]], texts: list[str], rewards: Tensor, advantages: Tensor
    ) -> None:
        """Store some completions for `completions`, and the last sample for printing."""
        columns = dict(zip(self.rewards.names, rewards.T.tolist(), strict=True))
        extra = {name: values for name, values in self.extra.items() if len(values) == len(texts)}
        self.extra.clear()
        if self.mode == "eval":
            return
        prompts = [row["prompt"] for row in inputs]
        self.shown = {"prompts": prompts, "completions": texts, "rewards": columns, "extra": extra}
        first = self.accelerator.process_index * len(texts)
        self.shown["advantages"] = advantages[first : first + len(texts)].tolist()
        for i in range(min(self.args.num_completions_to_keep, len(texts))):
            row = {"step": self.state.global_step + 1, "prompt": prompts[i], "completion": texts[i]}
            self.stored.append(row | {name: v[i] for name, v in (columns | extra).items()})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and add the means of all metrics since the last log."""
        training = "loss" in logs or "train_loss" in logs
        if training:
            logs |= self.metrics["train"].flush()
        super().log(logs, start_time)
        if training and self.args.log_completions and self.shown and self.is_world_process_zero():
            shown, step = self.shown, self.state.global_step
            count = self.args.num_completions_to_print
            if is_rich_available():
                print_prompt_completions_sample(**shown, step=step, num_samples=count)
            else:
                print(pd.DataFrame({n: shown[n] for n in ("prompts", "completions")}).head(count))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the Trainer's optimizer, with a separate learning rate for the value head."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.value_head is None:
            return optimizer
        head, rate = list(self.value_head.linear.parameters()), self.args.value_learning_rate
        ids, groups = {id(p) for p in head}, optimizer.param_groups
        if given and any(id(p) in ids for group in groups for p in group["params"]):
            return optimizer  # train() was called before
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in ids]
        group = {"params": head, "lr": rate, "initial_lr": rate, "weight_decay": 0.0}
        optimizer.add_param_group(group)
        if self.lr_scheduler is not None:  # passed by the caller, so without the head
            self.lr_scheduler.base_lrs.append(rate)
            if hasattr(self.lr_scheduler, "lr_lambdas"):
                self.lr_scheduler.lr_lambdas.append(self.lr_scheduler.lr_lambdas[-1])
        return optimizer

    def save_merged(self, folder: str | Path) -> None:
        """Save the trained policy as a plain model, with its adapter merged in float32."""
        policy = copy.deepcopy(self.policy).float()
        policy = policy.merge_and_unload() if isinstance(policy, PeftModel) else policy
        head = policy.get_output_embeddings().weight
        if any(m.weight is head for m in policy.modules() if isinstance(m, nn.Embedding)):
            policy.config.tie_word_embeddings = True  # peft checks only the encoder's embedding
        policy.to(self.policy.dtype).save_pretrained(folder, state_dict=_without_head(policy))
        self.processing_class.save_pretrained(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the model or adapter, the tokenizer, and the state that a resumed run needs."""
        folder = Path(output_dir or self.args.output_dir)
        policy, arguments = self.policy, {}
        if isinstance(policy, PeftModel):
            arguments["selected_adapters"] = [policy.active_adapter]
        policy.save_pretrained(folder, state_dict=_without_head(policy, state_dict), **arguments)
        self.processing_class.save_pretrained(folder)
        state = {"beta": torch.tensor(self.next_beta, dtype=torch.float64)}
        if self.value_head is not None:
            state |= {f"value_head.{n}": t for n, t in self.value_head.state_dict().items()}
        if self.args.sync_ref_model:
            state |= {f"reference.{n}": t for n, t in self.reference.model.state_dict().items()}
        save_file({n: t.contiguous().clone() for n, t in state.items()}, folder / STATE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        check_recipe(folder, self.recipe)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = load_file(folder / STATE_FILE)
        self.next_beta = state.pop("beta").item()
        for prefix, module in (("value_head.", self.value_head), ("reference.", self.reference)):
            own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            if own:
                getattr(module, "model", module).load_state_dict(own)


def _rows(drawn: Sample, rows: Tensor | slice) -> Sample:
    """Select rows of a sample; a slice copies nothing."""
    prompts = {name: tensor[rows] for name, tensor in drawn["prompts"].items()}
    return {name: t[rows] for name, t in drawn.items() if name != "prompts"} | {"prompts": prompts}


def _without_head(model: nn.Module, state: dict | None = None) -> dict[str, Tensor]:
    state = model.state_dict() if state is None else state
    return {name: t for name, t in state.items() if not name.startswith("value_head.")}
