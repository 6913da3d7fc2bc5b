"""Full and LoRA fine-tuning on Seq2SeqTrainer."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from utils.generation import MAX_NEW_TOKENS, generate
from utils.models import parameter_counts, use_bf16
from utils.prompts import PLAIN, build_prompt
from utils.rouge import rouge_scores

LEARNING_RATES = {"full": 1e-4, "lora": 1e-3}


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what is kept."""


@dataclass(frozen=True)
class FineTuningResult:
    """A fine-tuned model and how it came about.

    `history` holds one row per log entry (step, epoch, loss, learning_rate, eval_loss, eval_rouge1, …).
    """

    model: PreTrainedModel | PeftModel
    method: str
    history: pd.DataFrame
    parameters: dict[str, float]
    seconds: float
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
        summaries = batch["summary"] if "summary" in batch else [texts[0] for texts in batch["summaries"]]
        encoded = tokenizer(prompts, max_length=max_prompt_tokens, truncation=True)
        labels = tokenizer(text_target=summaries, max_length=max_summary_tokens, truncation=True)
        return {**encoded, "labels": labels["input_ids"]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="tokenize")


class _EvaluateByRouge(Seq2SeqTrainer):
    """Adds the validation dialogues' ROUGE, from generated summaries, to every evaluation."""

    rouge_rows: Dataset
    template: str
    max_new_tokens: int

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """One step, refused before its gradient is applied if the loss is not a number."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: lower the learning rate "
                f"(now {self.args.learning_rate}); checkpoints written before that remain in {self.args.output_dir}"
            )
        return loss

    def evaluate(self, *args, metric_key_prefix: str = "eval", **kwargs):
        metrics = super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        prompts = [build_prompt(dialogue, template=self.template) for dialogue in self.rouge_rows["dialogue"]]
        with self.compute_loss_context_manager():
            predictions = generate(self.model, self.processing_class, prompts, max_new_tokens=self.max_new_tokens)
        column = "summary" if "summary" in self.rouge_rows.column_names else "summaries"
        scores = rouge_scores(predictions, self.rouge_rows[column]).mean()
        rouge = {f"{metric_key_prefix}_{name}": float(value) for name, value in scores.items()}
        self.log(rouge)
        return metrics | rouge


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
    max_new_tokens: int = MAX_NEW_TOKENS,
    resume: bool = False,
    **arguments: Any,
) -> FineTuningResult:
    """Train on (prompt, summary) pairs; keep the checkpoint whose validation ROUGE-1 is best.

    `train` and `validation` are rows of `load_dialogsum` or `group_references`. "full" trains `model` itself; "lora"
    trains an adapter (`peft_config`, by default `lora_config()`) put into `model`: give it a copy if the original is
    still needed. Labels are padded with −100, batches are padded to their longest row and grouped by length; weights
    are float32, under bf16 autocast where `precision` allows. `arguments` go to Seq2SeqTrainingArguments. With
    `resume`, training goes on from the newest checkpoint in `output_dir`.

    Raises:
        ValueError: an unknown method, or a peft_config with method "full".
        TrainingError: the loss is not a number.
    """
    if method not in LEARNING_RATES:
        raise ValueError(f"unknown method {method!r}: choose {' or '.join(LEARNING_RATES)}")
    if arguments.get("fp16"):
        raise ValueError("fp16=True overflows T5's feed-forward output: choose precision='auto', 'fp32' or 'bf16'")
    if method == "full" and peft_config is not None:
        raise ValueError("peft_config is given with method 'full': choose method='lora' to train an adapter")
    set_seed(arguments.get("seed", TrainingArguments.seed))  # before the adapter draws its first weights
    if method == "lora":
        model = get_peft_model(model, peft_config or lora_config())
    trainer = _EvaluateByRouge(
        model=model,
        args=_training_arguments(model, method, output_dir, precision, arguments),
        train_dataset=tokenize_pairs(train, tokenizer, template, max_prompt_tokens, max_new_tokens),
        eval_dataset=tokenize_pairs(validation, tokenizer, template, max_prompt_tokens, max_new_tokens),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
        processing_class=tokenizer,
    )
    trainer.rouge_rows, trainer.template, trainer.max_new_tokens = validation, template, max_new_tokens
    trainer.remove_callback(PrinterCallback)
    outcome = trainer.train(resume_from_checkpoint=resume or None)
    model.eval()
    return FineTuningResult(
        model,
        method,
        pd.DataFrame(trainer.state.log_history),
        parameter_counts(model),
        outcome.metrics["train_runtime"],
        output_dir,
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
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": use_bf16(precision, model.device),
        "use_cpu": model.device.type == "cpu",
    }
    return Seq2SeqTrainingArguments(output_dir=output_dir, **defaults | arguments)
