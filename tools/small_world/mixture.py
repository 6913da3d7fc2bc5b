"""The mixture of instructions and summary styles that trains the small T5 from scratch.

Each part of the mixture teaches one behavior that the labs study:

- A prompt without examples does not say which style is wanted. Most of these prompts are answered
  with short notes, so the model writes notes in the zero-shot setting.
- A prompt with examples is answered in the style of its examples, so the model learns to follow
  examples.
- All examples of a prompt agree on whether days and reasons are reported. An example whose
  dialogue has no day does not show this, so several examples show more of the style than one.
- A dialogue without an instruction is continued with its next turn, as in language modeling. The
  model therefore needs an instruction to write a summary.
- With "politely" in the instruction, insults are not repeated.
"""

import random

from tools.small_world import generator as corpus
from utils.data import NearDuplicates
from utils.prompts import FLAN_TEMPLATES, PLAIN, TEMPLATES, build_prompt

ZERO_SHOT_FORMS = {"notes": 0.6, "report": 0.25, "diary": 0.15}
FEW_SHOT_FORMS = {"report": 0.4, "notes": 0.3, "diary": 0.3}
# Shares of prompts whose summaries report the day, and of those that report the reason. Below one
# half, leaving them out is the better guess if the examples do not show whether to report them.
SHARE_TOLD, SHARE_TOLD_ZERO_SHOT = 0.4, 0.2
HEATED_SHARE = 0.3


def instruction_examples(
    n: int,
    seed: int,
    shots: dict[int, float],
    bare_share: float = 0.0,
    held_out: NearDuplicates | None = None,
) -> list[dict[str, str]]:
    """Draw `n` pairs with the keys prompt and answer.

    `shots` maps a number of worked examples to its share of prompts; `bare_share` is the share of
    dialogues without an instruction. No dialogue is a near-duplicate (word 5-gram Jaccard
    similarity of 0.7 or more) of a `held_out` dialogue.
    """
    rng = random.Random(f"mixture-{seed}")
    pairs = []
    for _ in range(n):
        if rng.random() < bare_share:
            pairs.append(_next_turn(rng, held_out))
        else:
            k = rng.choices(list(shots), list(shots.values()))[0]
            pairs.append(_summary_with_examples(rng, k, held_out))
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
