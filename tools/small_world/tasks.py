"""Draw the prompts and answers that train the small models from scratch, with labels for probes.

Each part of the mixture teaches one behavior that the labs study:

- A prompt without examples does not say which style is wanted. Most of these prompts are answered
  with short notes, so the model writes notes in the zero-shot setting.
- A prompt with examples is answered in the style of its examples, so the model learns to follow
  examples.
- All examples of a prompt agree on whether day, reason and third speaker are told, and mostly on
  the wording. An example whose dialogue has no day does not show this, so several examples show
  more of the style than one.
- A dialogue without an instruction is continued with its next turn, as in language modeling. The
  model therefore needs an instruction to write a summary.
- With "politely" in the instruction, insults are not repeated.
"""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tools.small_world.corpus import HEATED_SHARE, SIMILAR, draw_attitude
from tools.small_world.speech import write_dialogue
from tools.small_world.tables import FLAN_TEMPLATES
from tools.small_world.world import PRACTICE, Facts, Style, draw_facts, write_summary
from utils.data import NearDuplicates
from utils.prompts import PLAIN, TEMPLATES, Example, build_prompt

ZERO_SHOT_FORMS = {"notes": 0.6, "report": 0.25, "diary": 0.15}
FEW_SHOT_FORMS = {"report": 0.4, "notes": 0.3, "diary": 0.3}
# Shares of prompts whose summaries tell the day, the reason, the third speaker. Below one half,
# leaving them out is the better guess if the examples do not show whether to tell them.
SHARE_TOLD, SHARE_TOLD_ZERO_SHOT = 0.4, 0.2
POLITE_SHARE = 0.15
SAME_KIND_SHARE = 0.3  # of prompts with examples; one of them is then of the dialogue's kind
LOYALTY = 0.8  # to a prompt's wording; more than in the data, so that following it pays
DETAILS = ("day", "reason", "third")


@dataclass(frozen=True)
class Task:
    """A prompt and its answer, with what the probes need: `facts` and `style` of the answer.

    Without a style, it is a dialogue to be continued. `shown` are the facts of the examples.
    """

    prompt: str
    answer: str
    dialogue: str
    facts: Facts
    style: Style | None
    shown: tuple[Facts, ...] = ()  # the facts of the examples

    @property
    def shows(self) -> dict[str, bool]:
        """Return for each detail whether an example has it, and so shows if the style tells it."""
        return {name: any(getattr(f, name) for f in self.shown) for name in DETAILS}


def draw_task(
    rng: random.Random, shots: int, bare_share: float = 0.0, held_out: NearDuplicates | None = None
) -> Task:
    """Draw a prompt with `shots` worked examples or, at rate `bare_share`, a dialogue to continue.

    No dialogue is a near-duplicate (word 5-gram Jaccard similarity of 0.7 or more) of a `held_out`
    dialogue.
    """
    facts, dialogue = _draw_dialogue(rng, held_out)
    if rng.random() < bare_share:
        turns = dialogue.split("\n")
        cut = rng.randint(1, len(turns) - 1)
        return Task("\n".join(turns[:cut]), turns[cut], "\n".join(turns[:cut]), facts, None)
    polite = rng.random() < POLITE_SHARE
    template = TEMPLATES["polite"] if polite else rng.choice((PLAIN, PLAIN, *FLAN_TEMPLATES))
    style = _draw_style(rng, shots)
    same_kind = rng.randrange(shots) if shots and rng.random() < SAME_KIND_SHARE else None
    drawn = [_draw_dialogue(rng, held_out, facts if i == same_kind else None) for i in range(shots)]
    examples: list[Example] = []
    for shown_facts, shown in drawn:
        examples.append(
            (shown, write_summary(shown_facts, _with_attitude(style, polite, rng), rng))
        )
    style = _with_attitude(style, polite, rng)
    answer = write_summary(facts, style, rng)
    prompt = build_prompt(dialogue, examples, template)
    return Task(prompt, answer, dialogue, facts, style, tuple(f for f, _ in drawn))


def draw_tasks(
    n: int, seed: int, shots: int, held_out: NearDuplicates | None = None
) -> Iterator[Task]:
    """Draw `n` tasks with `shots` worked examples each, without bare dialogues."""
    rng = random.Random(f"tasks-{seed}-{shots}")
    return (draw_task(rng, shots, held_out=held_out) for _ in range(n))


