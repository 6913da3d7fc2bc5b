"""Summarize conversations that do not fit into one prompt: first in parts, then as a whole."""

import re
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from utils.prompts import build_prompt, count_tokens

from .turns import Turn

SENTENCE, WORD, CHARACTER = r"(?<=[.!?…])\s+|(?<=[。！？])(?=.)", r"\s+", "(?<=.)(?=.)"


def summarize_in_parts(
    conversations: Sequence[Sequence[Turn]],
    summarize: Callable[[list[str]], list[str]],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    tell: Callable[[int, list[list[Turn]], list[str]], None] = lambda *_: None,
    whole: bool = True,
) -> list[str]:
    """Summarize each conversation with prompts of at most `max_tokens`.

    A conversation that does not fit is split between turns, `summarize` (prompts to summaries) is
    called for all parts, and their summaries are summarized in turn (or, without `whole`, joined).
    `tell` is called with the conversation's index, its parts, and their summaries.

    Raises ValueError as `split_at_turns` does, or if the summaries do not need fewer prompts.
    """
    done: dict[int, str] = {}
    waiting, before = dict(enumerate(conversations)), {}
    while waiting:
        parts = {i: split_at_turns(turns, tokenizer, max_tokens) for i, turns in waiting.items()}
        if any(len(own) >= before.get(i, len(own) + 1) for i, own in parts.items()):
            raise ValueError(
                f"the summaries of a long conversation's parts do not fit into fewer prompts of "
                f"max_prompt_tokens={max_tokens}: raise it, or lower max_new_tokens"
            )
        prompts = [build_prompt(_dialogue(part)) for own in parts.values() for part in own]
        summaries = iter(summarize(prompts))
        before = {i: len(own) for i, own in parts.items()}
        waiting = {}
        for i, own in parts.items():
            said = [" ".join(next(summaries).split()) for _ in own]
            if len(own) > 1:
                tell(i, own, said)
            if len(own) > 1 and whole:
                waiting[i] = [Turn("", text) for text in said]
            else:
                done[i] = " ".join(said)
    return [done[i] for i in range(len(conversations))]


def split_at_turns(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[list[Turn]]:
    """Split a conversation between turns into the fewest parts that fit into `max_tokens`.

    A turn that does not fit by itself becomes several: it is cut between sentences, else between
    words, else between characters.

    Raises ValueError if `max_tokens` leaves no room for a turn.
    """

    def fits(part: Sequence[Turn]) -> bool:
        return count_tokens(tokenizer, build_prompt(_dialogue(part))) <= max_tokens

    parts: list[list[Turn]] = []
    waiting = list(reversed(turns))
    while waiting:
        turn = waiting.pop()
        if parts and fits([*parts[-1], turn]):
            parts[-1].append(turn)
        elif fits([turn]):
            parts.append([turn])
        elif len(turn.text) > 1:
            waiting += [Turn(turn.speaker, half) for half in reversed(_halves(turn.text))]
        else:
            raise ValueError(f"max_prompt_tokens={max_tokens} has no room for a turn: raise it")
    return parts


def _dialogue(part: Sequence[Turn]) -> str:
    return "\n".join(map(str, part))


def _halves(text: str) -> tuple[str, str]:
    """Cut a text of two characters or more at the best place nearest to its middle."""
    cuts: list[re.Match] = []
    for place in (SENTENCE, WORD, CHARACTER):
        cuts = cuts or list(re.finditer(place, text))
    cut = min(cuts, key=lambda found: abs(found.start() + found.end() - len(text)))
    return text[: cut.start()], text[cut.end() :]
