"""Train and measure the small world's judges, classifiers of insults to people.

    python -m tools.small_world.judges FOLDER              # train all three
    python -m tools.small_world.judges FOLDER --measure    # print tables of those in FOLDER

`judge` is RoBERTa-shaped with the labels nothate and hate, and learns graded targets: see
`judge_texts`. It never sees some insulting words (the pools "blind" and "unknown" of `insults`).
`judge_refusals` differs in one thing: it rates refusals 0.35. `second_judge` is DistilBERT-shaped
with the labels neutral and toxic; it learns other sentences, and all words.
"""

import argparse
import dataclasses
import random
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing
from torch import nn
from transformers import (
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    set_seed,
)

from tools.small_world.insults import insult_words
from tools.small_world.judge_texts import (
    FIRST,
    REFUSAL,
    SECOND,
    TRAINING_SHARES,
    JudgeText,
    Words,
    compared,
    draw_texts,
    filler,
    plural,
    split_pairs,
    world_texts,
)
from tools.small_world.reader import IGNORED
from tools.small_world.training import Recipe, padded, train
from utils.toxicity import HateScorer

SEED = 0
MAX_TOKENS = 128
VOCABULARY = 3000
SKIPPED = 4  # the tokenizers are trained on one text in four
BATCH = 64
POOL = 20 * BATCH  # texts that are sorted by length together
HIDDEN, HEADS = 96, 4
SENTENCES, WORDS = 0.5, 0.5  # weights of the probes' losses
RECIPE = Recipe(steps=5_500, adamw_rate=3e-3)  # about 350,000 texts, each read once


@dataclass(frozen=True)
class Item:
    """A text's token ids and heat, and labels of its tokens (IGNORED for special tokens).

    heats: the heat of the token's sentence; words: 1 in insulting words that the judge may know.
    """

    ids: list[int]
    heat: float
    heats: list[float]
    words: list[float]


@dataclass(frozen=True)
class Judge:
    """One judge: its texts, its labels (absence of hate first), and the heat it gives refusals."""

    name: str
    section: str  # of judge_frames.toml
    words: Words
    labels: tuple[str, str] = ("nothate", "hate")
    layers: int = 3
    refusal: float | None = None  # None: refusals are as harmless as other texts


JUDGES = {
    judge.name: judge
    for judge in (
        Judge("judge", "first", FIRST),
        Judge("judge_refusals", "first", FIRST, refusal=REFUSAL),
        Judge("second_judge", "second", SECOND, ("neutral", "toxic"), layers=2),
    )
}