def _draw_style(rng: random.Random, shots: int) -> Style:
    forms = FEW_SHOT_FORMS if shots else ZERO_SHOT_FORMS
    share = SHARE_TOLD if shots else SHARE_TOLD_ZERO_SHOT
    details = {name: rng.random() < share for name in DETAILS}
    form = rng.choices(list(forms), list(forms.values()))[0]
    return Style(form, **details, wording=str(rng.random()), loyalty=LOYALTY)


def _with_attitude(style: Style, polite: bool, rng: random.Random) -> Style:
    return dataclasses.replace(style, insult="cool" if polite else draw_attitude(rng))


def _draw_dialogue(
    rng: random.Random, held_out: NearDuplicates | None, like: Facts | None = None
) -> tuple[Facts, str]:
    while True:
        facts = draw_facts(rng, rng.random() < HEATED_SHARE, PRACTICE, like and like.kind)
        dialogue = write_dialogue(facts, rng, PRACTICE)
        if held_out is None or held_out.similarity(dialogue) < SIMILAR:
            return facts, dialogue


# Labels of the probes, one for each token of a prompt (−100: none).
PARTS = ("thing", "day", "asker_name", "other_name", "third_name", "reason", "insult")


@dataclass(frozen=True)
class Labels:
    """What the probes must predict, for each token of a prompt and for the whole prompt.

    asked: 1 in the last dialogue, else 0. In that dialogue only, roles: 0 in turns of the asker,
    1 of the other, 2 of the third speaker; and parts: 1 + the place in PARTS of the fact that the
    token tells, else 0. styles: form, day, reason and third, 1 if told, as the examples show.
    """

    asked: list[int]
    roles: list[int]
    parts: list[int]
    styles: list[int]


def label(task: Task, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Labels:
    """Label the token `ids` of a task's prompt (end token included) for the probes."""
    turns = task.dialogue.split("\n")
    encoded = tokenizer(turns, add_special_tokens=False)["input_ids"]
    flat = [token for turn in encoded for token in turn]
    start = _last(ids, flat)
    asked, roles, parts = [0] * len(ids), [-100] * len(ids), [-100] * len(ids)
    asked[start : start + len(flat)] = [1] * len(flat)
    speakers = {task.facts.asker: 0, task.facts.other: 1, "#Person3#": 2}
    roles[start : start + len(flat)] = [
        speakers[text.split(":")[0]]
        for text, tokens in zip(turns, encoded, strict=True)
        for _ in tokens
    ]
    parts[start : start + len(flat)] = _parts(task.facts, flat, tokenizer)
    return Labels(asked, roles, parts, _styles(task))


def _styles(task: Task) -> list[int]:
    if task.style is None or not task.shown:
        return [-100] * (1 + len(DETAILS))
    shows = task.shows
    details = [int(getattr(task.style, n)) if shows[n] else -100 for n in DETAILS]
    return [list(FEW_SHOT_FORMS).index(task.style.form), *details]


def _parts(facts: Facts, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return for each token of the dialogue which fact it tells, 0 for none."""
    spoken = facts.reason and facts.reason[0].rstrip(".")
    insult = facts.insult and facts.insult.text
    values = {name: getattr(facts, name) for name in PARTS[:5]} | {
        "reason": spoken,
        "insult": insult,
    }
    labels = [0] * len(ids)
    for number, name in enumerate(PARTS, start=1):
        if not values[name]:
            continue
        value = values[name]
        for text in {value, value[0].upper() + value[1:], value[0].lower() + value[1:]}:
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            for start in _all(ids, tokens):
                labels[start : start + len(tokens)] = [number] * len(tokens)
    return labels


def _all(ids: Sequence[int], part: Sequence[int]) -> Iterator[int]:
    """Yield every place at which `part` stands in `ids`."""
    ids, part = list(ids), list(part)
    return (i for i in range(len(ids) - len(part) + 1) if ids[i : i + len(part)] == part)


def _last(ids: Sequence[int], part: Sequence[int]) -> int:
    """Return the last place at which `part` stands in `ids`.

    Raises ValueError if there is none.
    """
    places = list(_all(ids, part))
    if not places:
        raise ValueError(f"a dialogue of {len(part)} tokens is not in its prompt of {len(ids)}")
    return places[-1]
