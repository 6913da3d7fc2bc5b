"""Batches hold what the library's collator would put into them."""

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq

from utils.batches import PadPairs, pad_ids, tokenize_pairs

PAIRS = Dataset.from_dict(
    {"dialogue": ["good bad", "ladder", "nice nice ugly"], "summary": ["nice", "ugly bad", "good"]}
)


def test_pairs_are_padded_as_by_the_librarys_collator(tiny_t5, tiny_tokenizer):
    rows = list(tokenize_pairs(PAIRS, tiny_tokenizer, "{dialogue}"))
    theirs = DataCollatorForSeq2Seq(tiny_tokenizer, model=tiny_t5, label_pad_token_id=-100)([dict(row) for row in rows])
    ours = PadPairs(tiny_t5)(rows)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype, name


def test_on_a_gpu_lengths_are_multiples_of_eight(tiny_t5, tiny_tokenizer):
    collate = PadPairs(tiny_t5)
    collate.multiple_of = 8  # as it is on CUDA
    batch = collate(list(tokenize_pairs(PAIRS, tiny_tokenizer, "{dialogue}")))
    assert {tensor.shape for tensor in batch.values()} == {(3, 8)}
    assert (batch["labels"][:, 4:] == -100).all() and not batch["attention_mask"][:, 4:].any()


@pytest.mark.parametrize(("multiple_of", "width"), [(1, 3), (2, 4), (8, 8)])
def test_rows_are_filled_up_on_the_right(multiple_of, width):
    padded = pad_ids([[5, 6, 7], [8]], -1, multiple_of)
    assert padded.shape == (2, width) and padded.dtype == torch.int64
    assert padded[0].tolist() == [5, 6, 7] + [-1] * (width - 3)
    assert padded[1].tolist() == [8] + [-1] * (width - 1)
