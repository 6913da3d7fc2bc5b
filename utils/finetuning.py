"""Full and LoRA fine-tuning on Seq2SeqTrainer."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from datasets import Dataset
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from torch import nn
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices
from transformers.trainer_utils import EvalLoopOutput

from utils.generation import MAX_NEW_TOKENS, generate
from utils.models import parameter_counts, use_bf16
from utils.ppo.checkpointing import GuardedTrainer, Recipe, check_recipe, last_whole_checkpoint
from utils.progress import EstimateCallback
from utils.prompts import PLAIN, build_prompt
from utils.rouge import rouge_scores
from utils.settings import Settings
from utils.training.cpu import use_fast_layers
from utils.training.memory import activation_bytes, device_memory, freed_memory_kept, peak_memory

LOG = logging.getLogger(__name__)
LEARNING_RATES = {"full": 1e-4, "lora": 1e-3}


@dataclass(frozen=True)
class FineTuningResult:
    """A fine-tuned model and how it came about.

    `history` holds one row per log entry (step, epoch, loss, learning_rate, eval_loss, eval_rouge1, …); `recipe` is
    what was asked for, and `epochs` the passes over train. `kept` tells which weights the model has, and `checkpoint`
    is their folder, None where they were not written. `seconds` are those of this process, evaluations included;
    `batch_size` is what one device took at a time in the end; `peak_megabytes` is the memory of training above that of
    the loaded model.
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
    output_dir: str


def lora_config(rank: int = 32, **changes: Any) -> LoraConfig:
    """LoRA on the query and value projections, as in Hu et al. 2021; alpha = rank, so that W + BA is not scaled."""
    return LoraConfig(
        **{
            "task_type": TaskType.SEQ_2_SEQ_LM,
            "r": rank,
            "lora_alpha": rank,
            "lora_dropout": 0.05,
            "target_modules": ["q", "v"],
        }
        | changes
    )


def finetune_arguments(settings: Settings, method: str, **changes: Any) -> dict[str, Any]:
    """Return the keyword arguments that the settings give to `fine_tune`; `changes` override them.

    They include `method`: call `fine_tune(model, tokenizer, train, validation, **arguments)`.

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
    } | changes


def _check_method(method: str) -> None:
    if method not in LEARNING_RATES:
        raise ValueError(f"unknown method {method!r}: choose {' or '.join(LEARNING_RATES)}")


def tokenize_pairs(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    template: str = PLAIN,
    max_prompt_tokens: int = 1024,
    max_summary_tokens: int = 128,
) -> Dataset:
    """Prompts and summaries as token ids: input_ids, attention_mask and labels, unpadded.

    A row of `group_references` counts with its first summary. Longer texts are cut at the limits.
    """

    def encode(batch: dict[str, list]) -> dict[str, list]:
        """Token ids of a batch of rows."""
        prompts = [build_prompt(dialogue, template=template) for dialogue in batch["dialogue"]]
        summaries = (
            batch["summary"] if "summary" in batch else [texts[0] for texts in batch["summaries"]]
        )
        encoded = tokenizer(prompts, max_length=max_prompt_tokens, truncation=True)
        labels = tokenizer(text_target=summaries, max_length=max_summary_tokens, truncation=True)
        return {**encoded, "labels": labels["input_ids"]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="tokenize")


def token_loss(
    outputs: Seq2SeqLMOutput,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy in float32, every label token of the whole batch with the same weight.

    `num_items_in_batch` counts the labels of all parts over which a batch is accumulated, on all devices. T5's own loss
    is the mean of one part: accumulated, the tokens of a part with short summaries would weigh more.
    """
    logits = outputs["logits"]  # (batch, time, vocabulary)
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=-100,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)


