"""Fine-tune encoder-decoder models, fully or with LoRA, on dialogues and their summaries."""

import copy
import inspect
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel, prepare_model_for_kbit_training
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    set_seed,
)
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput
from trl.trainer.utils import hash_module

from utils.data import check_texts
from utils.generation import MAX_NEW_TOKENS, generate
from utils.models import parameter_counts, use_bf16
from utils.ppo.checkpointing import CheckedTrainer, Recipe, check_recipe, last_whole_checkpoint
from utils.ppo.setup import with_adapter
from utils.prompts import PLAIN, build_prompt
from utils.rouge import rouge_scores
from utils.settings import Settings, unknown
from utils.training.cpu import use_cpu_speedups
from utils.training.memory import activation_bytes, device_memory

LOG = logging.getLogger(__name__)
LEARNING_RATES = {"full": 1e-4, "lora": 1e-3}  # if the caller gives none


@dataclass(frozen=True)
class FineTuningResult:
    """A fine-tuned model and how it was trained.

    `recipe` holds the settings that must match when a run is resumed. `kept` says which weights the
    model has; `checkpoint` is their folder, or None if they were not saved. `history` has one row
    per log entry (step, epoch, loss, learning_rate, eval_loss, eval_rouge1, …). `seconds`
    includes evaluation. `peak_megabytes` is the peak memory beyond that of the loaded model (on a
    CPU, the growth of the process, which is too low if earlier work left memory free), and
    `batch_size` is the final number of dialogues that one device takes at a time.
    """

    model: PreTrainedModel | PeftModel
    method: str
    recipe: dict[str, Any]
    epochs: float
    kept: str
    history: pd.DataFrame
    parameters: dict[str, float]
    seconds: float
    peak_megabytes: float
    batch_size: int
    checkpoint: Path | None


def lora_config(rank: int = 32, **changes: Any) -> LoraConfig:
    """Return a LoRA configuration with alpha = rank, so that W + BA is not scaled (Hu et al. 2021).

    `fine_tune` adapts the query and value projections, unless `target_modules` names others.
    """
    defaults = {"task_type": "SEQ_2_SEQ_LM", "r": rank, "lora_alpha": rank, "lora_dropout": 0.05}
    return LoraConfig(**defaults | changes)


def finetune_arguments(settings: Settings, method: str, **changes: Any) -> dict[str, Any]:
    """Return the keyword arguments of `fine_tune` for these settings; `changes` override them.

    They include `method`, so call `fine_tune(model, tokenizer, train, validation, **arguments)`.

    Raises ValueError if the method is unknown.
    """
    _check_method(method)
    return {
        "method": method,
        "peft_config": lora_config(settings.lora_rank) if method == "lora" else None,
        "precision": settings.precision,
        "max_prompt_tokens": settings.max_prompt_tokens,
        "max_new_tokens": settings.max_new_tokens,
        "num_train_epochs": getattr(settings, f"{method}_epochs"),
        "learning_rate": getattr(settings, f"{method}_learning_rate"),
        "per_device_train_batch_size": settings.batch_size,
        "seed": settings.seed,
        "resume": settings.resume,
    } | changes


def tokenize_pairs(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    template: str = PLAIN,
    max_prompt_tokens: int = 1024,
    max_summary_tokens: int = 128,
) -> Dataset:
    """Turn dialogues and summaries into unpadded token ids: input_ids, attention_mask and labels.

    A row with several `summaries` uses the first. Longer texts are truncated. Labels end in the
    end-of-sequence token, even if the tokenizer adds only a start token, as Gemma's does.
    """
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id

    def ended(ids: list[int]) -> list[int]:
        if end is None or ids[-1:] == [end]:
            return ids
        return [*ids[int(ids[:1] == [start]) :][: max_summary_tokens - 1], end]

    def encode(batch: dict[str, list]) -> dict[str, list]:
        prompts = [build_prompt(dialogue, template=template) for dialogue in batch["dialogue"]]
        summaries = batch.get("summary") or [texts[0] for texts in batch["summaries"]]
        inputs = tokenizer(prompts, max_length=max_prompt_tokens, truncation=True)
        labels = tokenizer(text_target=summaries, max_length=max_summary_tokens, truncation=True)
        kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return kept | {"labels": [ended(ids) for ids in labels["input_ids"]]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="tokenize")


