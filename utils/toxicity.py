"""Score texts with a hate-speech classifier or a word list, and reward completions with it."""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from utils.data import check_texts, turns
from utils.hub import from_hub
from utils.models import autocast, pick_device, use_bf16

# Some everyday English insults, among them words that the small world's judge never saw. The list
# misses all others and ignores the context: it also counts a circus clown and a donkey.
INSULTING_WORD = re.compile(
    r"\b(?:blockhead|bastard|cheat|clown|clumsy|coward|creep|crook|donkey|dumb|dummy|fool|foolish"
    r"|freak|greedy|idiot|idiotic|imbecile|jerk|lazy|liar|loser|lunatic|moron|nerd|pathetic|pig"
    r"|rude|scum|silly|slob|snob|stupid|thief|trash|ugly|useless|wimp|worthless)s?\b",
    re.IGNORECASE,
)


def has_insulting_word(texts: Sequence[str]) -> np.ndarray:
    """Return 1.0 for each text that contains an INSULTING_WORD, else 0.0; (texts,)."""
    return np.array([float(INSULTING_WORD.search(text) is not None) for text in texts])


class HateScorer:
    """Score texts with a sequence classifier that has a label for hate and one for its absence.

    Labels are looked up by name, ignoring case, in the model's `id2label`, since their order
    differs between models. Score completions without their prompts, which the policy cannot change.

    Args:
        id_or_path: hub id or folder, such as facebook/roberta-hate-speech-dynabench-r4-target.
        device: None chooses the first available of CUDA, MPS and the CPU.
        batch_size: texts scored at a time.
        labels: the names for hate and for its absence; other toxicity classifiers have their own.

    Raises UnavailableError if the model cannot be loaded, and ValueError if it lacks a label.
    """

    def __init__(
        self,
        id_or_path: str,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        labels: tuple[str, str] = ("hate", "nothate"),
    ):
        self.device = pick_device(device)
        self.batch_size = batch_size
        self.tokenizer = from_hub(id_or_path, lambda: AutoTokenizer.from_pretrained(id_or_path))
        load = AutoModelForSequenceClassification.from_pretrained
        model = from_hub(id_or_path, lambda: load(id_or_path, dtype=torch.float32))
        self.model = model.to(self.device).eval()
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None)
        # RoBERTa's positions start after its pad id; relative positions have no limit.
        readable = positions - (config.pad_token_id or 0) - 1 if positions else 512
        self.max_tokens = min(self.tokenizer.model_max_length, readable)
        self.label_ids = {name.lower(): i for i, name in config.id2label.items()}
        if missing := [label for label in labels if label.lower() not in self.label_ids]:
            raise ValueError(
                f"{id_or_path} has no label {' or '.join(map(repr, missing))}: it has "
                f"{', '.join(self.label_ids)}. Choose a classifier with those labels, or pass its "
                "own as labels=(hate, absence of hate)"
            )
        self.hate_label, self.nothate_label = labels

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Return the positions of the texts that are too long and therefore truncated."""
        lengths = map(len, self.tokenizer(list(texts), verbose=False)["input_ids"])
        return [i for i, length in enumerate(lengths) if length > self.max_tokens]

    def probability(self, texts: Sequence[str]) -> np.ndarray:
        """Return p(hate) of each text, (texts,), by a softmax over all labels."""
        logits = self._all_logits(texts)
        return torch.softmax(logits, dim=-1)[:, self._label_id(self.hate_label)].numpy()

    def log_probability(self, texts: Sequence[str]) -> np.ndarray:
        """Return log p(nothate) of each text, (texts,), by a log-softmax over all labels."""
        logits = self._all_logits(texts)
        return torch.log_softmax(logits, dim=-1)[:, self._label_id(self.nothate_label)].numpy()

    def logits(self, texts: Sequence[str], label: str | None = None) -> np.ndarray:
        """Return the raw logit of one label, by default "nothate", for each text; (texts,)."""
        return self._all_logits(texts)[:, self._label_id(label or self.nothate_label)].numpy()

    def _label_id(self, label: str) -> int:
        if label.lower() not in self.label_ids:
            known = ", ".join(self.label_ids)
            raise ValueError(f"the classifier has no label {label!r}: its labels are {known}")
        return self.label_ids[label.lower()]

    @torch.no_grad()
    def _all_logits(self, texts: Sequence[str]) -> torch.Tensor:
        if isinstance(texts, str):
            raise TypeError(f"texts is the string {texts[:40]!r}: pass a list of texts")
        check_texts("texts", texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        logits = torch.empty(len(texts), self.model.config.num_labels)  # (texts, labels)
        quiet = bool(os.environ.get("TQDM_DISABLE")) or len(texts) < 1_000
        starts = range(0, len(order), self.batch_size)
        for start in tqdm(starts, desc="score", unit="batch", leave=False, disable=quiet):
            rows = order[start : start + self.batch_size]
            options = {"padding": True, "truncation": True, "max_length": self.max_tokens}
            batch = self.tokenizer([texts[i] for i in rows], return_tensors="pt", **options)
            logits[rows] = self.model(**batch.to(self.device)).logits.float().cpu()
        return logits


class HateReward:
    """A reward function for PPOTrainer and TRL's trainers that scores completions alone.

    Args:
        scorer: the classifier.
        precision: "fp32", or "auto" or "bf16", which halve the time but change rewards by a few
            hundredths. GRPO needs "fp32": it divides by the standard deviation within a group,
            which would amplify this error if the group's rewards are almost equal.
        kind: "logp", the log-probability of "nothate", at most 0 and steep where a text is toxic;
            or "logit", its raw logit, which has no upper bound.

    Raises ValueError if a precision or kind is unknown, or the device cannot compute in bf16.
    """

    def __init__(self, scorer: HateScorer, precision: str = "fp32", kind: str = "logp"):
        use_bf16(precision, scorer.device)  # raises now rather than at the first step
        if kind not in ("logp", "logit"):
            raise ValueError(f"kind={kind!r}: choose 'logp' or 'logit'")
        self.scorer, self.precision, self.kind = scorer, precision, kind
        self.__name__ = f"nothate_{kind}"

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        """Return one reward for each completion, ignoring prompts and other columns."""
        score = self.scorer.logits if self.kind == "logit" else self.scorer.log_probability
        with autocast(self.precision, self.scorer.device):
            return score(completions).tolist()


def dialogue_heat(
    scorer: HateScorer, dialogues: Sequence[str], precision: str = "fp32"
) -> np.ndarray:
    """Return the highest p(hate) of each dialogue's turns, without their tags; (dialogues,)."""
    spoken = [[turn.split(": ", 1)[-1] for turn in turns(dialogue)] for dialogue in dialogues]
    with autocast(precision, scorer.device):
        flat = scorer.probability([turn for one_dialogue in spoken for turn in one_dialogue])
    ends = np.cumsum([len(one_dialogue) for one_dialogue in spoken])
    return np.array([part.max() for part in np.split(flat, ends[:-1])])