class _LengthGroups(LengthGroupedSampler):
    """Batches of like length, in an order that follows from the seed and the epoch alone: a resumed run sees the same
    batches as one that was not stopped, and so does each of several processes.
    """

    def __init__(self, trainer: Seq2SeqTrainer, lengths: list[int], batch_size: int):
        super().__init__(batch_size, lengths=lengths)
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        epoch = int((self.trainer.state.epoch or 0) + 1e-6)
        generator = torch.Generator().manual_seed(self.trainer.args.seed + epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


class _EvaluateByRouge(GuardedTrainer, Seq2SeqTrainer):
    """Adds the validation dialogues' ROUGE, from generated summaries, to every evaluation."""

    rouge_rows: Dataset
    template: str
    max_new_tokens: int

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(ids) for ids in rows["input_ids"]]
        global_batch = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size
        )
        return _LengthGroups(self, lengths, global_batch)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """One step, in parts whose gradients add up where the prompts are too long for one."""
        *parts, last = self._parts(inputs)
        loss = torch.zeros((), device=self.args.device)
        for part in parts:
            with self.accelerator.no_sync(
                model
            ):  # several processes meet once a step, however many parts each has
                loss += super().training_step(model, part, num_items_in_batch)
        return loss + super().training_step(model, last, num_items_in_batch)

    def _parts(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """The batch in as few parts of rows as keep the activations of each within a quarter of the memory."""
        rows, tokens = inputs["input_ids"].shape
        most = (
            device_memory(self.args.device) / 4
        )  # weights, gradients and the optimizer's moments need theirs
        count = min(rows, math.ceil(activation_bytes(self.model.config, rows, tokens) / most))
        return [
            {name: t[part] for name, t in inputs.items()}
            for part in torch.arange(rows).tensor_split(count)
        ]

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args, **kwargs):
        """Without a cache, which T5's decoder, having a config of its own, would fill whatever the Trainer's says."""
        return super().compute_loss(model, inputs | {"use_cache": False}, *args, **kwargs)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        prompts = [
            build_prompt(dialogue, template=self.template)
            for dialogue in self.rouge_rows["dialogue"]
        ]
        with (
            self.accelerator.autocast(),
            self.accelerator.split_between_processes(prompts) as own_prompts,
        ):
            own = generate(
                self.model, self.processing_class, own_prompts, max_new_tokens=self.max_new_tokens
            )
        predictions = gather_object(own)
        column = "summary" if "summary" in self.rouge_rows.column_names else "summaries"
        scores = rouge_scores(predictions, self.rouge_rows[column]).mean()
        output.metrics.update(
            {f"{metric_key_prefix}_{name}": float(value) for name, value in scores.items()}
        )
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
    """Train on (prompt, summary) pairs; keep the checkpoint whose validation ROUGE-1 is best.

    `train` and `validation` are rows of `load_dialogsum` or `group_references`. "full" trains `model` itself; "lora"
    trains an adapter (`peft_config`, by default `lora_config()`) put into `model`: give it a copy if the original is
    still needed. Prompts and summaries are cut at `max_prompt_tokens` and `max_summary_tokens`; validation summaries
    have `max_new_tokens` at most. Labels are padded with −100, batches are padded to their longest row and grouped by
    length; weights are float32, under bf16 autocast where `precision` allows. `arguments` go to
    Seq2SeqTrainingArguments, `callbacks` to the trainer.

    With `resume`, training goes on from the newest whole checkpoint in `output_dir`, or starts where there is none.
    A batch whose prompts are too long for the memory is computed in parts whose gradients add up. Where memory runs out
    all the same, smaller batches are accumulated to the same size.

    Raises:
        ValueError: an unknown method, a peft_config with method "full", "full" for a quantized model, weights of half
            precision, or a checkpoint of another run.
        TrainingError: the gradient or the weights are not finite, or a checkpoint cannot be written.
    """
    _check_request(model, method, peft_config, arguments)
    set_seed(
        arguments.get("seed", TrainingArguments.seed)
    )  # before the adapter draws its first weights
    if method == "lora":
        model = _with_adapter(model, peft_config or lora_config())
    use_fast_layers(model)
    checkpoint = last_whole_checkpoint(output_dir) if resume else None
    if resume:
        LOG.warning(
            "going on from %s", checkpoint or f"the beginning: {output_dir} has no whole checkpoint"
        )
    train_rows, validation_rows = (
        tokenize_pairs(rows, tokenizer, template, max_prompt_tokens, max_summary_tokens)
        for rows in (train, validation)
    )
    args = _training_arguments(model, method, output_dir, precision, arguments)
    recipe = {"method": method, "template": template, "train_dialogues": len(train)} | _recipe(args)
    if checkpoint:
        check_recipe(checkpoint, recipe)

    def build(sizes: dict[str, int]) -> _EvaluateByRouge:
        """A trainer with these batch sizes in place of those asked for."""
        trainer = _EvaluateByRouge(
            model=model,
            args=_training_arguments(model, method, output_dir, precision, arguments | sizes),
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
            processing_class=tokenizer,
            compute_loss_func=partial(token_loss, label_smoothing=args.label_smoothing_factor),
            callbacks=[EstimateCallback(), Recipe(**recipe), *callbacks],
        )
        trainer.rouge_rows, trainer.template, trainer.max_new_tokens = (
            validation,
            template,
            max_new_tokens,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    start = time.perf_counter()
    with freed_memory_kept():
        with peak_memory(model.device) as memory:
            trainer = _train_within_memory(build, checkpoint)
        model.eval().zero_grad(set_to_none=True)
        result = _result(trainer, recipe, time.perf_counter() - start, memory.megabytes)
        del trainer, build  # with the optimizer's moments, twice the model's size
        clear_device_cache(garbage_collection=True)
    return result


def _with_adapter(model: PreTrainedModel, peft_config: PeftConfig) -> PeftModel:
    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, peft_config)