def token_loss(
    outputs: Seq2SeqLMOutput,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the cross-entropy in float32, with the same weight for every label token of a batch.

    `labels` are (batch, time), padded with −100. `num_items_in_batch` counts the label tokens of
    all accumulated parts on all devices. T5's own loss, the mean of each part, would give more
    weight to the tokens of parts with short summaries.
    """
    logits = outputs["logits"].flatten(0, 1).float()  # (batch × time, vocabulary)
    loss = cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=label_smoothing)
    return loss / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)


class ProgressBar(ProgressCallback):
    """The Trainer's progress bar, with the loss beside it instead of log entries above it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the newest loss."""
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=logs["loss"])


class _LengthGroups(LengthGroupedSampler):
    """Sample batches of similar length, in an order that depends only on the seed and the epoch.

    A resumed run therefore sees the same batches as an uninterrupted one, and all processes agree.
    """

    def __init__(self, trainer: Seq2SeqTrainer, rows: Dataset):
        super().__init__(_global_batch(trainer.args), lengths=[len(r) for r in rows["input_ids"]])
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        epoch = int((self.trainer.state.epoch or 0) + 1e-6)
        self.generator = torch.Generator().manual_seed(self.trainer.args.seed + epoch)
        return super().__iter__()


class SummaryTrainer(CheckedTrainer, Seq2SeqTrainer):
    """A Seq2SeqTrainer that adds the ROUGE of generated summaries to every evaluation.

    `validation` holds dialogues and references, and `generation` the arguments of `generate`.
    """

    def __init__(self, validation: Dataset, template: str, generation: dict, **arguments: Any):
        super().__init__(**arguments)
        self.references = list(validation[_summary_column(validation)])
        self.prompts = [build_prompt(text, template=template) for text in validation["dialogue"]]
        self.generation, self.peak_bytes = generation, 0
        self.remove_callback(PrinterCallback)  # it prints every log entry as a dict
        if self.pop_callback(ProgressCallback):
            self.add_callback(ProgressBar)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return _LengthGroups(self, self.train_dataset if train_dataset is None else train_dataset)

    def training_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], *args, **kwargs
    ) -> torch.Tensor:
        """Take a step, and split a batch of long prompts into parts whose gradients add up."""
        *parts, last = self._parts(inputs)
        loss = torch.zeros((), device=self.args.device)
        for part in parts:
            with self.accelerator.no_sync(model):  # processes exchange gradients once a step
                loss += super().training_step(model, part, *args, **kwargs)
        return loss + super().training_step(model, last, *args, **kwargs)

    def _parts(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Split a batch into the fewest parts whose activations fit into a quarter of the memory.

        The rest is for weights, gradients and the optimizer state.
        """
        rows, tokens = inputs["input_ids"].shape
        needed = activation_bytes(self.model.get_encoder().config.get_text_config(), rows, tokens)
        count = min(rows, math.ceil(needed / (device_memory(self.args.device) / 4)))
        numbers = torch.arange(rows).tensor_split(count)
        return [{name: tensor[part] for name, tensor in inputs.items()} for part in numbers]

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args, **kwargs):
        """Compute the loss without a cache, because T5's decoder ignores the Trainer's setting."""
        base = getattr(self.model, "get_base_model", lambda: self.model)()
        if "use_cache" in inspect.signature(base.forward).parameters:
            inputs = inputs | {"use_cache": False}
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.peak_bytes = max(self.peak_bytes, _memory_in_use(self.args.device))
        return loss

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """Compute the loss, then generate the summaries, and add their ROUGE to the metrics."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        with (
            self.accelerator.autocast(),
            self.accelerator.split_between_processes(self.prompts) as prompts,
        ):
            own = generate(self.model, self.processing_class, prompts, **self.generation)
        means = rouge_scores(gather_object(own), self.references).mean()
        output.metrics.update({f"{metric_key_prefix}_{k}": float(v) for k, v in means.items()})
        return output


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    validation: Dataset,
    method: str = "full",
    output_dir: str = "out/finetuning",
    *,
    peft_config: PeftConfig | None = None,
    template: str = PLAIN,
    precision: str = "auto",
    max_prompt_tokens: int = 1024,
    max_summary_tokens: int = 128,
    max_new_tokens: int = MAX_NEW_TOKENS,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> FineTuningResult:
    """Train on dialogues and summaries, and keep the checkpoint with the best validation ROUGE-1.

    `train` and `validation` are rows of `load_dialogsum` or `group_references`. "full" trains
    `model` itself; "lora" adds an adapter to it (`peft_config`, by default `lora_config()`).
    Weights stay float32, with bf16 autocast if `precision` allows. `resume` continues from the
    newest complete checkpoint in `output_dir`. Batches are split if one device lacks the memory.
    `arguments` go to Seq2SeqTrainingArguments; a `learning_rate` of None is the method's default.
    Raises ValueError if an argument cannot be used or a checkpoint belongs to another run, and
    TrainingError if a gradient or weight is not finite or a checkpoint cannot be written.
    """
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_summary_tokens": max_summary_tokens}
    _check_model(model, method, peft_config)
    _check_data(train, validation, limits | {"max_new_tokens": max_new_tokens})
    args = _training_arguments(model, method, output_dir, precision, arguments)
    set_seed(args.seed)  # before the adapter is initialized
    if method == "lora":
        if getattr(model, "is_quantized", False):
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        model = with_adapter(model, peft_config or lora_config())
    recipe = _recipe(args, model, train, method=method, template=template)
    build = partial(
        SummaryTrainer,
        *(validation, template, {"max_new_tokens": max_new_tokens}),
        model=use_cpu_speedups(model),
        processing_class=tokenizer,
        train_dataset=tokenize_pairs(train, tokenizer, template, **limits),
        eval_dataset=tokenize_pairs(validation, tokenizer, template, **limits),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model, label_pad_token_id=-100),
        compute_loss_func=partial(token_loss, label_smoothing=args.label_smoothing_factor),
        callbacks=[Recipe(**recipe), *callbacks],
    )
    return _trained(build, args, recipe, _checkpoint(output_dir, recipe) if resume else None)