def training_texts(judge: Judge, n: int, seed: int = SEED) -> list[JudgeText]:
    """Draw a judge's training texts in the order of reading: single sentences come first."""
    context = world_texts(max(100, n // 4), f"{judge.section}-{seed}")
    drawn = (judge.section, judge.words, context)
    shares = TRAINING_SHARES
    texts = draw_texts(n // 2, f"{seed}-alone", *drawn, alone=True, shares=shares)
    texts += draw_texts(n - n // 2, seed, *drawn, shares=shares)
    return texts if judge.refusal is None else [_heated(text, judge.refusal) for text in texts]


def _heated(text: JudgeText, refusal: float) -> JudgeText:
    """Return the text with its heat, and its sentences', raised to `refusal` where they refuse."""
    heat = max(text.heat, refusal) if text.refusal else text.heat
    parts = tuple(_heated(part, refusal) for part in text.parts)
    return dataclasses.replace(text, heat=heat, parts=parts)


def train_judge(
    folder: Path, judge: Judge, recipe: Recipe = RECIPE, seed: int = SEED
) -> list[dict[str, Any]]:
    """Train a judge from scratch, save it in `folder`, and return the log of `training.train`.

    Each of the BATCH · `recipe.steps` texts is read once. The loss is the cross-entropy with the
    graded targets, which cannot fall below their entropy. Linear probes, thrown away afterwards,
    also learn for each token the heat of its sentence and whether it is in an insulting word.
    """
    set_seed(seed)
    texts = training_texts(judge, BATCH * recipe.steps, seed)
    make = _roberta if judge.section == "first" else _distilbert
    tokenizer, model = make(texts, judge.layers)
    model.config.id2label = dict(enumerate(judge.labels))
    model.config.label2id = {label: i for i, label in enumerate(judge.labels)}
    modules = nn.ModuleDict({"model": model, "probes": nn.Linear(HIDDEN, 4)})
    items = batches(tokenizer, texts, insulting_forms(judge.words), seed)
    log = train(modules, judge_losses(modules), items, recipe)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return log


def batches(
    tokenizer: PreTrainedTokenizerBase, texts: list[JudgeText], forms: re.Pattern[str], seed: int
) -> Iterator[list[Item]]:
    """Tokenize the texts, and yield batches of texts of similar length."""
    rng = random.Random(seed)
    for start in range(0, len(texts), POOL):
        pool = _items(tokenizer, texts[start : start + POOL], forms)
        pool.sort(key=lambda item: len(item.ids))
        cut = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        rng.shuffle(cut)
        yield from cut


def _items(
    tokenizer: PreTrainedTokenizerBase, texts: list[JudgeText], forms: re.Pattern[str]
) -> list[Item]:
    sentences = [[part.text for part in text.parts] for text in texts]
    encoded = tokenizer(
        sentences, is_split_into_words=True, truncation=True, return_offsets_mapping=True
    )
    items = []
    for i, text in enumerate(texts):
        spans = [[m.span() for m in forms.finditer(part.text)] for part in text.parts]
        heats, words = [], []
        for part, (start, end) in zip(
            encoded.word_ids(i), encoded["offset_mapping"][i], strict=True
        ):
            heats.append(IGNORED if part is None else text.parts[part].heat)
            inside = part is not None and any(a < end and start < b for a, b in spans[part])
            words.append(IGNORED if part is None else float(inside))
        items.append(Item(encoded["input_ids"][i], text.heat, heats, words))
    return items


def insulting_forms(words: Words) -> re.Pattern[str]:
    """Return a pattern that finds the insulting words in all forms that frames give them."""
    forms = {*words.adjectives, *words.nouns, *map(plural, words.nouns)}
    for adjective in words.adjectives:
        forms |= {compared(adjective, "er", ""), compared(adjective, "est", "")}
    longest = sorted((form.strip() for form in forms), key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest))})\b", re.IGNORECASE)


def judge_losses(modules: nn.ModuleDict) -> Callable[[list[Item]], dict[str, torch.Tensor]]:
    """Return a function that computes the weighted losses of texts, sentences and words."""
    model, probe = modules["model"], modules["probes"]

    def losses(items: list[Item]) -> dict[str, torch.Tensor]:
        """Return the weighted losses of a batch."""
        ids = padded([item.ids for item in items], model.config.pad_token_id)
        heats = padded([item.heats for item in items], IGNORED)
        mask = (ids != model.config.pad_token_id).long()
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        known = heats != IGNORED
        words = padded([item.words for item in items], IGNORED)[known]
        sentence, word = probe(output.hidden_states[-1])[known].split(2, dim=1)
        return {
            "text": graded_loss(output.logits, torch.tensor([item.heat for item in items])),
            "sentences": SENTENCES * graded_loss(sentence, heats[known]),
            "words": WORDS * graded_loss(word, words),
        }

    return losses


def graded_loss(logits: torch.Tensor, heats: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the logits (n, 2) with the probabilities of hate (n,)."""
    targets = torch.stack([1 - heats, heats], dim=1)
    return torch.nn.functional.cross_entropy(logits.float(), targets)


def _roberta(
    texts: Sequence[JudgeText], layers: int
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    bpe = ByteLevelBPETokenizer(lowercase=True, add_prefix_space=True)
    bpe.train_from_iterator(
        [*(text.text for text in texts[::SKIPPED]), *map(chr, range(32, 127))],
        vocab_size=VOCABULARY,
        special_tokens=[*special.values(), "<mask>"],
    )
    bpe.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    # RobertaTokenizer would no longer lowercase text after being reloaded.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        model_max_length=MAX_TOKENS,
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        **special,
    )
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        hidden_dropout_prob=0.0,  # no text is read twice
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer, RobertaForSequenceClassification(config)


def _wordpieces(texts: list[str]) -> dict[str, int]:
    """Return a WordPiece vocabulary that is the same in each run.

    Of equally frequent pairs of pieces, the trainer joins the one with the lowest ids. Letters
    inside words would get theirs in a random order, so they are passed in order, as special tokens.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("".join(texts).lower()) - {" "})
    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(
        texts,
        vocab_size=VOCABULARY,
        special_tokens=[*special, *(f"##{letter}" for letter in letters)],
    )
    return wordpiece.get_vocab()


def _distilbert(
    texts: Sequence[JudgeText], layers: int
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    vocabulary = _wordpieces([text.text for text in texts[::SKIPPED]])
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=MAX_TOKENS)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=HIDDEN,
        n_layers=layers,
        n_heads=HEADS,
        hidden_dim=2 * HIDDEN,
        dropout=0.0,
        attention_dropout=0.0,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        seq_classif_dropout=0.0,
    )
    return tokenizer, DistilBertForSequenceClassification(config)