def _recipe(args: Seq2SeqTrainingArguments) -> dict[str, Any]:
    """What must be the same for two runs of the same length to be one; batches count on all devices."""
    return {
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(args.lr_scheduler_type.value),
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "seed": args.seed,
    }


def _result(
    trainer: _EvaluateByRouge, recipe: dict[str, Any], seconds: float, peak_megabytes: float
) -> FineTuningResult:
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    return FineTuningResult(
        model=trainer.model,
        method=recipe["method"],
        recipe=recipe,
        epochs=trainer.state.epoch,
        kept=f"best {trainer.args.metric_for_best_model}" if best else "last",
        history=pd.DataFrame(trainer.state.log_history),
        parameters=parameter_counts(trainer.model),
        seconds=seconds,
        peak_megabytes=peak_megabytes,
        batch_size=trainer.args.per_device_train_batch_size,
        checkpoint=Path(best) if best else trainer.written,
        output_dir=trainer.args.output_dir,
    )


def _train_within_memory(
    build: Callable[[dict[str, int]], _EvaluateByRouge], checkpoint: Path | None
) -> _EvaluateByRouge:
    """Train; where memory runs out, take the next smaller part of the batch that accumulates to the same size, and go
    on from a checkpoint of the last whole step, or from the start if none was taken yet.
    """
    sizes: dict[str, int] = {}
    while True:
        trainer = build(sizes)
        try:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            return trainer
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or trainer.args.per_device_train_batch_size == 1:
                raise
        trainer.model.zero_grad(set_to_none=True)
        step = trainer.state.global_step
        whole = trainer.args.per_device_train_batch_size
        batch_size = next(part for part in range(whole // 2, 0, -1) if whole % part == 0)
        accumulation = trainer.args.gradient_accumulation_steps * (whole // batch_size)
        sizes = {
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
        }
        if step > 0 and (checkpoint is None or checkpoint.name != f"checkpoint-{step}"):
            trainer._save_checkpoint(trainer.model, trial=None)
            checkpoint = trainer.written
        del trainer
        clear_device_cache(garbage_collection=True)
        LOG.warning(
            "memory ran out at step %d: going on with batches of %d, accumulated over %d",
            step,
            batch_size,
            accumulation,
        )


def _check_request(
    model: PreTrainedModel, method: str, peft_config: PeftConfig | None, arguments: dict[str, Any]
) -> None:
    _check_method(method)
    if arguments.get("fp16"):
        raise ValueError(
            "fp16=True overflows T5's feed-forward output: choose precision='auto', 'fp32' or 'bf16'"
        )
    if method == "full" and peft_config is not None:
        raise ValueError(
            "peft_config is given with method 'full': choose method='lora' to train an adapter"
        )
    if method == "full" and getattr(model, "is_quantized", False):
        raise ValueError(
            "a quantized model cannot be trained in full: choose method='lora' to train an adapter on it"
        )
    if getattr(model, "is_quantized", False):
        return
    refused = {torch.float16} if method == "lora" else {torch.float16, torch.bfloat16}
    if halves := refused & {parameter.dtype for parameter in model.parameters()}:
        raise ValueError(
            f"the model's weights are {halves.pop()}: load it with dtype=torch.float32; precision='bf16' computes in "
            "bf16 over them"
        )


def _training_arguments(
    model: PreTrainedModel, method: str, output_dir: str, precision: str, arguments: dict[str, Any]
) -> Seq2SeqTrainingArguments:
    defaults = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "learning_rate": LEARNING_RATES[method],
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
        "disable_tqdm": True,
        "bf16": use_bf16(precision, model.device),
        "use_cpu": model.device.type == "cpu",
    }
    if arguments.get("learning_rate") is None:  # the default of the method
        arguments = {name: value for name, value in arguments.items() if name != "learning_rate"}
    return Seq2SeqTrainingArguments(output_dir=output_dir, **defaults | arguments)
