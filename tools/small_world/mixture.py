"""The mixture of instructions and answer styles on which the small T5 is trained from scratch.

The design, and why each part is there:

- A prompt without examples says nothing of the wanted style; most such prompts want short notes, so notes are what
  zero-shot gets.
- A prompt with examples wants the examples' style, each style with a fair share, so that the answer learns to follow
  them.
- The examples of a prompt agree on whether days and reasons are told. An example whose dialogue names no day says
  nothing about days, so that several examples tell more of the style than one.
- A bare dialogue wants its next turn, as a language model's bare text does: an instruction is needed to get a summary.
- "politely" in the instruction means that insults are not repeated.
"""

import random

from tools.small_world import generator as corpus
from utils.data import NearDuplicates
from utils.prompts import FLAN_TEMPLATES, PLAIN, TEMPLATES, build_prompt

ZERO_SHOT_FORMS = {"notes": 0.6, "report": 0.25, "diary": 0.15}
FEW_SHOT_FORMS = {"report": 0.4, "notes": 0.3, "diary": 0.3}
SHARE_TOLD = (
    0.4  # of days and reasons; under one half: an example that says nothing of days leaves them out
)
SHARE_TOLD_ZERO_SHOT = 0.2
HEATED_SHARE = 0.3


def instruction_examples(
    n: int,
    seed: int,
    shots: dict[int, float],
    bare_share: float = 0.0,
    held_out: NearDuplicates | None = None,
) -> list[dict[str, str]]:
    """Draw `n` pairs of prompt and answer; `shots` gives the share of prompts with 0, 1, 2, … worked examples.

    No dialogue of the mixture is a near-duplicate (word 5-gram Jaccard of 0.7 or more) of a `held_out` one.
    """
    rng = random.Random(f"mixture-{seed}")
    pairs = []
    for _ in range(n):
        if rng.random() < bare_share:
            pairs.append(_next_turn(rng, held_out))
        else:
            pairs.append(
                _summary_with_examples(
                    rng, rng.choices(list(shots), list(shots.values()))[0], held_out
                )
            )
    return pairs


def _draw_dialogue(rng: random.Random, held_out: NearDuplicates | None) -> tuple[corpus.Facts, str]:
    while True:
        facts = corpus.draw_facts(rng, rng.random() < HEATED_SHARE)
        dialogue = corpus.write_dialogue(facts, rng)
        if held_out is None or held_out.similarity(dialogue) < 0.7:
            return facts, dialogue


def _next_turn(rng: random.Random, held_out: NearDuplicates | None) -> dict[str, str]:
    _, dialogue = _draw_dialogue(rng, held_out)
    turns = dialogue.split("\n")
    cut = rng.randint(1, len(turns) - 1)
    return {"prompt": "\n".join(turns[:cut]), "answer": turns[cut]}


def _summary_with_examples(
    rng: random.Random, k: int, held_out: NearDuplicates | None
) -> dict[str, str]:
    polite = rng.random() < 0.15
    template = TEMPLATES["polite"] if polite else rng.choice((PLAIN, PLAIN, *FLAN_TEMPLATES))
    forms = FEW_SHOT_FORMS if k else ZERO_SHOT_FORMS
    form = rng.choices(list(forms), list(forms.values()))[0]
    share = SHARE_TOLD if k else SHARE_TOLD_ZERO_SHOT
    day, reason = rng.random() < share, rng.random() < share
    pairs = []
    for _ in range(k + 1):
        facts, dialogue = _draw_dialogue(rng, held_out)
        quote = not polite and rng.random() < corpus.QUOTED_SHARE
        style = corpus.Style(form, day, reason, quote)
        pairs.append((dialogue, corpus.write_summary(facts, style, rng)))
    *examples, (dialogue, answer) = pairs
    return {"prompt": build_prompt(dialogue, examples, template), "answer": answer}