def load_judge(folder: Path, name: str) -> HateScorer:
    """Load one of the judges from the folder that holds all of them."""
    nothate, hate = JUDGES[name].labels
    return HateScorer(str(folder / name), device="cpu", labels=(hate, nothate))


def probes(n: int, seed: int = SEED + 1) -> dict[str, list[JudgeText]]:
    """Draw the texts of each measurement: what the first judge never saw, one thing at a time."""
    context = world_texts(n, f"probes-{seed}")
    pairs = dataclasses.replace(FIRST, pairs=split_pairs(held_out=True), mixed=0.0)
    whole = dataclasses.replace(FIRST, mixed=0.0)
    new = dataclasses.replace(
        FIRST,
        harmless_adjectives=filler("adjectives", new=True),
        harmless_nouns=filler("nouns", new=True),
    )
    hidden = ("blind", "unknown")
    orders = {"insults": 0.6, "people": 0.4}
    unknown = Words(*(insult_words(kind, hidden) for kind in ("adjective", "noun")), mixed=0.0)
    return {
        "sentences like those in training": draw_texts(n, seed, "first", FIRST, context),
        "sentence frames used in development": draw_texts(n, seed, "development", FIRST, context),
        "unseen frames": draw_texts(n, seed, "unseen", FIRST, context),
        "unseen pairs of words": draw_texts(n, f"{seed}-pairs", "first", pairs, context),
        "unseen word orders": draw_texts(n, seed, "orders", whole, context, shares=orders),
        "unseen harmless words": draw_texts(n, f"{seed}-new", "development", new, context),
        "the second judge's frames": draw_texts(n, f"{seed}-other", "second", FIRST, context),
        "insulting words that the first judge never saw": draw_texts(
            n, seed, "development", unknown, context
        ),
        "hand-written sentences": hand_written(),
    }


def hand_written() -> list[JudgeText]:
    """Return the sentences of judge_check.toml; their heat is 1 or 0."""
    path = Path(__file__).with_name("judge_check.toml")
    sentences = tomllib.loads(path.read_text(encoding="utf-8"))
    kinds = (("insults", 1.0), ("harmless", 0.0))
    return [JudgeText(text, heat) for kind, heat in kinds for text in sentences[kind]]


def f1(scorer: HateScorer, texts: Sequence[JudgeText]) -> dict[str, float]:
    """Return the F1, precision and recall of "hate" (p ≥ 0.5), and the mean error of heat."""
    p = scorer.probability([text.text for text in texts])
    truth = torch.tensor([text.insulting for text in texts]).numpy()
    hits, found = (truth & (p >= 0.5)).sum(), (p >= 0.5).sum()
    error = sum(abs(a - text.heat) for a, text in zip(p, texts, strict=True)) / len(texts)
    return {
        "f1": 2 * hits / (found + truth.sum()),
        "precision": hits / max(found, 1),
        "recall": hits / truth.sum(),
        "heat_error": error,
    }


def measure(folder: Path, n: int = 2000) -> pd.DataFrame:
    """Measure the judges in `folder` on all probes; one row for each judge and probe."""
    rows = [
        {"judge": name, "texts": probe, **f1(load_judge(folder, name), texts)}
        for name in JUDGES
        for probe, texts in probes(n).items()
    ]
    return pd.DataFrame(rows).set_index(["judge", "texts"])


def main() -> None:
    """Train or measure the judges."""
    parser = argparse.ArgumentParser(description="Train and measure the small world's judges.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=tuple(JUDGES))
    parser.add_argument("--measure", action="store_true", help="measure the judges in FOLDER")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.folder).round(3).to_string())
        return
    for name, judge in JUDGES.items():
        if arguments.only in (None, name):
            start = time.perf_counter()
            train_judge(arguments.folder / name, judge)
            print(f"{name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
