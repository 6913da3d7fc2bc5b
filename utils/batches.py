"""Pairs of prompt and summary as token ids, and batches of them: of like length, padded to the longest."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Seq2SeqTrainer
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from utils.prompts import PLAIN, build_prompt

TENSOR_CORES = 8  # a GPU's matrix units want lengths in multiples of so many


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


def pad_ids(rows: Sequence[Sequence[int]], value: int, multiple_of: int = 1) -> torch.Tensor:
    """Rows of token ids as one tensor of shape (rows, longest), with `value` after the end of the shorter ones.

    The longest is rounded up to a multiple. A tokenizer's own `pad` takes forty times as long, and a GPU waits for it.
    """
    longest = max(map(len, rows))
    padded = np.full((len(rows), -(-longest // multiple_of) * multiple_of), value)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


class PadPairs:
    """Collates rows of `tokenize_pairs`, as `DataCollatorForSeq2Seq` does: labels are padded with −100, and the decoder
    reads them shifted by one.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.multiple_of = TENSOR_CORES if model.device.type == "cuda" else 1

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask of shape (rows, prompt); labels and decoder_input_ids (rows, summary)."""
        fill = {"input_ids": self.model.config.pad_token_id, "attention_mask": 0, "labels": -100}
        batch = {name: pad_ids([row[name] for row in rows], value, self.multiple_of) for name, value in fill.items()}
        shifted = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return batch | {"decoder_input_ids": shifted}


class LengthGroups(LengthGroupedSampler):
    """Batches of like length, in an order that follows from the seed and the epoch alone: a resumed run sees the same
    batches as one that was not stopped, and so does each of several processes.
    """

    def __init__(self, trainer: Seq2SeqTrainer, lengths: list[int], batch_size: int):
        super().__init__(batch_size, lengths=lengths)
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        """Numbers of rows, batch after batch."""
        epoch = int((self.trainer.state.epoch or 0) + 1e-6)
        generator = torch.Generator().manual_seed(self.trainer.args.seed + epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
