"""Measure the small world, and write its model card, utils/offline/README.md.

python -m tools.small_world.card                      # measure on the test split, write the card
python -m tools.small_world.card --split validation   # measure and print, for making choices
"""

import argparse
import json
import tempfile
from typing import Any

import pandas as pd
from datasets import DatasetDict

from tools.small_world import generator as corpus
from tools.small_world.build import BATCH, SEED, STAGES
from utils.data import group_references, load_dialogsum
from utils.finetuning import fine_tune, finetune_arguments
from utils.generation import generate
from utils.models import load_model, parameter_counts
from utils.prompts import TEMPLATES, build_prompts, random_examples
from utils.results import interval_table, judge, judge_model, percent
from utils.rouge import compare, human_agreement, lead
from utils.settings import OFFLINE, Settings, load_settings
from utils.toxicity import HateScorer, dialogue_heat

MANIFEST = OFFLINE / "manifest.json"
PAIRS = (
    ("one_shot", "zero_shot"),
    ("few_shot", "zero_shot"),
    ("few_shot", "one_shot"),
    ("full", "zero_shot"),
)


def prompting_scores(
    dataset: DatasetDict, split: str, settings: Settings
) -> dict[str, pd.DataFrame]:
    """Score zero-, one- and few-shot prompts, lead-2, and any human summaries."""
    model, tokenizer = load_model(settings.model)
    rows, train = group_references(dataset[split]), dataset["train"]
    dialogues, summaries = list(rows["dialogue"]), list(rows["summaries"])
    drawn = random_examples(
        train["dialogue"], train["summary"], settings.few_shot, len(rows), settings.seed
    )
    scores = {"lead": judge([lead(dialogue, 2) for dialogue in dialogues], summaries)}
    for name, shots in (("zero_shot", 0), ("one_shot", 1), ("few_shot", settings.few_shot)):
        shown = [examples[:shots] for examples in drawn]
        prompts = build_prompts(
            dialogues, shown, TEMPLATES["plain"], tokenizer, settings.max_prompt_tokens
        )
        answers = generate(model, tokenizer, prompts, max_new_tokens=settings.max_new_tokens)
        scores[name] = judge(answers, summaries)
    if min(map(len, summaries)) > 1:
        scores["human"] = human_agreement(summaries)
    return scores


