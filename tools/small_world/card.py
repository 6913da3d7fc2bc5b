"""Measure the embedded default, and write its model card, utils/offline/README.md.

python -m tools.small_world.card                      # measures on the test split and writes the card
python -m tools.small_world.card --split validation   # measures and prints only: what choices are made on
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import DatasetDict

from tools.small_world import generator as corpus
from tools.small_world.build import BATCH, SEED, STAGES
from utils.data import group_references, load_dialogsum
from utils.finetuning import fine_tune, lora_config
from utils.generation import generate
from utils.models import load_model, parameter_counts
from utils.prompts import TEMPLATES, build_prompt, build_prompts, random_examples
from utils.results import interval_table, percent
from utils.rouge import compare, human_agreement, lead, rouge_scores
from utils.settings import OFFLINE, Settings, load_settings
from utils.toxicity import HateScorer, dialogue_heat

PAIRS = (
    ("one_shot", "zero_shot"),
    ("few_shot", "zero_shot"),
    ("few_shot", "one_shot"),
    ("full", "zero_shot"),
)


def prompting_scores(
    dataset: DatasetDict, split: str, settings: Settings
) -> dict[str, pd.DataFrame]:
    """ROUGE of zero-, one- and few-shot prompts, of lead-2 and, given several references, of the annotators."""
    model, tokenizer = load_model(settings.model)
    rows, train = group_references(dataset[split]), dataset["train"]
    dialogues, summaries = list(rows["dialogue"]), list(rows["summaries"])
    drawn = random_examples(
        train["dialogue"], train["summary"], settings.few_shot, len(rows), settings.seed
    )
    scores = {"lead": rouge_scores([lead(d, 2) for d in dialogues], summaries)}
    for name, shots in (("zero_shot", 0), ("one_shot", 1), ("few_shot", settings.few_shot)):
        shown = [examples[:shots] for examples in drawn]
        prompts = build_prompts(
            dialogues, shown, TEMPLATES["plain"], tokenizer, settings.max_prompt_tokens
        )
        answers = generate(model, tokenizer, prompts, max_new_tokens=settings.max_new_tokens)
        scores[name] = rouge_scores(answers, summaries)
    if min(map(len, summaries)) > 1:
        scores["human"] = human_agreement(summaries)
    return scores


def fine_tuned(
    dataset: DatasetDict, split: str, method: str, settings: Settings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """ROUGE of the fine-tuned model, and p(hate) of its summaries of dialogues that hold an insult."""
    model, tokenizer = load_model(settings.model)
    epochs, rate = (getattr(settings, f"{method}_{name}") for name in ("epochs", "learning_rate"))
    with tempfile.TemporaryDirectory() as folder:
        result = fine_tune(
            model,
            tokenizer,
            dataset["train"],
            dataset["validation"],
            method,
            folder,
            peft_config=lora_config(settings.lora_rank) if method == "lora" else None,
            num_train_epochs=epochs,
            learning_rate=rate,
            per_device_train_batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            precision=settings.precision,
            seed=settings.seed,
        )
    rows = group_references(dataset[split])
    prompts = [build_prompt(dialogue) for dialogue in rows["dialogue"]]
    answers = generate(result.model, tokenizer, prompts, max_new_tokens=settings.max_new_tokens)
    scorer = HateScorer(settings.reward_model)
    heated = dialogue_heat(scorer, rows["dialogue"]) >= 0.5
    toxicity = pd.DataFrame({"toxicity": scorer.probability(answers)[heated]})
    return rouge_scores(answers, list(rows["summaries"])), toxicity


def classifier_f1(settings: Settings, n: int = 2000) -> float:
    """F1 of "hate" on texts whose pairs of insulting words the classifier has never seen."""
    texts, labels = zip(*corpus.labeled_texts(n, SEED, held_out=True), strict=True)
    predicted = HateScorer(settings.reward_model).probability(list(texts)) >= 0.5
    hits = sum(p and label for p, label in zip(predicted, labels, strict=True))
    return 2 * hits / (predicted.sum() + sum(labels))


def measure(split: str, settings: Settings) -> dict[str, Any]:
    """All that the card tells: a table of scores, paired differences, and the classifier's F1."""
    dataset = load_dialogsum(settings.dataset)
    scores = prompting_scores(dataset, split, settings)
    toxicity = {}
    for method in ("full", "lora"):
        scores[method], toxicity[method] = fine_tuned(dataset, split, method, settings)
    differences = {f"{a} − {b}": compare(scores[a], scores[b]).loc["rouge1"] for a, b in PAIRS}
    return {
        "rouge1": interval_table(scores).xs("rouge1", level="measure"),
        "differences": pd.DataFrame(differences).T,
        "toxicity": interval_table(toxicity).xs("toxicity", level="measure"),
        "classifier_f1": classifier_f1(settings),
    }


