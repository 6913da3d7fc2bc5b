"""The repositories that the presets name: real widths and vocabularies, one layer, untrained.

On request, they have the real number of layers, and vocabularies of real size.
"""

import csv
import json
import shutil
from pathlib import Path

import sentencepiece
import torch
from loopback_hub import Repository
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from utils.settings import OFFLINE

WIDTHS = {
    "google/flan-t5-small": {"d_model": 512, "d_ff": 1024, "num_heads": 6},
    "google/flan-t5-base": {"d_model": 768, "d_ff": 2048, "num_heads": 12},
}
LAYERS = {"google/flan-t5-small": 8, "google/flan-t5-base": 12}
BART = "facebook/bart-base"
BART_DECODING = {  # what the checkpoint's config.json says about decoding
    "num_beams": 4,
    "early_stopping": True,
    "no_repeat_ngram_size": 3,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
}
CLASSIFIER = "facebook/roberta-hate-speech-dynabench-r4-target"
SECOND_JUDGE = "s-nlp/roberta_toxicity_classifier"
LABELS = {CLASSIFIER: ("nothate", "hate"), SECOND_JUDGE: ("neutral", "toxic")}
CONSTANT = {"acme/nothing-is-hate": -20.0, "acme/everything-is-hate": 20.0}  # the logit of hate
DATASET = "knkarthick/dialogsum"


def write_repositories(
    folder: Path, data: Path = OFFLINE / "data", true_size: bool = False, vocab_size: int = 1_000
) -> list[Repository]:
    """Write all repositories under `folder` and return them, ready to be served."""
    _write_dialogsum(folder / DATASET, data)
    for seed, (name, labels) in enumerate(LABELS.items()):
        texts = data / "train.csv" if vocab_size > 10_000 else None
        _write_classifier(folder / name, labels, seed, 12 if true_size else 1, texts=texts)
    for name, logit in CONSTANT.items():
        _write_classifier(folder / name, LABELS[CLASSIFIER], 0, 1, logit)
    for name in WIDTHS:
        _write_t5_tokenizer(folder / name, data, vocab_size)
        _write_flan_t5(folder / name, name, LAYERS[name] if true_size else 1)
    _write_bart(folder / BART)
    models = [Repository(name, folder / name) for name in (*WIDTHS, BART, *LABELS, *CONSTANT)]
    return [*models, Repository(DATASET, folder / DATASET, "datasets")]


def _write_dialogsum(folder: Path, data: Path) -> None:
    """Write the dialogues in the layout of the hub's copy of DialogSum."""
    shutil.copytree(data, folder, copy_function=shutil.copyfile)
    card = "---\nlanguage:\n- en\nlicense: cc-by-nc-sa-4.0\npretty_name: DialogSum\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_flan_t5(folder: Path, name: str, layers: int) -> None:
    """Write a T5 v1.1 whose head is not tied to its embedding, as in FLAN-T5."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32_128,
        d_kv=64,
        num_layers=layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.1,
        decoder_start_token_id=0,
        **WIDTHS[name],
    )
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.05)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)


def _write_t5_tokenizer(folder: Path, data: Path, vocab_size: int) -> None:
    """Write spiece.model, trained on the dialogues, and its tokenizer.json."""
    folder.mkdir(parents=True)
    texts = folder / "texts.txt"
    texts.write_text((data / "train.csv").read_text(encoding="utf-8"), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(texts),
        model_prefix=str(folder / "spiece"),
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    texts.unlink()
    (folder / "spiece.vocab").unlink()
    T5Tokenizer.from_pretrained(folder, extra_ids=100, model_max_length=512).save_pretrained(folder)


def _write_bart(folder: Path) -> None:
    """Write a BART-base of one layer each: weights without a head, and its own way of decoding."""
    _write_byte_level_tokenizer(folder)
    torch.manual_seed(0)
    shape = {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in {"layers": 1, "ffn_dim": 3072, "attention_heads": 12}.items()
    }
    BartModel(BartConfig(vocab_size=50_265, d_model=768, **shape)).save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | BART_DECODING
    file.write_text(json.dumps(config), encoding="utf-8")


def _write_byte_level_tokenizer(folder: Path, texts: Path | None = None) -> None:
    """Write the small world's judge's tokenizer as vocab.json and merges.txt, as RoBERTa's is.

    It would split common words of real dialogues: with `texts`, train one on them instead.
    """
    folder.mkdir(parents=True)
    if texts is not None:
        trained = ByteLevelBPETokenizer()
        names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trained.train(str(texts), vocab_size=50_000, show_progress=False, special_tokens=names)
        trained.save_model(str(folder))
        return
    stored = json.loads((OFFLINE / "judge" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(stored["vocab"]), encoding="utf-8")
    merges = "".join(" ".join(pair) + "\n" for pair in stored["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")


def _write_classifier(
    folder: Path,
    names: tuple[str, str],
    seed: int,
    layers: int,
    constant: float | None = None,
    texts: Path | None = None,
) -> None:
    """Write a RoBERTa-base of so many layers with these labels, vocab.json and merges.txt.

    With `constant`, every text has this logit of the second label, and 0 of the first. With
    `texts`, its tokenizer is trained on them.
    """
    _write_byte_level_tokenizer(folder, texts)
    torch.manual_seed(seed)
    labels = dict(enumerate(names))
    config = RobertaConfig(
        vocab_size=50_265,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_hidden_layers=layers,
        layer_norm_eps=1e-5,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
    )
    model = RobertaForSequenceClassification(config).eval()
    if constant is None:
        _spread_out(model, RobertaTokenizer.from_pretrained(folder))
    else:
        nn.init.zeros_(model.classifier.out_proj.weight)
        model.classifier.out_proj.bias.data = torch.tensor([0.0, constant])
    model.save_pretrained(folder)


@torch.no_grad()
def _spread_out(model: RobertaForSequenceClassification, tokenizer: RobertaTokenizer) -> None:
    """Scale and shift the untrained classifier so that it finds hate in every twentieth turn."""
    with (OFFLINE / "data" / "validation.csv").open(encoding="utf-8", newline="") as rows:
        spoken = [
            turn.split(": ", 1)[-1]
            for row in csv.DictReader(rows)
            for turn in row["dialogue"].splitlines()
        ]
    model.classifier.out_proj.weight.mul_(100)
    logits = model(**tokenizer(spoken[:400], padding=True, return_tensors="pt")).logits
    model.classifier.out_proj.bias[0] = (logits[:, 1] - logits[:, 0]).quantile(0.95)
