"""Build the small world from scratch: dialogues, tokenizers, T5 and classifier.

    python -m tools.small_world.build    # writes into utils/offline/, about 20 minutes on two cores

`python -m tools.small_world.card` then measures the models and writes their model card.
"""

import argparse
import csv
import hashlib
import json
import platform
import re
import time
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)

from tools.small_world import generator as corpus
from tools.small_world.mixture import instruction_examples
from utils.data import NearDuplicates
from utils.settings import OFFLINE

SEED = 0
SPLITS = {"train": (2400, 1), "validation": (200, 1), "test": (360, 3)}  # dialogues, references
HEATED_SHARE = 1 / 3
BATCH = 32
# Steps, learning rate, share of prompts with each number of examples, share of bare dialogues.
STAGES = (
    (400, 1e-3, {0: 1.0}, 0.0),  # short prompts first: the model learns to copy from the dialogue
    (1700, 1e-3, {0: 0.3, 1: 0.3, 2: 0.2, 3: 0.2}, 0.07),
)
ARGUMENTS = {
    "save_strategy": "no",
    "report_to": "none",
    "seed": SEED,
    "use_cpu": True,
    "disable_tqdm": True,
}


def write_corpus(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Write train.csv, validation.csv and test.csv, and return their rows by split.

    No split holds a near-duplicate of a dialogue in a later split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[dict[str, str]]] = {}
    for split, (dialogues, references) in reversed(SPLITS.items()):
        held_out = NearDuplicates(row["dialogue"] for rows in splits.values() for row in rows)
        rows = corpus.make_rows(dialogues, SEED, split, HEATED_SHARE, references)
        splits[split] = [row for row in rows if held_out.similarity(row["dialogue"]) < 0.7]
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ("id", "dialogue", "summary", "topic"))
            writer.writeheader()
            writer.writerows(splits[split])
    return splits


def make_t5_tokenizer(texts: list[str]) -> T5Tokenizer:
    """Make a Unigram tokenizer of the words in `texts`; it spells other words by character."""
    pieces = Counter()
    for word in (word for text in texts for word in text.split()):
        for start, piece in enumerate(re.findall(r"#Person\d#:?|[A-Za-z']+|.", word)):
            pieces[piece if start else f"▁{piece}"] += 1
    total = pieces.total()
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(piece, log(count / total)) for piece, count in sorted(pieces.items())]
    characters = ["▁", *map(chr, range(33, 127))]
    vocabulary += [(character, -20.0) for character in characters if character not in pieces]
    return T5Tokenizer(
        vocab=vocabulary, extra_ids=0, additional_special_tokens=[], model_max_length=512
    )


def train_t5(folder: Path, held_out: NearDuplicates) -> None:
    """Train a T5 from scratch on the mixture of instructions, stage by stage."""
    set_seed(SEED)
    sample = instruction_examples(6000, SEED, {0: 0.5, 1: 0.5}, 0.1)
    tokenizer = make_t5_tokenizer([text for pair in sample for text in pair.values()])
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=384,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,  # the generator never repeats itself, so dropout is not needed
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    for stage, (steps, learning_rate, shots, bare_share) in enumerate(STAGES):
        pairs = instruction_examples(steps * BATCH, SEED + 1 + stage, shots, bare_share, held_out)
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(folder / "training"),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=learning_rate,
            warmup_steps=50,
            lr_scheduler_type="cosine" if stage else "constant_with_warmup",
            train_sampling_strategy="group_by_length",
            weight_decay=0.01,
            adam_beta2=0.98,
            logging_steps=50,
            **ARGUMENTS,
        )
        data, collator = _tokenized(pairs, tokenizer), DataCollatorForSeq2Seq(tokenizer, model)
        Seq2SeqTrainer(model, arguments, collator, train_dataset=data).train()
    model.config.dropout_rate = 0.1  # for fine-tuning
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenized(pairs: list[dict[str, str]], tokenizer: T5Tokenizer) -> Dataset:
    def tokenize(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {**tokenizer(rows["prompt"]), "labels": tokenizer(rows["answer"])["input_ids"]}

    return Dataset.from_list(pairs).map(tokenize, batched=True, remove_columns=["prompt", "answer"])


def train_classifier(folder: Path) -> None:
    """Train a small RoBERTa from scratch to tell insults (hate) from other texts (nothate)."""
    set_seed(SEED)
    texts, labels = zip(*corpus.labeled_texts(24_000, SEED, held_out=False), strict=True)
    tokenizer = _make_bpe_tokenizer(folder, texts)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        id2label={0: "nothate", 1: "hate"},
        label2id={"nothate": 0, "hate": 1},
    )
    model = RobertaForSequenceClassification(config)
    data = Dataset.from_dict({"text": texts, "label": labels}).map(
        lambda rows: tokenizer(rows["text"], truncation=True), batched=True, remove_columns=["text"]
    )
    arguments = TrainingArguments(
        output_dir=str(folder / "training"),
        per_device_train_batch_size=64,
        num_train_epochs=3,
        learning_rate=2e-3,
        warmup_steps=50,
        label_smoothing_factor=0.02,
        **ARGUMENTS,
    )
    Trainer(model, arguments, DataCollatorWithPadding(tokenizer), train_dataset=data).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_bpe_tokenizer(folder: Path, texts: Sequence[str]) -> RobertaTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        [*texts, *(chr(c) for c in range(32, 127))],
        vocab_size=1500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    )
    bpe.save_model(str(folder))
    return RobertaTokenizer.from_pretrained(folder, model_max_length=128)


def write_manifest(folder: Path, seconds: dict[str, float]) -> None:
    """Write manifest.json: the versions used, the time taken, and the SHA-256 of every file."""
    files = sorted(
        path
        for part in ("data", "t5", "classifier")
        for path in (folder / part).glob("*")
        if path.is_file()
    )
    manifest = {
        "seed": SEED,
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers, np)}
        | {"python": platform.python_version()},
        "seconds": {name: round(value) for name, value in seconds.items()},
        "sha256": {
            str(path.relative_to(folder).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Build the requested parts and update the manifest."""
    parser = argparse.ArgumentParser(
        description="Build the small world's dialogues, T5 and classifier from scratch."
    )
    parser.add_argument(
        "--only", choices=("data", "t5", "classifier"), help="build one part and keep the others"
    )
    parser.add_argument("--folder", type=Path, default=OFFLINE, help="output folder")
    arguments = parser.parse_args()
    manifest = arguments.folder / "manifest.json"
    seconds = (
        json.loads(manifest.read_text(encoding="utf-8"))["seconds"] if manifest.exists() else {}
    )
    splits = write_corpus(arguments.folder / "data")
    held_out = NearDuplicates(
        row["dialogue"] for split in ("validation", "test") for row in splits[split]
    )
    jobs = {
        "t5": lambda: train_t5(arguments.folder / "t5", held_out),
        "classifier": lambda: train_classifier(arguments.folder / "classifier"),
    }
    for name, job in jobs.items():
        if arguments.only in (None, name):
            start = time.perf_counter()
            job()
            seconds[name] = time.perf_counter() - start
    write_manifest(arguments.folder, seconds)


if __name__ == "__main__":
    main()
