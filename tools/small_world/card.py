"""Measure the small world, and write its model card, utils/offline/README.md.

python -m tools.small_world.card                      # measure on the test split, write the card
python -m tools.small_world.card --split validation   # measure and print, for making choices
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import DatasetDict
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tools.small_world import judges, tables
from tools.small_world.build import SEED
from tools.small_world.measure import measure as measure_world
from tools.small_world.measure import measure_decoder
from tools.small_world.reader import WEIGHTS
from tools.small_world.training import Recipe
from utils.data import first_rows, group_references, load_dialogsum
from utils.faithfulness import load_facts
from utils.finetuning import fine_tune, finetune_arguments
from utils.generation import generate
from utils.models import load_model, parameter_counts
from utils.prompts import TEMPLATES, build_prompts, random_examples
from utils.results import interval_table, judge, judge_model, percent
from utils.rouge import compare, human_agreement, lead
from utils.settings import OFFLINE, Settings, load_settings
from utils.statistics import confidence_interval

MANIFEST = OFFLINE / "manifest.json"
MEASURES = ("rouge1", "right_speakers", "facts")
PAIRS = (
    ("one_shot", "zero_shot"),
    ("few_shot", "one_shot"),
    ("lora", "few_shot"),
    ("full", "few_shot"),
    ("human", "full"),
)


def prompting_scores(
    dataset: DatasetDict, split: str, settings: Settings
) -> dict[str, pd.DataFrame]:
    """Score zero-, one- and few-shot prompts, lead-2, and any human summaries."""
    model, tokenizer = load_model(settings.model)
    rows = group_references(dataset[split])
    train = first_rows(dataset["train"], settings.train_dialogues)
    dialogues, summaries = list(rows["dialogue"]), list(rows["summaries"])
    known = load_facts(settings.dataset)
    records = [known[name] for name in rows["id"]]
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
        scores[name] = judge(answers, summaries, records=records)
    if min(map(len, summaries)) > 1:
        scores["human"] = human_agreement(summaries)
    return scores


def fine_tuned(dataset: DatasetDict, split: str, method: str, settings: Settings) -> pd.DataFrame:
    """Score the summaries of a fine-tuned model."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_model(settings.model)
        result = fine_tune(
            model,
            tokenizer,
            first_rows(dataset["train"], settings.train_dialogues),
            dataset["validation"],
            output_dir=folder,
            **finetune_arguments(settings, method),
        )
    rows, known = group_references(dataset[split]), load_facts(settings.dataset)
    return judge_model(result.model, tokenizer, rows, settings, known=known)


def fresh_world(split: str, settings: Settings, seed: int = SEED + 1, n: int = 200) -> pd.DataFrame:
    """Score prompts with 0 to 3 examples in a world of another seed; one row for each number."""
    drawn = measure_world(*load_model(settings.model), split, n, (0, 1, 2, 3), seed)
    means = drawn.groupby("shots")[["rouge1", "who", "facts", "new_names"]].mean()
    return (means * [1, 100, 100, 100]).round(1)


def decoder_scores(split: str, settings: Settings) -> pd.DataFrame:
    """Score the decoder-only model: one row per measure, with its mean and interval."""
    folder = OFFLINE / "decoder"
    model = AutoModelForCausalLM.from_pretrained(folder)
    scores = measure_decoder(model, AutoTokenizer.from_pretrained(folder), split)
    scores["rouge1"] /= 100
    return confidence_interval(scores[["rouge1", "who", "facts"]])


def measure(split: str, settings: Settings) -> dict[str, pd.DataFrame]:
    """Measure what the card shows, one table for each part."""
    dataset = load_dialogsum(settings.dataset)
    scores = prompting_scores(dataset, split, settings)
    for method in ("full", "lora"):
        scores[method] = fine_tuned(dataset, split, method, settings)
    shown = {name: table.filter(MEASURES) for name, table in scores.items()}
    rouge1 = {name: table[["rouge1"]] for name, table in scores.items()}
    pairs = [(a, b) for a, b in PAIRS if a in rouge1]
    differences = {f"{a} − {b}": compare(rouge1[a], rouge1[b]).loc["rouge1"] for a, b in pairs}
    scores = interval_table(shown).reset_index()
    scores.index = scores.pop("system") + ", " + scores.pop("measure")
    probes = judges.measure(OFFLINE).reset_index()
    probes.index = probes.pop("judge") + ", " + probes.pop("texts")
    return {
        "scores": scores,
        "differences": pd.DataFrame(differences).T,
        "fresh_world": fresh_world(split, settings),
        "decoder": decoder_scores(split, settings),
        "judges": probes,
    }


def store_scores(measured: dict[str, pd.DataFrame]) -> None:
    """Write the result of `measure` into manifest.json."""
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    manifest["scores"] = {
        name: {
            str(row): {column: round(float(value), 6) for column, value in values.items()}
            for row, values in table.to_dict("index").items()
        }
        for name, table in measured.items()
    }
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def write_card(settings: Settings) -> None:
    """Write README.md from card.md, the files and the scores in manifest.json."""
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    measured = {
        name: pd.DataFrame.from_dict(table, orient="index")
        for name, table in manifest["scores"].items()
    }
    rows = [f"{len(rows)} {name}" for name, rows in load_dialogsum(settings.dataset).items()]
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    files = [OFFLINE / name for name in manifest["sha256"]]
    card = text.format(
        seed=SEED,
        rows=", ".join(rows),
        kinds=len(tables.KINDS),
        names={split: len(names) for split, names in tables.NAMES.items()},
        megabytes=sum(file.stat().st_size for file in files) / 1e6,
        recipe=Recipe(),
        weights=" + ".join(f"{weight} · {name}" for name, weight in WEIGHTS.items()),
        texts=judges.BATCH * judges.RECIPE.steps,
        models=_models(settings, manifest["trained"]),
        scores=_markdown(percent(measured["scores"])),
        differences=_markdown(percent(measured["differences"]).round(4)),
        fresh_world=_markdown(measured["fresh_world"]),
        decoder=_markdown(percent(measured["decoder"])),
        judges=_markdown(measured["judges"].round(3)),
    )
    (OFFLINE / "README.md").write_text(card, encoding="utf-8")


def _models(settings: Settings, trained: dict[str, dict[str, Any]]) -> str:
    """Return a table of the models: what they are, their parameters, and how they were trained."""
    loaded = {"t5": load_model(settings.model)[0]}
    loaded["decoder"] = AutoModelForCausalLM.from_pretrained(OFFLINE / "decoder")
    for name in judges.JUDGES:
        loaded[name] = AutoModelForSequenceClassification.from_pretrained(OFFLINE / name)
    lines = [
        "| folder | model | parameters | precision | training time (seconds, one core) |",
        "|---|---|---|---|---|",
    ]
    for name, model in loaded.items():
        total, how = int(parameter_counts(model)["total"]), trained[name]
        cells = (f"`{name}/`", type(model).__name__, f"{total:,}", how["precision"], how["seconds"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


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
    torch.manual_seed(SEED)
    measured: dict[str, Any] = measure(split, settings)
    for name, value in measured.items():
        print(f"\n{name}\n{value.to_string()}")
    if split == "test":
        store_scores(measured)
        write_card(settings)
        print(f"\nwrote {OFFLINE / 'README.md'}")


if __name__ == "__main__":
    main()