CARD = """\
# The embedded default: a small T5, a small classifier and a corpus

Made from nothing by `python -m tools.small_world.build` (seed {seed}); this card by `python -m tools.small_world.card`.
Small enough to ship and to train on two cores. **Its numbers are its own, never FLAN-T5's.**

| part | what it is | parameters | time to build, two cores |
|---|---|---|---|
| `data/` | generated everyday dialogues in DialogSum's layout; {rows} | – | seconds |
| `t5/` | T5, {t5_shape}, word-level vocabulary of {vocabulary} | {t5_parameters:,} | {t5_seconds} s |
| `classifier/` | RoBERTa, {roberta_shape}, labels nothate/hate | {classifier_parameters:,} | {classifier_seconds} s |

## How it was trained

The T5 learned from scratch, on {pairs:,} generated pairs of prompt and answer ({stages}), a mixture described in
`mixture.py`: three styles of summary, prompts with 0 to 3 worked examples, bare dialogues, polite requests. Its
dialogues are no near-duplicates (word 5-gram Jaccard ≥ 0.7) of validation or test. The classifier learned to tell
insults to people from harmless uses of the same words; one pair of insulting words in five was kept for its test.
The T5, fine-tuning and PPO settings were chosen on the validation split. The classifier's training texts were widened
once after counting, on all three splits, the dialogues it called heated.
Versions and SHA-256 of every file: `manifest.json`.

## Measured on the test split

ROUGE-1, F1 in points, stemmed, mean of the references, with 95 % bootstrap intervals over dialogues:

{rouge1}

Paired differences, with 95 % intervals and the randomization test's p:

{differences}

Mean p(hate) of the fine-tuned models' summaries of heated dialogues (they have something to detoxify):

{toxicity}

F1 of the classifier on 2,000 texts with unseen pairs of insulting words: {classifier_f1:.3f}.

## What it is not

The dialogues are templates with {scenarios} kinds of request. The model knows nothing else, and cannot summarize text
from outside. The classifier knows {insults} insults; its low score says nothing about other text. License: Apache-2.0.
"""


def write_card(measured: dict[str, Any], settings: Settings) -> None:
    """Write README.md, and the scores into manifest.json, from what `measure` returned."""
    manifest = json.loads((OFFLINE / "manifest.json").read_text(encoding="utf-8"))
    dataset = load_dialogsum(settings.dataset)
    t5, tokenizer = load_model(settings.model)
    classifier = HateScorer(settings.reward_model).model
    card = CARD.format(
        seed=SEED,
        rows=", ".join(f"{len(rows)} {name}" for name, rows in dataset.items()) + " rows",
        t5_shape=f"d_model {t5.config.d_model}, {t5.config.num_layers} + {t5.config.num_decoder_layers} layers",
        vocabulary=len(tokenizer),
        t5_parameters=int(parameter_counts(t5)["total"]),
        t5_seconds=manifest["seconds"]["t5"],
        roberta_shape=f"{classifier.config.hidden_size} wide, {classifier.config.num_hidden_layers} layers",
        classifier_parameters=int(parameter_counts(classifier)["total"]),
        classifier_seconds=manifest["seconds"]["classifier"],
        pairs=BATCH * sum(stage[0] for stage in STAGES),
        stages=" + ".join(f"{stage[0]} steps" for stage in STAGES) + f" of {BATCH}",
        scenarios=len(corpus.tables.SCENARIOS),
        insults=len(corpus.tables.INSULT_ADJECTIVES) * len(corpus.tables.INSULT_NOUNS),
        rouge1=_markdown(percent(measured["rouge1"])),
        differences=_markdown(percent(measured["differences"]).round(4)),
        toxicity=_markdown(measured["toxicity"].round(3)),
        classifier_f1=measured["classifier_f1"],
    )
    (OFFLINE / "README.md").write_text(card, encoding="utf-8")
    manifest["scores"] = {
        name: {
            key: {k: round(float(v), 6) for k, v in row.items()}
            for key, row in measured[name].T.items()
        }
        for name in ("rouge1", "differences", "toxicity")
    } | {"classifier_f1": measured["classifier_f1"]}
    (OFFLINE / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _markdown(table: pd.DataFrame) -> str:
    rows = [["", *map(str, table.columns)], ["---"] * (1 + len(table.columns))]
    rows += [
        [str(name), *(f"{value:g}" for value in row)]
        for name, row in zip(table.index, table.values, strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measure on a split; on test, write the card."""
    parser = argparse.ArgumentParser(description="Measure the embedded default and write its card.")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    split = parser.parse_args().split
    settings = load_settings("offline")
    measured = measure(split, settings)
    for name, value in measured.items():
        print(f"\n{name}\n{value}")
    if split == "test":
        write_card(measured, settings)
        print(f"\nwritten: {Path(OFFLINE / 'README.md').name}")


if __name__ == "__main__":
    main()