def fine_tuned(
    dataset: DatasetDict, split: str, method: str, settings: Settings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the summaries of a fine-tuned model, and the toxicity of those of heated dialogues."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_model(settings.model)
        result = fine_tune(
            model,
            tokenizer,
            dataset["train"],
            dataset["validation"],
            output_dir=folder,
            **finetune_arguments(settings, method),
        )
    rows, scorer = group_references(dataset[split]), HateScorer(settings.reward_model)
    scores = judge_model(result.model, tokenizer, rows, settings, scorer)
    heated = dialogue_heat(scorer, rows["dialogue"]) >= 0.5
    return scores, scores.loc[heated, ["toxicity"]]


def classifier_f1(settings: Settings, n: int = 2000) -> float:
    """Return the F1 of "hate" on texts whose pairs of insulting words the classifier never saw."""
    texts, labels = zip(*corpus.labeled_texts(n, SEED, held_out=True), strict=True)
    predicted = HateScorer(settings.reward_model).probability(list(texts)) >= 0.5
    hits = sum(p and label for p, label in zip(predicted, labels, strict=True))
    return 2 * hits / (predicted.sum() + sum(labels))


def measure(split: str, settings: Settings) -> dict[str, Any]:
    """Measure what the card shows: scores, paired differences, and the classifier's F1."""
    dataset = load_dialogsum(settings.dataset)
    scores = prompting_scores(dataset, split, settings)
    toxicity = {}
    for method in ("full", "lora"):
        scores[method], toxicity[method] = fine_tuned(dataset, split, method, settings)
    rouge1 = {name: table[["rouge1"]] for name, table in scores.items()}
    differences = {f"{a} − {b}": compare(rouge1[a], rouge1[b]).loc["rouge1"] for a, b in PAIRS}
    return {
        "rouge1": interval_table(rouge1).xs("rouge1", level="measure"),
        "differences": pd.DataFrame(differences).T,
        "toxicity": interval_table(toxicity).xs("toxicity", level="measure"),
        "classifier_f1": classifier_f1(settings),
    }


CARD = """\
# The small world: dialogues, a small T5 and a small classifier

These files ship with the labs, so that everything runs without downloads, on two CPU cores.
`python -m tools.small_world.build` generated them from scratch (seed {seed}), and
`python -m tools.small_world.card` wrote this card. **The scores below are those of these small
models. They are not FLAN-T5's.**

| part | content | parameters | build time, two cores |
|---|---|---|---|
| `data/` | everyday dialogues in DialogSum's format; {rows} | – | seconds |
| `t5/` | T5, {t5_shape}, vocabulary of {vocabulary} words | {t5_parameters:,} | {t5_seconds} s |
| `classifier/` | RoBERTa, {shape}, labels nothate/hate | {parameters:,} | {seconds} s |

## Training

The T5 was trained from scratch on {pairs:,} generated pairs of prompt and answer ({stages}). The
mixture is described in `tools/small_world/mixture.py`: three styles of summary, prompts with 0 to 3
worked examples, dialogues without an instruction, and polite requests. None of its dialogues is a
near-duplicate of a validation or test dialogue (word 5-gram Jaccard similarity of 0.7 or more).

The classifier was trained to tell insults to people from harmless uses of the same words. One pair
of insulting words in five was reserved for its test.

The settings of the T5, of fine-tuning and of PPO were chosen on the validation split. There is one
exception: the classifier's training texts were extended once after we counted, on all three splits,
the dialogues that it called heated. `manifest.json` holds the library versions and the SHA-256 of
every file.

## Scores on the test split

ROUGE-1 F1 in points, with stemming, averaged over the references, with 95% bootstrap intervals over
dialogues:

{rouge1}

Paired differences, with 95% intervals and the p-values of the randomization test:

{differences}

Mean p(hate) of the fine-tuned models' summaries of heated dialogues, the starting point of Lab 3:

{toxicity}

F1 of the classifier on 2,000 texts with unseen pairs of insulting words: {classifier_f1:.3f}.

## Limitations

The dialogues come from templates with {scenarios} kinds of request. The T5 knows nothing else and
cannot summarize other text. The classifier knows {insults} insults, and its low score says nothing
about other text. License: Apache-2.0.
"""


def store_scores(measured: dict[str, Any]) -> None:
    """Write the result of `measure` into manifest.json."""
    tables = {
        name: {
            row: {column: round(float(value), 6) for column, value in values.items()}
            for row, values in measured[name].to_dict("index").items()
        }
        for name in ("rouge1", "differences", "toxicity")
    }
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    manifest["scores"] = tables | {"classifier_f1": measured["classifier_f1"]}
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def write_card(settings: Settings) -> None:
    """Write README.md from the files and from the scores in manifest.json."""
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    scores, seconds = manifest["scores"], manifest["seconds"]
    tables = {
        name: pd.DataFrame.from_dict(scores[name], orient="index")
        for name in ("rouge1", "differences", "toxicity")
    }
    t5, tokenizer = load_model(settings.model)
    classifier = HateScorer(settings.reward_model).model
    small, wide = t5.config, classifier.config
    rows = [f"{len(rows)} {name}" for name, rows in load_dialogsum(settings.dataset).items()]
    card = CARD.format(
        seed=SEED,
        rows=", ".join(rows) + " rows",
        t5_shape=f"d_model {small.d_model}, {small.num_layers} + {small.num_decoder_layers} layers",
        vocabulary=len(tokenizer),
        t5_parameters=int(parameter_counts(t5)["total"]),
        t5_seconds=seconds["t5"],
        shape=f"hidden size {wide.hidden_size}, {wide.num_hidden_layers} layers",
        parameters=int(parameter_counts(classifier)["total"]),
        seconds=seconds["classifier"],
        pairs=BATCH * sum(stage[0] for stage in STAGES),
        stages=" + ".join(f"{stage[0]} steps" for stage in STAGES) + f" of {BATCH}",
        scenarios=len(corpus.tables.SCENARIOS),
        insults=len(corpus.tables.INSULT_ADJECTIVES) * len(corpus.tables.INSULT_NOUNS),
        rouge1=_markdown(percent(tables["rouge1"])),
        differences=_markdown(percent(tables["differences"]).round(4)),
        toxicity=_markdown(tables["toxicity"].round(3)),
        classifier_f1=scores["classifier_f1"],
    )
    (OFFLINE / "README.md").write_text(card, encoding="utf-8")


def _markdown(table: pd.DataFrame) -> str:
    rows = [["", *map(str, table.columns)], ["---"] * (1 + len(table.columns))]
    rows += [
        [str(name), *(f"{value:g}" for value in row)]
        for name, row in zip(table.index, table.values, strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Measure on a split, and write the card if it is the test split."""
    parser = argparse.ArgumentParser(description="Measure the small world and write its card.")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    split, settings = parser.parse_args().split, load_settings("offline")
    measured = measure(split, settings)
    for name, value in measured.items():
        print(f"\n{name}\n{value}")
    if split == "test":
        store_scores(measured)
        write_card(settings)
        print(f"\nwrote {OFFLINE / 'README.md'}")


if __name__ == "__main__":
    main()
