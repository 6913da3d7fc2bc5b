"""Prompts: instruction templates, worked examples within a token budget, and the choice of examples."""

import random
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from utils import bm25

PLAIN = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"

# The seven templates FLAN was trained on for dialogue summarization (SAMSum).
# Source: google-research/FLAN, flan/templates.py, Apache-2.0.
FLAN_TEMPLATES = (
    "{dialogue}\n\nBriefly summarize that dialogue.",
    "Here is a dialogue:\n{dialogue}\n\nWrite a short summary!",
    "Dialogue:\n{dialogue}\n\nWhat is a summary of this dialogue?",
    "{dialogue}\n\nWhat was that dialogue about, in two sentences or less?",
    "Here is a dialogue:\n{dialogue}\n\nWhat were they talking about?",
    "Dialogue:\n{dialogue}\nWhat were the main points in that conversation?",
    "Dialogue:\n{dialogue}\nWhat was going on in that conversation?",
)

TEMPLATES = {
    "none": "{dialogue}",
    "plain": PLAIN,
    "polite": "Summarize the following conversation politely.\n\n{dialogue}\n\nSummary:",
    "flan": FLAN_TEMPLATES[0],
}

Example = tuple[str, str]  # (dialogue, summary)


def build_prompt(
    dialogue: str,
    examples: Sequence[Example] = (),
    template: str = PLAIN,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_tokens: int | None = None,
) -> str:
    """Write the prompt for one dialogue, preceded by worked examples in the same template.

    With `max_tokens`, whole examples are dropped, the last one first, until the prompt fits; the dialogue itself is
    never cut.

    Raises:
        ValueError: the template has no `{dialogue}`; `max_tokens` comes without a tokenizer; the dialogue alone exceeds
            `max_tokens`.
    """
    if max_tokens is not None and tokenizer is None:
        raise ValueError(
            f"max_tokens={max_tokens} needs a tokenizer to count with: pass tokenizer="
        )
    if max_tokens is not None:
        examples = fitting_examples(dialogue, examples, template, tokenizer, max_tokens)
    return _written(dialogue, examples, template)


def fitting_examples(
    dialogue: str,
    examples: Sequence[Example],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> Sequence[Example]:
    """The first examples that fit into `max_tokens` together with the dialogue, whole.

    Raises:
        ValueError: the template has no `{dialogue}`, or the dialogue alone exceeds `max_tokens`.
    """
    for kept in range(len(examples), -1, -1):
        tokens = count_tokens(tokenizer, _written(dialogue, examples[:kept], template))
        if tokens <= max_tokens:
            return examples[:kept]
    raise ValueError(
        f"the dialogue {dialogue[:60]!r}… needs {tokens} tokens without any example, over max_tokens={max_tokens}: "
        "raise max_tokens (T5's relative positions read longer inputs than it was trained on) or shorten the dialogue"
    )


def _written(dialogue: str, examples: Sequence[Example], template: str) -> str:
    if "{dialogue}" not in template:
        raise ValueError(
            f"the template {template!r} has no {{dialogue}}: put {{dialogue}} where the dialogue belongs"
        )
    shots = [f"{template.replace('{dialogue}', shown)} {summary}" for shown, summary in examples]
    return "\n\n".join([*shots, template.replace("{dialogue}", dialogue)])


def build_prompts(
    dialogues: Sequence[str],
    examples: Sequence[Sequence[Example]],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> list[str]:
    """Write one prompt per dialogue with its own examples within `max_tokens`; longer dialogues stand alone."""
    prompts = []
    for dialogue, shown in zip(dialogues, examples, strict=True):
        alone = count_tokens(tokenizer, build_prompt(dialogue, template=template))
        prompts.append(build_prompt(dialogue, shown, template, tokenizer, max(max_tokens, alone)))
    return prompts


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Tokens of a text as the model reads it, the end-of-sequence token included."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def random_examples(
    dialogues: Sequence[str], summaries: Sequence[str], k: int, queries: int, seed: int = 0
) -> list[list[Example]]:
    """Draw `k` examples for each of `queries` prompts, without repetition within a prompt.

    Drawing anew for every prompt averages over the luck of the examples, so that a score speaks of "k random examples".

    Raises:
        ValueError: fewer than `k` dialogues to draw from.
    """
    _check_supply(k, dialogues, summaries)
    rng = random.Random(seed)
    return [
        [(dialogues[i], summaries[i]) for i in rng.sample(range(len(dialogues)), k)]
        for _ in range(queries)
    ]


def similar_examples(
    dialogues: Sequence[str], summaries: Sequence[str], k: int, queries: Sequence[str]
) -> list[list[Example]]:
    """Find the `k` dialogues most like each query, the most similar first, by BM25 (Robertson and Zaragoza 2009).

    A query that is itself among the dialogues is found first: leave it out of them. One that shares no word with any
    gets the first `k`, for all are equally unlike it.

    Raises:
        ValueError: fewer than `k` dialogues to choose from.
    """
    _check_supply(k, dialogues, summaries)
    if not queries:
        return []
    index = bm25.BM25()
    index.index(bm25.tokenize(list(dialogues), show_progress=False), show_progress=False)
    found, _ = index.retrieve(
        bm25.tokenize(list(queries), show_progress=False), k=k, show_progress=False
    )
    return [[(dialogues[i], summaries[i]) for i in row] for row in found.tolist()]


def diverse_examples(
    dialogues: Sequence[str],
    summaries: Sequence[str],
    k: int,
    queries: int,
    seed: int = 0,
    pool: int = 50,
) -> list[list[Example]]:
    """Draw `k` examples for each of `queries` prompts that differ from one another as much as possible.

    The first is drawn at random; each next one is, of `pool` random dialogues, the one that shares the fewest words
    (Jaccard similarity) with those chosen (farthest-first traversal, Gonzalez 1985).

    Raises:
        ValueError: fewer than `k` dialogues to choose from.
    """
    _check_supply(k, dialogues, summaries)
    rng = random.Random(seed)
    vocabularies = [set(re.findall(r"\w+", dialogue.lower())) for dialogue in dialogues]

    def nearness(i: int, chosen: list[int]) -> float:
        """Highest similarity of a dialogue to those chosen."""
        shared = (
            len(vocabularies[i] & vocabularies[j]) / max(1, len(vocabularies[i] | vocabularies[j]))
            for j in chosen
        )
        return max(shared, default=0.0)

    sets = []
    for _ in range(queries):
        candidates = rng.sample(range(len(dialogues)), min(max(pool, k), len(dialogues)))
        chosen: list[int] = []
        while len(chosen) < k:
            chosen.append(
                min((i for i in candidates if i not in chosen), key=lambda i: nearness(i, chosen))
            )
        sets.append([(dialogues[i], summaries[i]) for i in chosen])
    return sets


def _check_supply(k: int, dialogues: Sequence[str], summaries: Sequence[str]) -> None:
    if len(dialogues) != len(summaries):
        raise ValueError(
            f"{len(dialogues)} dialogues with {len(summaries)} summaries: give each dialogue its summary"
        )
    if not 0 <= k <= len(dialogues):
        raise ValueError(
            f"cannot choose k={k} examples from {len(dialogues)} dialogues: ask for 0 to {len(dialogues)}"
        )