def _trained(
    build: partial[SummaryTrainer],
    args: Seq2SeqTrainingArguments,
    recipe: dict[str, Any],
    checkpoint: Path | None,
) -> FineTuningResult:
    """Train, then free the trainer and its optimizer state (twice the model's size)."""
    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    start, memory = time.perf_counter(), _memory_in_use(args.device)
    trainer = _train_within_memory(build, args, checkpoint)
    trainer.model.eval().zero_grad(set_to_none=True)
    args, state = trainer.args, trainer.state
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    result = FineTuningResult(
        model=trainer.model,
        method=recipe["method"],
        recipe=recipe,
        epochs=state.epoch,
        kept=f"best {args.metric_for_best_model}" if best else "last",
        history=pd.DataFrame(state.log_history),
        parameters=parameter_counts(trainer.model),
        seconds=time.perf_counter() - start,
        peak_megabytes=max(0, trainer.peak_bytes - memory) / 1e6,
        batch_size=args.per_device_train_batch_size,
        checkpoint=Path(best) if best else trainer.written,
    )
    del trainer
    clear_device_cache(garbage_collection=True)
    return result


def _train_within_memory(
    build: partial[SummaryTrainer], args: Seq2SeqTrainingArguments, checkpoint: Path | None
) -> SummaryTrainer:
    """Train; if memory runs out, continue with smaller batches that accumulate to the same size.

    Training continues from a checkpoint of the last complete step, or else from the start.
    """
    while True:
        trainer, whole = build(args=args), args.per_device_train_batch_size
        try:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            return trainer
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or whole == 1:
                raise
        trainer.model.zero_grad(set_to_none=True)
        step = trainer.state.global_step
        if step > 0 and (checkpoint is None or checkpoint.name != f"checkpoint-{step}"):
            trainer._save_checkpoint(trainer.model, trial=None)
            checkpoint = trainer.written
        del trainer
        clear_device_cache(garbage_collection=True)
        part = next(size for size in range(whole // 2, 0, -1) if whole % size == 0)
        count = args.gradient_accumulation_steps * whole // part
        args = copy.copy(args)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = part, count
        parts = f"batches of {part}, {count} per optimizer step"
        LOG.warning("out of memory at step %d: continuing with %s", step, parts)


def _memory_in_use(device: torch.device) -> int:
    """Return the bytes in use: on CUDA the peak since the last reset, else the current memory.

    The Trainer's own memory metrics poll in a busy loop and double the time of a step on a CPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def _recipe(
    args: Seq2SeqTrainingArguments, model: nn.Module, train: Dataset, **others: Any
) -> dict[str, Any]:
    """Return what must match when a run is resumed; `model` has its initial weights."""
    texts = json.dumps([list(train[name]) for name in ("dialogue", _summary_column(train))])
    return others | {
        "train_dialogues": len(train),
        "texts": sha256(texts.encode()).hexdigest()[:16],
        "initial_model": hash_module(model),
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(args.lr_scheduler_type.value),
        "batch_size": _global_batch(args),
        "weight_decay": args.weight_decay,
        "label_smoothing_factor": args.label_smoothing_factor,
        "seed": args.seed,
    }


def _global_batch(args: Seq2SeqTrainingArguments) -> int:
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def _checkpoint(output_dir: str, recipe: dict[str, Any]) -> Path | None:
    """Find the checkpoint to resume from, and check that it belongs to this run."""
    checkpoint = last_whole_checkpoint(output_dir)
    if checkpoint is None:
        LOG.warning("starting from the beginning: %s has no complete checkpoint", output_dir)
        return None
    LOG.warning("resuming from %s", checkpoint)
    check_recipe(checkpoint, recipe)
    return checkpoint


def _check_method(method: str) -> None:
    if method not in LEARNING_RATES:
        raise ValueError(f"unknown method {method!r}: choose {' or '.join(LEARNING_RATES)}")


def _check_model(model: PreTrainedModel, method: str, peft_config: PeftConfig | None) -> None:
    _check_method(method)
    if isinstance(model, PeftModel):
        raise ValueError("the model is a PeftModel: pass model.merge_and_unload() instead")
    if not model.config.is_encoder_decoder:
        raise ValueError(
            f"{model.config.model_type!r} is not an encoder-decoder: choose a model such as "
            "google/flan-t5-small, or train this one with TRL's SFTTrainer"
        )
    quantized = getattr(model, "is_quantized", False)
    if method == "full" and (quantized or peft_config is not None):
        reason = "the model is quantized" if quantized else "peft_config is given"
        raise ValueError(f"method='full', but {reason}: choose method='lora' to train an adapter")
    refused = {torch.float16} if method == "lora" else {torch.float16, torch.bfloat16}
    halves = refused & {parameter.dtype for parameter in model.parameters()}
    if halves and not quantized:
        raise ValueError(
            f"the model's weights are {halves.pop()}: load it with dtype=torch.float32; "
            "precision='bf16' then computes in bf16"
        )


def _check_data(train: Dataset, validation: Dataset, limits: dict[str, int]) -> None:
    for name, rows in (("train", train), ("validation", validation)):
        if len(rows) == 0:
            raise ValueError(f"{name} has no rows: pass at least one dialogue with its summary")
        column = _summary_column(rows)
        if "dialogue" not in rows.column_names or column is None:
            raise ValueError(
                f"{name} has the columns {rows.column_names}: it needs dialogue, and summary or "
                "summaries, as load_dialogsum and group_references return them"
            )
        told = [one if isinstance(one, str) else (one or [None])[0] for one in rows[column]]
        check_texts(f"{name} dialogue", rows["dialogue"])
        check_texts(f"{name} summary", told)
    for name, value in limits.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number, at least 1")


def _summary_column(rows: Dataset) -> str | None:
    return next((name for name in ("summary", "summaries") if name in rows.column_names), None)


def _training_arguments(
    model: PreTrainedModel, method: str, output_dir: str, precision: str, arguments: dict[str, Any]
) -> Seq2SeqTrainingArguments:
    known = {field.name for field in fields(Seq2SeqTrainingArguments)}
    for name in sorted(arguments.keys() - known):
        raise ValueError(unknown("training argument", name, known, "Seq2SeqTrainingArguments"))
    if arguments.get("fp16"):
        raise ValueError("fp16=True overflows in T5: choose precision='auto', 'fp32' or 'bf16'")
    defaults = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "warmup_steps": 0.05,  # a share of all steps
        "lr_scheduler_type": "cosine",
        "train_sampling_strategy": "group_by_length",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_rouge1",
        "greater_is_better": True,
        "logging_steps": 10,
        "logging_first_step": True,
        "report_to": "none",
        "bf16": use_bf16(precision, model.device),
        "use_cpu": model.device.type == "cpu",
    }
    chosen = defaults | arguments
    if chosen.get("learning_rate") is None:
        chosen["learning_rate"] = LEARNING_RATES[method]
    return Seq2SeqTrainingArguments(output_dir=output_dir, **chosen)
