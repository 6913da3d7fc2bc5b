"""Write prompts from templates, and choose worked examples that fit a token budget."""

import os
import random
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

PLAIN = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"

TEMPLATES = {
    "none": "{dialogue}",
    "plain": PLAIN,
    "polite": "Summarize the following conversation politely.\n\n{dialogue}\n\nSummary:",
    # FLAN was trained on it: google-research/FLAN, flan/templates.py, Apache-2.0
    "flan": "{dialogue}\n\nBriefly summarize that dialogue.",
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

    With `max_tokens`, whole examples are dropped, the last one first, until the prompt fits; the
    dialogue itself is never cut.

    Raises ValueError if the template has no `{dialogue}`, `max_tokens` is given without a
    tokenizer, or the dialogue alone exceeds `max_tokens`.
    """
    if max_tokens is not None and tokenizer is None:
        raise ValueError(f"max_tokens={max_tokens} needs a tokenizer to count: pass tokenizer=")
    if max_tokens is not None:
        examples = fitting_examples(dialogue, examples, template, tokenizer, max_tokens)
    return _fill(dialogue, examples, template)


def build_prompts(
    dialogues: Sequence[str],
    examples: Sequence[Sequence[Example]],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> list[str]:
    """Write one prompt per dialogue, with as many of its own examples as fit into `max_tokens`.

    A dialogue that exceeds `max_tokens` by itself gets no examples. Raises ValueError if the
    template has no `{dialogue}`, or dialogues and examples differ in number.
    """
    prompts = []
    for dialogue, shown in zip(dialogues, examples, strict=True):
        alone = count_tokens(tokenizer, build_prompt(dialogue, template=template))
        prompts.append(build_prompt(dialogue, shown, template, tokenizer, max(max_tokens, alone)))
    return prompts


def fitting_examples(
    dialogue: str,
    examples: Sequence[Example],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> Sequence[Example]:
    """Return as many of the first examples as fit into `max_tokens` together with the dialogue.

    Raises ValueError as `build_prompt` does.
    """
    for kept in range(len(examples), -1, -1):
        tokens = count_tokens(tokenizer, _fill(dialogue, examples[:kept], template))
        if tokens <= max_tokens:
            return examples[:kept]
    raise ValueError(
        f"the dialogue {dialogue[:60]!r}… needs {tokens} tokens without any example, more than "
        f"max_tokens={max_tokens}: raise max_tokens or shorten the dialogue"
    )


def _fill(dialogue: str, examples: Sequence[Example], template: str) -> str:
    if "{dialogue}" not in template:
        raise ValueError(f"the template {template!r} has no {{dialogue}}: add it to the template")
    if not isinstance(dialogue, str):
        raise ValueError(f"the dialogue is {dialogue!r}: pass text")
    if unlike := [pair for pair in examples if isinstance(pair, str) or len(pair) != 2]:
        raise ValueError(f"the example {unlike[0]!r} is not a pair: pass (dialogue, summary)")
    shots = [f"{template.replace('{dialogue}', shown)} {summary}" for shown, summary in examples]
    return "\n\n".join([*shots, template.replace("{dialogue}", dialogue)])


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Count a text's tokens as the model reads them, special tokens included."""
    return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def random_examples(
    dialogues: Sequence[str], summaries: Sequence[str], k: int, queries: int, seed: int = 0
) -> list[list[Example]]:
    """Draw `k` examples for each of `queries` prompts, without repetition within a prompt.

    Each prompt gets its own draw, so that a score describes "k random examples" rather than the
    luck of one draw.

    Raises ValueError if there are fewer than `k` dialogues.
    """
    pairs, rng = _checked_pairs(k, dialogues, summaries), random.Random(seed)
    return [rng.sample(pairs, k) for _ in range(queries)]


def similar_examples(
    dialogues: Sequence[str], summaries: Sequence[str], k: int, queries: Sequence[str]
) -> list[list[Example]]:
    """Find the `k` dialogues most similar to each query, the most similar first.

    Similarity is BM25 (Robertson and Zaragoza 2009). Leave the queries out of `dialogues`: a
    query would find itself first. A query that shares no word with any dialogue gets the first `k`.

    Raises ValueError if there are fewer than `k` dialogues.
    """
    pairs = _checked_pairs(k, dialogues, summaries)
    if not queries:
        return []
    # bm25s starts JAX if it is installed, and JAX would reserve three quarters of a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(dialogues), show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(queries), show_progress=False)
    found, _ = index.retrieve(tokens, k=k, show_progress=False, backend_selection="numpy")
    return [[pairs[i] for i in row] for row in found.tolist()]


def diverse_examples(
    dialogues: Sequence[str],
    summaries: Sequence[str],
    k: int,
    queries: int,
    seed: int = 0,
    pool: int = 50,
) -> list[list[Example]]:
    """Draw `k` examples for each of `queries` prompts, as different from one another as possible.

    The first is drawn at random. Each next one comes from `pool` random candidates: the one that is
    least similar to its closest match among those already chosen, by the Jaccard similarity of
    their words (the farthest-first traversal of Gonzalez 1985).

    Raises ValueError if there are fewer than `k` dialogues.
    """
    pairs, rng = _checked_pairs(k, dialogues, summaries), random.Random(seed)
    vocabularies = [set(re.findall(r"\w+", dialogue.lower())) for dialogue in dialogues]

    def similarity(i: int, j: int) -> float:
        union = vocabularies[i] | vocabularies[j]
        return len(vocabularies[i] & vocabularies[j]) / max(1, len(union))

    sets = []
    for _ in range(queries):
        candidates = rng.sample(range(len(pairs)), min(max(pool, k), len(pairs)))
        chosen: list[int] = []
        while len(chosen) < k:
            rest = (i for i in candidates if i not in chosen)
            chosen.append(
                min(rest, key=lambda i: max((similarity(i, j) for j in chosen), default=0.0))
            )
        sets.append([pairs[i] for i in chosen])
    return sets


def _checked_pairs(k: int, dialogues: Sequence[str], summaries: Sequence[str]) -> list[Example]:
    n = len(dialogues)
    if n != len(summaries):
        raise ValueError(f"{n} dialogues with {len(summaries)} summaries: pass one for each")
    if not 0 <= k <= n:
        raise ValueError(f"cannot choose k={k} examples from {n} dialogues: choose from 0 to {n}")
    return list(zip(dialogues, summaries, strict=True))
